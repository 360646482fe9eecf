"""Submission of jobs: one, a batch, or a clone of an earlier job."""

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from service import ids
from service.access import quotas, storage_use
from service.catalog import dataset_folders, datasets, recipes, uploads
from service.errors import ErrorCollector, FieldError, InvalidInput, NotFound
from service.jobs import (
    cluster_fit,
    dataset_use,
    lifecycle,
    model_versions,
    plan_notes,
    queue_order,
    records,
    training_key,
    warm_start,
    workload,
)
from service.jobs.records import FindJob
from service.specs import dataset_fit
from service.specs.analysis_spec import OtherCheckpoint
from service.specs.fields import merge_patch
from service.specs.job_spec import Dependency, JobSpec, parse_job_spec
from service.specs.quota import Quota
from service.states import DependencyCondition, JobState
from service.storage import events, idempotency
from service.storage.events import EventKind
from service.storage.idempotency import IdempotencyKey, Operation, Submission
from service.storage.tables import (
    CheckpointRow,
    DependencyRow,
    JobRow,
    OtherCheckpointRow,
    TagRow,
)


def submit(
    session: Session,
    spec: JobSpec,
    *,
    user: str,
    data_dir: Path,
    now: datetime,
    idempotency_key: str | None = None,
) -> Submission[JobRow]:
    """Creates the job; with a key that was used before, returns the job that it created.

    CannotFit where the cluster can never run the job, IdempotencyMismatch for a key that was used
    with another spec, QuotaExceeded beyond a quota of waiting jobs, hours or storage, InvalidInput
    for an unknown job in `after` or `start_from`, and for what the images and weights in `data_dir`
    do not permit, as far as they are on this machine.
    """
    key = IdempotencyKey.of(Operation.SUBMIT_JOB, idempotency_key, user=user, body=[spec])
    known = quotas.read_quotas(session)
    return _submit(
        session, spec, user=user, data_dir=data_dir, now=now, key=key, known_quotas=known
    )


def create_job(
    session: Session, spec: JobSpec, *, user: str, data_dir: Path, now: datetime
) -> JobRow:
    """As `submit`, without an idempotency key, and also beyond a quota."""
    _lock_referenced_jobs(session, [spec])
    dataset_use.keep_dataset(session, spec.dataset)
    needed, source, others = _check(session, spec, lifecycle.lock_job, data_dir=data_dir)
    written, spec = spec, _pin_checkpoints(spec, source, others)
    # The end of another job is the same checkpoint before and after it is there.
    keyed = written if written.starts_at_end else spec
    resources = spec.resources
    points = queue_order.lock_points(session, user)
    job = JobRow(
        id=ids.new_id(now),
        name=spec.name,
        kind=spec.kind,
        dataset=spec.dataset,
        spec=spec.model_dump(mode="json"),
        state=_choose_initial_state(spec, needed),
        user=user,
        priority=spec.priority,
        queue_sort_key=queue_order.make_sort_key(
            created_at=now, priority=spec.priority, points=points
        ),
        fair_share_points=points,
        preemptible=spec.preemptible,
        worker_counts=list(spec.worker_counts),
        cpus_per_worker=resources.cpus_per_worker,
        gpus_per_worker=resources.gpus_per_worker,
        timing_key=workload.make_timing_key(spec),
        training_key=training_key.training_key(keyed, data_dir),
        replicate_key=training_key.replicate_key(keyed, data_dir),
        macs_per_iteration=workload.count_macs_per_iteration(spec),
        iterations=workload.count_iterations(spec),
        max_seconds=workload.max_seconds_of(spec),
        checkpointed_iteration=0,
        source_checkpoint_id=source.id if source is not None else None,
        source_job_id=source.job_id if source is not None else None,
        source_iteration=source.iteration if source is not None else None,
        created_at=now,
        attempts=0,
        restarts=0,
        infra_restarts=0,
        preemptions=0,
        trained_seconds=0.0,
        event_count=0,
        log_line_count=0,
        latest_metrics={},
    )
    session.add(job)
    session.add_all(TagRow(job_id=job.id, tag=tag) for tag in spec.tags)
    session.add_all(
        DependencyRow(job_id=job.id, needed_id=dependency.job, condition=dependency.condition)
        for dependency in spec.after
    )
    session.add_all(
        OtherCheckpointRow(job_id=job.id, position=position, checkpoint_id=checkpoint.id)
        for position, checkpoint in enumerate(others)
    )
    data = {"network": spec.network}
    if written.start_from is not None and written.start_from.model is not None:
        data["model"] = written.start_from.model
    dataset = datasets.find_dataset(spec.dataset)
    assert dataset is not None, "validated"
    if (warning := plan_notes.find_data_warning(dataset, data_dir)) is not None:
        data["warning"] = warning
    events.append_event(session, job, EventKind.SUBMITTED, data, now=now)
    lifecycle.notify_analysed_job(session, job)
    return job


