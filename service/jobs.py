"""Jobs: submit one or many, clone, find, page."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service import counts, events, ids, moves, origins, recipes
from service.counts import Counts
from service.datasets import find as find_dataset
from service.errors import (
    CannotFit,
    Fault,
    IdempotencyMismatch,
    InvalidInput,
    NotFound,
)
from service.events import EventKind
from service.pools import Pool, capacity
from service.recipes import Recipe
from service.spec import Condition, Dependency, JobSpec, Resources, parse
from service.states import FINAL_STATES, JobState
from service.tables import CheckpointRow, ClusterRow, DependencyRow, JobRow, TagRow


@dataclass(frozen=True)
class Submitted:
    """`is_replay`: the idempotency key had made this job before."""

    job: JobRow
    is_replay: bool


def submit(
    session: Session,
    spec: JobSpec,
    *,
    user: str,
    now: datetime,
    idempotency_key: str | None = None,
) -> Submitted:
    """Saves the job; with a key that was used before, finds the one it made.

    CannotFit where the cluster can never hold the job, IdempotencyMismatch for a key that
    made a job from another spec, InvalidInput for a job in `after` that is not there.
    """
    if idempotency_key is not None:
        earlier = _made_with(session, idempotency_key, _digest(spec))
        if earlier is not None:
            return Submitted(job=earlier, is_replay=True)
    return _save(session, spec, user=user, now=now, idempotency_key=idempotency_key)


def submit_batch(
    session: Session,
    specs: Sequence[JobSpec],
    *,
    user: str,
    now: datetime,
    idempotency_key: str | None = None,
) -> list[Submitted]:
    """All of them or, with any error, none. `#N` in `after` is the batch's job number N.

    Each job's key is the batch's with its number, so a repeated batch finds all its jobs.
    """
    made: list[Submitted] = []
    for number, spec in enumerate(specs):
        key = None if idempotency_key is None else f"{idempotency_key} #{number}"
        try:
            whole = _with_ids(spec, [one.job.id for one in made])
            # Each a microsecond younger: ids sort by time, and the batch keeps its order.
            at = now + timedelta(microseconds=number)
            made.append(submit(session, whole, user=user, now=at, idempotency_key=key))
        except InvalidInput as error:
            faults = tuple(
                Fault(pointer=f"/jobs/{number}{fault.pointer}", message=fault.message)
                for fault in error.faults
            )
            raise type(error)(f"job {number} of the batch: {error}", faults=faults) from error
    return made


def clone(
    session: Session,
    job_id: str,
    changes: dict[str, Any],
    *,
    user: str,
    now: datetime,
    idempotency_key: str | None = None,
) -> Submitted:
    """A new job from the spec of another, `changes` merged into it. InvalidInput, NotFound.

    A name that was not chosen, and what the job waited for, are not taken along.
    """
    original = spec_of(find(session, job_id))
    written = original.model_dump(mode="json", exclude={"after", "hold", "recipe"})
    written["recipe"] = _recipe_as_written(original)
    if original.name == f"{original.network} on {original.dataset}":
        del written["name"]
    if {"dataset", "depth"} & changes.keys():
        del written["family"]
    spec = parse(_merged(written, changes))
    return submit(session, spec, user=user, now=now, idempotency_key=idempotency_key)


def _recipe_as_written(spec: JobSpec) -> dict[str, Any]:
    """Its name and what differs from it: the rest is filled in anew for another network."""
    whole = spec.recipe.model_dump(mode="json")
    short = {"name": whole["name"], "iterations": whole["iterations"]}
    base = recipes.resolve(short, family=spec.family, depth=spec.depth)
    plain = Recipe.model_validate(base).model_dump(mode="json")
    return short | {name: value for name, value in whole.items() if value != plain[name]}


def _merged(written: Any, changes: Any) -> Any:
    """As JSON Merge Patch (RFC 7396), without its removal of what is null."""
    if not isinstance(written, dict) or not isinstance(changes, dict):
        return changes
    return written | {name: _merged(written.get(name), value) for name, value in changes.items()}


def _with_ids(spec: JobSpec, batch: Sequence[str]) -> JobSpec:
    after = []
    for at, dependency in enumerate(spec.after):
        number = dependency.place_in_batch
        if number is None:
            after.append(dependency)
        elif number < len(batch):
            after.append(Dependency(job=batch[number], condition=dependency.condition))
        else:
            message = f"{dependency.job} does not stand before this job in a batch"
            fault = Fault(pointer=f"/after/{at}/job", message=message)
            raise InvalidInput("the job's spec is not valid", faults=(fault,))
    return spec.model_copy(update={"after": tuple(after)})


def check(session: Session, spec: JobSpec) -> tuple[list[JobRow], CheckpointRow | None]:
    """The jobs of `after`, locked, and the checkpoint to start from; raises what `submit` would."""
    _refuse_what_never_fits(session, spec)
    source = origins.resolve(session, spec)
    return _needed_jobs(session, _with_ids(spec, ())), source


def _digest(spec: JobSpec) -> str:
    return hashlib.sha256(spec.model_dump_json().encode()).hexdigest()


def _save(
    session: Session, spec: JobSpec, *, user: str, now: datetime, idempotency_key: str | None
) -> Submitted:
    needed, source = check(session, spec)
    saved = _with_source(spec, source)
    resources = spec.resources
    job = JobRow(
        id=ids.new_id(now),
        name=spec.name,
        dataset=spec.dataset,
        spec=saved.model_dump(mode="json"),
        state=_first_state(spec, needed),
        user=user,
        priority=spec.priority,
        place=moves.place(created_at=now, priority=spec.priority),
        preemptible=spec.preemptible,
        num_workers=resources.num_workers,
        cpus_per_worker=resources.cpus_per_worker,
        gpus_per_worker=resources.gpus_per_worker,
        shape=shape_of(spec),
        work=work_of(spec),
        iterations=spec.recipe.iterations,
        saved_iteration=0,
        source_checkpoint_id=source.id if source is not None else None,
        created_at=now,
        attempts=0,
        restarts=0,
        other_restarts=0,
        preemptions=0,
        events=0,
        log_lines=0,
        newest_metrics={},
        idempotency_key=idempotency_key,
        spec_sha256=_digest(spec),
    )
    if idempotency_key is None:
        _insert(session, job, spec, now=now)
        return Submitted(job=job, is_replay=False)
    try:
        with session.begin_nested():
            _insert(session, job, spec, now=now)
    except IntegrityError:
        # The same request came twice at one time, and the other one was first.
        first = _made_with(session, idempotency_key, _digest(spec))
        assert first is not None
        return Submitted(job=first, is_replay=True)
    return Submitted(job=job, is_replay=False)


def _insert(session: Session, job: JobRow, spec: JobSpec, *, now: datetime) -> None:
    session.add(job)
    # Nothing tells the session that the others refer to it.
    session.flush()
    session.add_all(TagRow(job_id=job.id, tag=tag) for tag in spec.tags)
    session.add_all(
        DependencyRow(job_id=job.id, needed_id=one.job, condition=one.condition)
        for one in spec.after
    )
    events.append(session, job, EventKind.SUBMITTED, {"network": spec.network}, now=now)
    session.flush()


def _with_source(spec: JobSpec, source: CheckpointRow | None) -> JobSpec:
    """The saved spec names the checkpoint by its id: what is best today may not be tomorrow."""
    if spec.start_from is None or source is None:
        return spec
    start = spec.start_from.model_copy(update={"checkpoint": source.id})
    return spec.model_copy(update={"start_from": start})


def _first_state(spec: JobSpec, needed: Sequence[JobRow]) -> JobState:
    if spec.hold:
        return JobState.HELD
    is_blocked = any(not job.state.is_final for job in needed)
    return JobState.BLOCKED if is_blocked else JobState.QUEUED


def _needed_jobs(session: Session, spec: JobSpec) -> list[JobRow]:
    """The jobs of `after`, locked: none of them ends before the new job is there to be told.

    InvalidInput for one that is not there, or that has ended otherwise than is needed.
    """
    found: list[JobRow] = []
    faults: list[Fault] = []
    for at, dependency in sorted(enumerate(spec.after), key=lambda entry: entry[1].job):
        pointer = f"/after/{at}/job"
        try:
            job = moves.lock(session, dependency.job)
        except NotFound as error:
            faults.append(Fault(pointer=pointer, message=str(error)))
            continue
        has_failed = job.state in FINAL_STATES and job.state is not JobState.SUCCEEDED
        if dependency.condition is Condition.OK and has_failed:
            message = f"job {job.id} has {job.state} already, it can never succeed"
            faults.append(Fault(pointer=pointer, message=message))
        found.append(job)
    if faults:
        raise InvalidInput("the job can never start", faults=tuple(faults))
    return found


def _made_with(session: Session, idempotency_key: str, spec_sha256: str) -> JobRow | None:
    earlier = session.scalar(select(JobRow).where(JobRow.idempotency_key == idempotency_key))
    if earlier is not None and earlier.spec_sha256 != spec_sha256:
        raise IdempotencyMismatch(
            f"the idempotency key {idempotency_key!r} made job {earlier.id} from another body"
        )
    return earlier


def spec_of(job: JobRow) -> JobSpec:
    return JobSpec.model_validate(job.spec)


def shape_of(spec: JobSpec) -> str:
    """Jobs of one shape take as long for an iteration, on the same machines."""
    resources = spec.resources
    gpus = "any" if resources.gpus_per_worker is None else f"{resources.gpus_per_worker:g}"
    return (
        f"{spec.family}/{spec.network}/{spec.dataset}/batch={spec.recipe.batch_size}"
        f"/workers={resources.num_workers}/cpus={resources.cpus_per_worker}/gpus={gpus}"
    )


def counts_of(spec: JobSpec) -> Counts | None:
    """What the spec's network weighs; None where only the folder's images can tell."""
    dataset = find_dataset(spec.dataset)
    assert dataset is not None, "validated"
    if dataset.classes is None or dataset.size is None:
        return None
    return counts.count(
        spec.architecture,
        classes=dataset.classes,
        height=dataset.size,
        width=dataset.size,
    )


def work_of(spec: JobSpec) -> float | None:
    """Multiply-adds of the forward pass in one iteration; None where only the images can tell."""
    weight = counts_of(spec)
    return None if weight is None else float(weight.multiply_adds * spec.recipe.batch_size)


def find(session: Session, job_id: str) -> JobRow:
    job = session.get(JobRow, job_id) if ids.is_id(job_id) else None
    if job is None:
        raise NotFound(f"no job {job_id!r}")
    return job


@dataclass(frozen=True)
class Page:
    """`next_id`: where the next page begins; None after the last."""

    jobs: list[JobRow]
    next_id: str | None


def page(
    session: Session,
    *,
    limit: int,
    before_id: str | None = None,
    states: Sequence[JobState] = (),
    dataset: str | None = None,
    tags: Sequence[str] = (),
    name: str | None = None,
    id_prefix: str | None = None,
) -> Page:
    """Jobs that match all that is given, newest first."""
    statement = select(JobRow).order_by(JobRow.id.desc()).limit(limit + 1)
    if before_id is not None:
        statement = statement.where(JobRow.id < before_id)
    if states:
        statement = statement.where(JobRow.state.in_(states))
    if dataset is not None:
        statement = statement.where(JobRow.dataset == dataset)
    if name is not None:
        statement = statement.where(JobRow.name.contains(name, autoescape=True))
    if id_prefix is not None:
        statement = statement.where(JobRow.id.startswith(id_prefix, autoescape=True))
    for tag in tags:
        has_tag = select(TagRow.job_id).where(TagRow.tag == tag)
        statement = statement.where(JobRow.id.in_(has_tag))
    found = list(session.scalars(statement))
    has_more = len(found) > limit
    return Page(jobs=found[:limit], next_id=found[limit - 1].id if has_more else None)


def _refuse_what_never_fits(session: Session, spec: JobSpec) -> None:
    cluster = session.get(ClusterRow, 1)
    if cluster is None:  # no dispatcher has seen the cluster yet; the job waits for one
        return
    message = _why_never(cluster, spec.resources)
    if message is not None:
        raise CannotFit(
            "the cluster can never hold this job",
            faults=(Fault(pointer="/resources", message=message),),
        )


def _why_never(cluster: ClusterRow, resources: Resources) -> str | None:
    """What the cluster lacks when nothing else runs; None: nothing."""
    count = resources.num_workers
    worker = Pool(cpus=resources.cpus_per_worker, gpus=resources.gpus_per_worker or 0)
    wanted = {
        "CPUs": (count * worker.cpus, cluster.cpus),
        "GPUs": (count * worker.gpus, cluster.gpus),
    }
    for kind, (needed, there) in wanted.items():
        if needed > there:
            return f"{count} workers need {needed:g} {kind}, the whole cluster has {there}"
    nodes = [Pool(cpus=cpus, gpus=gpus) for cpus, gpus in cluster.nodes]
    fitting = capacity(nodes, worker) if nodes else count
    if fitting >= count:
        return None
    each = f"{worker.cpus} CPUs" + (f" and {worker.gpus:g} GPUs" if worker.gpus else "")
    return f"a worker of {each} lies on one node, and the nodes hold {fitting} such, not {count}"
