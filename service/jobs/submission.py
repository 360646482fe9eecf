"""Jobs: submit one or many, clone, find, page."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service import ids
from service.catalog import recipes
from service.catalog.recipes import Recipe
from service.errors import CannotFit, FieldError, IdempotencyMismatch, InvalidInput, NotFound
from service.jobs import events, lifecycle, records, warm_start
from service.jobs.events import EventKind
from service.resources import ResourceBundle, count_workers_that_fit
from service.specs.job_spec import Dependency, JobSpec, Resources, parse_job_spec
from service.states import FINAL_STATES, DependencyCondition, JobState
from service.storage.tables import CheckpointRow, ClusterRow, DependencyRow, JobRow, TagRow


@dataclass(frozen=True)
class Submission:
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
) -> Submission:
    """Saves the job; with a key that was used before, finds the one it made.

    CannotFit where the cluster can never hold the job, IdempotencyMismatch for a key that
    made a job from another spec, InvalidInput for a job in `after` that is not there.
    """
    if idempotency_key is not None:
        earlier = _find_by_idempotency_key(session, idempotency_key, _digest(spec))
        if earlier is not None:
            return Submission(job=earlier, is_replay=True)
    return _save(session, spec, user=user, now=now, idempotency_key=idempotency_key)


def submit_batch(
    session: Session,
    specs: Sequence[JobSpec],
    *,
    user: str,
    now: datetime,
    idempotency_key: str | None = None,
) -> list[Submission]:
    """All of them or, with any error, none. `#N` in `after` is the batch's job number N.

    Each job's key is the batch's with its number, so a repeated batch finds all its jobs.
    """
    made: list[Submission] = []
    for number, spec in enumerate(specs):
        key = None if idempotency_key is None else f"{idempotency_key} #{number}"
        try:
            whole = _resolve_batch_references(spec, [one.job.id for one in made])
            # Each a microsecond younger: ids sort by time, and the batch keeps its order.
            at = now + timedelta(microseconds=number)
            made.append(submit(session, whole, user=user, now=at, idempotency_key=key))
        except InvalidInput as error:
            faults = tuple(
                FieldError(pointer=f"/jobs/{number}{fault.pointer}", message=fault.message)
                for fault in error.field_errors
            )
            raise type(error)(f"job {number} of the batch: {error}", field_errors=faults) from error
    return made


def clone(
    session: Session,
    job_id: str,
    changes: dict[str, Any],
    *,
    user: str,
    now: datetime,
    idempotency_key: str | None = None,
) -> Submission:
    """A new job from the spec of another, `changes` merged into it. InvalidInput, NotFound.

    A name that was not chosen, and what the job waited for, are not taken along.
    """
    original = records.spec_of(records.find_job(session, job_id))
    written = original.model_dump(mode="json", exclude={"after", "hold", "recipe"})
    written["recipe"] = _recipe_as_written(original)
    if original.name == f"{original.network} on {original.dataset}":
        del written["name"]
    if {"dataset", "depth"} & changes.keys():
        del written["family"]
    spec = parse_job_spec(_merge(written, changes))
    return submit(session, spec, user=user, now=now, idempotency_key=idempotency_key)


def _recipe_as_written(spec: JobSpec) -> dict[str, Any]:
    """Its name and what differs from it: the rest is filled in anew for another network."""
    whole = spec.recipe.model_dump(mode="json")
    short = {"name": whole["name"], "iterations": whole["iterations"]}
    base = recipes.resolve_recipe(short, family=spec.family, depth=spec.depth)
    plain = Recipe.model_validate(base).model_dump(mode="json")
    return short | {name: value for name, value in whole.items() if value != plain[name]}


def _merge(written: Any, changes: Any) -> Any:
    """As JSON Merge Patch (RFC 7396), without its removal of what is null."""
    if not isinstance(written, dict) or not isinstance(changes, dict):
        return changes
    return written | {name: _merge(written.get(name), value) for name, value in changes.items()}


def _resolve_batch_references(spec: JobSpec, batch: Sequence[str]) -> JobSpec:
    after = []
    for at, dependency in enumerate(spec.after):
        number = dependency.batch_index
        if number is None:
            after.append(dependency)
        elif number < len(batch):
            after.append(Dependency(job=batch[number], condition=dependency.condition))
        else:
            message = f"{dependency.job} does not stand before this job in a batch"
            fault = FieldError(pointer=f"/after/{at}/job", message=message)
            raise InvalidInput("the job's spec is not valid", field_errors=(fault,))
    return spec.model_copy(update={"after": tuple(after)})


def check_submission(session: Session, spec: JobSpec) -> tuple[list[JobRow], CheckpointRow | None]:
    """The jobs of `after`, locked, and the checkpoint to start from; raises what `submit` would."""
    _require_fit(session, spec)
    source = warm_start.resolve_source(session, spec)
    return _lock_dependencies(session, _resolve_batch_references(spec, ())), source


def _digest(spec: JobSpec) -> str:
    return hashlib.sha256(spec.model_dump_json().encode()).hexdigest()


def _save(
    session: Session, spec: JobSpec, *, user: str, now: datetime, idempotency_key: str | None
) -> Submission:
    needed, source = check_submission(session, spec)
    saved = _pin_source(spec, source)
    resources = spec.resources
    job = JobRow(
        id=ids.new_id(now),
        name=spec.name,
        dataset=spec.dataset,
        spec=saved.model_dump(mode="json"),
        state=_initial_state(spec, needed),
        user=user,
        priority=spec.priority,
        queue_sort_key=lifecycle.queue_sort_key(created_at=now, priority=spec.priority),
        preemptible=spec.preemptible,
        num_workers=resources.num_workers,
        cpus_per_worker=resources.cpus_per_worker,
        gpus_per_worker=resources.gpus_per_worker,
        timing_key=records.timing_key(spec),
        macs_per_iteration=records.macs_per_iteration(spec),
        iterations=spec.recipe.iterations,
        checkpointed_iteration=0,
        source_checkpoint_id=source.id if source is not None else None,
        created_at=now,
        attempts=0,
        restarts=0,
        infra_restarts=0,
        preemptions=0,
        event_count=0,
        log_line_count=0,
        latest_metrics={},
        idempotency_key=idempotency_key,
        spec_sha256=_digest(spec),
    )
    if idempotency_key is None:
        _insert(session, job, spec, now=now)
        return Submission(job=job, is_replay=False)
    try:
        with session.begin_nested():
            _insert(session, job, spec, now=now)
    except IntegrityError:
        # The same request came twice at one time, and the other one was first.
        first = _find_by_idempotency_key(session, idempotency_key, _digest(spec))
        assert first is not None
        return Submission(job=first, is_replay=True)
    return Submission(job=job, is_replay=False)


def _insert(session: Session, job: JobRow, spec: JobSpec, *, now: datetime) -> None:
    session.add(job)
    # Nothing tells the session that the others refer to it.
    session.flush()
    session.add_all(TagRow(job_id=job.id, tag=tag) for tag in spec.tags)
    session.add_all(
        DependencyRow(job_id=job.id, needed_id=one.job, condition=one.condition)
        for one in spec.after
    )
    events.append_event(session, job, EventKind.SUBMITTED, {"network": spec.network}, now=now)
    session.flush()


def _pin_source(spec: JobSpec, source: CheckpointRow | None) -> JobSpec:
    """The saved spec names the checkpoint by its id: what is best today may not be tomorrow."""
    if spec.start_from is None or source is None:
        return spec
    start = spec.start_from.model_copy(update={"checkpoint": source.id})
    return spec.model_copy(update={"start_from": start})


def _initial_state(spec: JobSpec, needed: Sequence[JobRow]) -> JobState:
    if spec.hold:
        return JobState.HELD
    is_blocked = any(not job.state.is_final for job in needed)
    return JobState.BLOCKED if is_blocked else JobState.QUEUED


def _lock_dependencies(session: Session, spec: JobSpec) -> list[JobRow]:
    """The jobs of `after`, locked: none of them ends before the new job is there to be told.

    InvalidInput for one that is not there, or that has ended otherwise than is needed.
    """
    found: list[JobRow] = []
    faults: list[FieldError] = []
    for at, dependency in sorted(enumerate(spec.after), key=lambda entry: entry[1].job):
        pointer = f"/after/{at}/job"
        try:
            job = lifecycle.lock_job(session, dependency.job)
        except NotFound as error:
            faults.append(FieldError(pointer=pointer, message=str(error)))
            continue
        has_failed = job.state in FINAL_STATES and job.state is not JobState.SUCCEEDED
        if dependency.condition is DependencyCondition.OK and has_failed:
            message = f"job {job.id} has {job.state} already, it can never succeed"
            faults.append(FieldError(pointer=pointer, message=message))
        found.append(job)
    if faults:
        raise InvalidInput("the job can never start", field_errors=tuple(faults))
    return found


def _find_by_idempotency_key(
    session: Session, idempotency_key: str, spec_sha256: str
) -> JobRow | None:
    earlier = session.scalar(select(JobRow).where(JobRow.idempotency_key == idempotency_key))
    if earlier is not None and earlier.spec_sha256 != spec_sha256:
        raise IdempotencyMismatch(
            f"the idempotency key {idempotency_key!r} made job {earlier.id} from another body"
        )
    return earlier


def _require_fit(session: Session, spec: JobSpec) -> None:
    cluster = session.get(ClusterRow, 1)
    if cluster is None:  # no dispatcher has seen the cluster yet; the job waits for one
        return
    message = _misfit(cluster, spec.resources)
    if message is not None:
        raise CannotFit(
            "the cluster can never hold this job",
            field_errors=(FieldError(pointer="/resources", message=message),),
        )


def _misfit(cluster: ClusterRow, resources: Resources) -> str | None:
    """What the cluster lacks when nothing else runs; None: nothing."""
    count = resources.num_workers
    worker = ResourceBundle(cpus=resources.cpus_per_worker, gpus=resources.gpus_per_worker or 0)
    wanted = {
        "CPUs": (count * worker.cpus, cluster.cpus),
        "GPUs": (count * worker.gpus, cluster.gpus),
    }
    for kind, (needed, there) in wanted.items():
        if needed > there:
            return f"{count} workers need {needed:g} {kind}, the whole cluster has {there}"
    nodes = [ResourceBundle(cpus=cpus, gpus=gpus) for cpus, gpus in cluster.nodes]
    fitting = count_workers_that_fit(nodes, worker) if nodes else count
    if fitting >= count:
        return None
    each = f"{worker.cpus} CPUs" + (f" and {worker.gpus:g} GPUs" if worker.gpus else "")
    return f"a worker of {each} lies on one node, and the nodes hold {fitting} such, not {count}"