def submit_batch(
    session: Session,
    specs: Sequence[JobSpec],
    *,
    user: str,
    data_dir: Path,
    now: datetime,
    idempotency_key: str | None = None,
) -> list[Submission[JobRow]]:
    """Creates all jobs or, with any error, none. `#N` in `after` is the batch's job N, from 0."""
    _lock_referenced_jobs(session, specs)
    key = IdempotencyKey.of(Operation.SUBMIT_BATCH, idempotency_key, user=user, body=specs)
    known = quotas.read_quotas(session)

    def create() -> list[JobRow]:
        jobs: list[JobRow] = []
        for index, spec in enumerate(specs):
            try:
                resolved = _resolve_batch_references(spec, jobs)
                # Ids sort by time: a microsecond between jobs keeps the order of the batch.
                created_at = now + timedelta(microseconds=index)
                require_quotas(
                    session, resolved, known, user=user, data_dir=data_dir, now=created_at
                )
                jobs.append(
                    create_job(session, resolved, user=user, data_dir=data_dir, now=created_at)
                )
            except InvalidInput as error:
                field_errors = tuple(
                    FieldError(pointer=f"/jobs/{index}{field.pointer}", message=field.message)
                    for field in error.field_errors
                )
                message = f"job {index} of the batch: {error}"
                raise type(error)(message, field_errors=field_errors) from error
        return jobs

    return idempotency.submit_once(session, JobRow, create, key=key)


def clone(
    session: Session,
    job_id: str,
    changes: dict[str, Any],
    *,
    user: str,
    data_dir: Path,
    now: datetime,
    idempotency_key: str | None = None,
) -> Submission[JobRow]:
    """Submits the spec of another job with `changes` merged into it. InvalidInput, NotFound.

    The clone has neither the dependencies nor the hold of the original, and a default name anew.
    """
    original = records.spec_of(records.find_job(session, job_id))
    document = original.model_dump(mode="json", exclude={"after", "hold", "recipe"})
    document["recipe"] = _shorten_recipe(original)
    if original.name == original.default_name:
        del document["name"]
    if {"dataset", "depth"} & changes.keys():
        del document["family"]
    spec = parse_job_spec(merge_patch(document, changes))
    key = IdempotencyKey.of(Operation.CLONE_JOB, idempotency_key, user=user, body=[spec])
    known = quotas.read_quotas(session)
    return _submit(
        session, spec, user=user, data_dir=data_dir, now=now, key=key, known_quotas=known
    )


def check_submission(session: Session, spec: JobSpec, *, data_dir: Path) -> None:
    """Raises what `submit` would raise. Takes no lock."""
    _check(session, spec, records.find_job, data_dir=data_dir)


def pin_checkpoints(session: Session, spec: JobSpec, *, data_dir: Path) -> JobSpec:
    """The spec as `submit` would store it. Raises what it would raise; takes no lock."""
    _, source, others = _check(session, spec, records.find_job, data_dir=data_dir)
    return _pin_checkpoints(spec, source, others)


def check_data(spec: JobSpec, data_dir: Path) -> None:
    """What `check_submission` checks without the database: the files in the data directory."""
    collector = ErrorCollector()
    with collector.collect():
        require_dataset(spec.dataset, data_dir)
        dataset = uploads.describe_dataset(spec.dataset, data_dir)
        dataset_fit.require_fit(spec.recipe, dataset, spec.architecture)
    with collector.collect():
        warm_start.require_weights_file(spec, data_dir)
    collector.raise_collected()


def require_dataset(name: str, data_dir: Path, *, pointer: str = "/dataset") -> None:
    """InvalidInput where the data directory on this machine lacks the images.

    Another check refuses a name that no dataset can have.
    """
    dataset = datasets.find_dataset(name)
    message = None if dataset is None else dataset_folders.describe_missing(dataset, data_dir)
    if message is not None:
        field_error = FieldError(pointer=pointer, message=message)
        raise InvalidInput("the job's images are missing", field_errors=(field_error,))


def _submit(
    session: Session,
    spec: JobSpec,
    *,
    user: str,
    data_dir: Path,
    now: datetime,
    key: IdempotencyKey,
    known_quotas: dict[str, Quota],
) -> Submission[JobRow]:
    def create() -> list[JobRow]:
        require_quotas(session, spec, known_quotas, user=user, data_dir=data_dir, now=now)
        return [create_job(session, spec, user=user, data_dir=data_dir, now=now)]

    return idempotency.submit_once(session, JobRow, create, key=key)[0]


def require_quotas(
    session: Session,
    spec: JobSpec,
    known: dict[str, Quota],
    *,
    user: str,
    data_dir: Path,
    now: datetime,
) -> None:
    """QuotaExceeded where the person may not submit another job, by one of the `known` quotas."""
    storage_use.require_space(session, user, spec.tags, known, data_dir=data_dir)
    uses_gpus = spec.resources.gpus_per_worker != 0
    quotas.require_place(session, user, spec.tags, known, uses_gpus=uses_gpus, now=now)


def _lock_referenced_jobs(session: Session, specs: Sequence[JobSpec]) -> None:
    """Locks the jobs of `after` and `start_from`, also of its models, in the order of their ids.

    All of them before anything else: two submissions that refer to the same jobs in different
    orders would deadlock.
    """
    job_ids = {dependency.job for spec in specs for dependency in spec.after}
    starts = [spec.start_from for spec in specs if spec.start_from is not None]
    job_ids |= {start.job for start in starts if start.job is not None}
    for model in {start.model for start in starts if start.model is not None}:
        with suppress(NotFound):
            job_ids.add(model_versions.resolve(session, model).row.job_id)
    analyses = [spec.analysis for spec in specs if spec.analysis is not None]
    job_ids |= {other.job for analysis in analyses for other in analysis.others}
    for job_id in sorted(job_ids):
        # A job that does not exist, or `#N` of a batch, is handled where the spec is checked.
        with suppress(NotFound):
            lifecycle.lock_job(session, job_id)


def _check(
    session: Session, spec: JobSpec, find_job: FindJob, *, data_dir: Path
) -> tuple[list[JobRow], CheckpointRow | None, list[CheckpointRow]]:
    """The jobs of `after`, the checkpoint to start from, and others that an analysis uses.

    A `find_job` that locks keeps them: a dependency cannot end, and retention cannot delete a
    checkpoint, before the new job refers to them.
    """
    needed: list[JobRow] = []
    source: CheckpointRow | None = None
    others: list[CheckpointRow] = []
    collector = ErrorCollector()
    with collector.collect():
        check_data(spec, data_dir)
    with collector.collect():
        cluster_fit.require_fit(session, spec)
    with collector.collect():
        source = warm_start.resolve_source(session, spec, find_job, data_dir=data_dir)
    with collector.collect():
        others = warm_start.resolve_others(session, spec, find_job)
    with collector.collect():
        needed = _find_dependencies(session, _resolve_batch_references(spec, ()), find_job)
    collector.raise_collected()
    return needed, source, others


def _find_dependencies(session: Session, spec: JobSpec, find_job: FindJob) -> list[JobRow]:
    """InvalidInput for a job that does not exist, or that can never end as its condition asks."""
    found: list[JobRow] = []
    field_errors: list[FieldError] = []
    if spec.after:
        # Earlier jobs of the same batch are locked too.
        session.flush()
    for index, dependency in enumerate(spec.after):
        pointer = f"/after/{index}/job"
        try:
            job = find_job(session, dependency.job)
        except NotFound as error:
            field_errors.append(FieldError(pointer=pointer, message=str(error)))
            continue
        has_failed = job.state.is_final and job.state is not JobState.SUCCEEDED
        if dependency.condition is DependencyCondition.OK and has_failed:
            message = f"job {job.id} {job.state.past_phrase} and can never succeed"
            field_errors.append(FieldError(pointer=pointer, message=message))
        found.append(job)
    if field_errors:
        raise InvalidInput("the job can never start", field_errors=tuple(field_errors))
    return found


def _resolve_batch_references(spec: JobSpec, earlier: Sequence[JobRow]) -> JobSpec:
    if not spec.after:
        return spec
    after = []
    for index, dependency in enumerate(spec.after):
        number = dependency.batch_index
        if number is None:
            after.append(dependency)
        elif number < len(earlier):
            after.append(Dependency(job=earlier[number].id, condition=dependency.condition))
        else:
            message = f"{dependency.job} is not an earlier job of the same batch"
            field_error = FieldError(pointer=f"/after/{index}/job", message=message)
            raise InvalidInput("the job's spec is not valid", field_errors=(field_error,))
    return spec.model_copy(update={"after": tuple(after)})


def _pin_checkpoints(
    spec: JobSpec, source: CheckpointRow | None, others: Sequence[CheckpointRow]
) -> JobSpec:
    """Replaces `best`, `newest` or a model by the checkpoint's id: tomorrow it may be another."""
    if spec.start_from is None or source is None:
        return spec
    start = {"job": source.job_id, "checkpoint": source.id, "model": None}
    pinned: dict[str, Any] = {"start_from": spec.start_from.model_copy(update=start)}
    if spec.analysis is not None:
        ids_of_others = tuple(
            OtherCheckpoint(job=other.job_id, checkpoint=other.id) for other in others
        )
        pinned["analysis"] = spec.analysis.model_copy(update={"others": ids_of_others})
    return spec.model_copy(update=pinned)


def _choose_initial_state(spec: JobSpec, needed: Sequence[JobRow]) -> JobState:
    if spec.hold:
        return JobState.HELD
    is_blocked = any(not job.state.is_final for job in needed)
    return JobState.BLOCKED if is_blocked else JobState.QUEUED


def _shorten_recipe(spec: JobSpec) -> dict[str, Any]:
    """The recipe's name and what differs from it; for another depth the rest is resolved anew."""
    recipe = spec.recipe.model_dump(mode="json")
    short = {"name": recipe["name"], "iterations": recipe["iterations"]}
    # The others follow these.
    own = _resolve(short, spec)
    short |= {
        name: recipe[name] for name in ("batch_size", "schedule") if recipe[name] != own[name]
    }
    default = _resolve(short, spec)
    return short | {name: value for name, value in recipe.items() if value != default[name]}


def _resolve(written: dict[str, Any], spec: JobSpec) -> dict[str, Any]:
    recipe = recipes.build_recipe(
        written,
        family=spec.family,
        depth=spec.depth,
        num_workers=spec.resources.max_workers,
    )
    return recipe.model_dump(mode="json")
