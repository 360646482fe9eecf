"""Warm start: the checkpoint of another job that a job starts from, and whether it fits."""

from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.catalog import architectures, dataset_folders, datasets, uploads
from service.catalog.architectures import Architecture
from service.catalog.recipes import LrSchedule, Recipe
from service.errors import FieldError, InvalidInput, NotFound
from service.jobs import checkpoints, model_versions, records
from service.jobs.records import FindJob
from service.specs.analysis_spec import MAX_OTHERS, TRAINING, PredictionsSpec
from service.specs.job_spec import JobSpec, StartMode
from service.states import FINAL_STATES
from service.storage.tables import CheckpointRow, JobRow, OtherCheckpointRow

# Recipe fields that may differ in a continued run: they do not change the steps before it.
_MAY_DIFFER = frozenset(
    {
        "name",
        "iterations",
        "milestones",
        "max_seconds",
        "target_error",
        "checkpoint_every",
        "exports",
    }
)

# Fields of a network that matter only where weights are initialized.
_INITIAL_ONLY = frozenset({"zero_init_residual", "gate_bias"})


def resolve_source(
    session: Session, spec: JobSpec, find_job: FindJob, *, data_dir: Path
) -> CheckpointRow | None:
    """The checkpoint that the spec starts from.

    None where it starts with new or published weights, or where `pin_source` chooses the checkpoint
    later. A `find_job` that locks keeps retention from deleting the checkpoint. InvalidInput where
    there is no such checkpoint, or where it does not fit the spec.
    """
    start = spec.start_from
    if start is None or start.weights is not None:
        return None
    job_id, selector = start.job, start.checkpoint
    if start.model is not None:
        try:
            version = model_versions.resolve(session, start.model).row
        except NotFound as error:
            raise _invalid(FieldError(pointer="/start_from/model", message=str(error))) from error
        job_id, selector = version.job_id, version.checkpoint_id
    assert job_id is not None, "validated"
    try:
        source = find_job(session, job_id)
    except NotFound as error:
        raise _invalid(FieldError(pointer="/start_from/job", message=str(error))) from error
    source_spec, checkpoint = records.spec_of(source), None
    if source.state.is_final or not spec.starts_at_end:
        try:
            checkpoint = checkpoints.find_checkpoint(session, source.id, selector)
        except NotFound as error:
            field_error = FieldError(pointer="/start_from/checkpoint", message=str(error))
            raise _invalid(field_error) from error
    iteration = source_spec.recipe.iterations if checkpoint is None else checkpoint.iteration
    mismatches = [*_FIND_MISMATCHES[start.mode](source_spec, spec, iteration)]
    if start.mode in _KEEPS_CLASSES and not isinstance(spec.analysis, PredictionsSpec):
        mismatches += _find_class_mismatch(source_spec, spec, data_dir)
    if mismatches:
        raise _invalid(*mismatches)
    return checkpoint


def pin_source(session: Session, job: JobRow, ended: JobRow) -> bool:
    """Chooses the checkpoint of `ended` for a locked job that starts from its end, if it does.

    False where there is no such checkpoint.
    """
    start = job.spec["start_from"]
    if start is None or start["job"] != ended.id or job.source_checkpoint_id is not None:
        return True
    try:
        checkpoint = checkpoints.find_checkpoint(session, ended.id, start["checkpoint"])
    except NotFound:
        return False
    job.source_checkpoint_id = checkpoint.id
    job.source_job_id = ended.id
    job.source_iteration = checkpoint.iteration
    job.spec = job.spec | {"start_from": start | {"checkpoint": checkpoint.id}}
    return True


def resolve_others(session: Session, spec: JobSpec, find_job: FindJob) -> list[CheckpointRow]:
    """The further checkpoints of an analysis; InvalidInput where there is no such checkpoint.

    A `find_job` that locks keeps retention from deleting them.
    """
    found: list[CheckpointRow] = []
    others = () if spec.analysis is None else spec.analysis.others
    for index, other in enumerate(others):
        try:
            job_id = find_job(session, other.job).id
            if other.checkpoint == "all":
                found += reversed(checkpoints.list_checkpoints(session, job_id))
            else:
                found.append(checkpoints.find_checkpoint(session, job_id, other.checkpoint))
        except NotFound as error:
            pointer = f"/analysis/others/{index}"
            raise _invalid(FieldError(pointer=pointer, message=str(error))) from error
    if len(found) > MAX_OTHERS:
        message = f"must be at most {MAX_OTHERS} checkpoints, received {len(found)}"
        raise _invalid(FieldError(pointer="/analysis/others", message=message))
    return found


def require_weights_file(spec: JobSpec, data_dir: Path) -> None:
    """InvalidInput where a data directory on this machine lacks the spec's published weights."""
    start = spec.start_from
    if start is None or start.weights is None or not dataset_folders.is_readable(data_dir):
        return
    path = data_dir / datasets.WEIGHTS_FOLDER / start.weights
    if not path.is_file():
        message = f"there is no file {start.weights} in {path.parent.name}/ of the data directory"
        field_error = FieldError(pointer="/start_from/weights", message=message)
        raise InvalidInput("the job cannot start from these weights", field_errors=(field_error,))


def find_dependent_jobs(session: Session, checkpoint_ids: Iterable[str]) -> dict[str, str]:
    """For each of these checkpoints that an unfinished job starts from, the id of such a job."""
    wanted, is_unfinished = tuple(checkpoint_ids), JobRow.state.not_in(FINAL_STATES)
    by_source = select(JobRow.source_checkpoint_id, JobRow.id).where(
        JobRow.source_checkpoint_id.in_(wanted), is_unfinished
    )
    by_other = (
        select(OtherCheckpointRow.checkpoint_id, JobRow.id)
        .join(JobRow, JobRow.id == OtherCheckpointRow.job_id)
        .where(OtherCheckpointRow.checkpoint_id.in_(wanted), is_unfinished)
    )
    found = [*session.execute(by_other), *session.execute(by_source)]
    return {str(checkpoint_id): job_id for checkpoint_id, job_id in found}


def find_source_checkpoint(session: Session, job: JobRow) -> CheckpointRow | None:
    """Another job's checkpoint that this one starts from; None: it starts with new weights.

    NotFound where it no longer exists, for example because fsck removed it: without it the run
    would be another.
    """
    if job.source_checkpoint_id is None:
        return None
    checkpoint = session.get(CheckpointRow, job.source_checkpoint_id)
    if checkpoint is None:
        raise NotFound(
            f"checkpoint {job.source_checkpoint_id}, which job {job.id} starts from, was deleted"
        )
    return checkpoint


def find_other_checkpoints(session: Session, job: JobRow) -> list[CheckpointRow]:
    """That an analysis uses besides its source, in their order. NotFound where one was deleted."""
    if job.kind == TRAINING:
        return []
    rows = session.execute(
        select(OtherCheckpointRow.checkpoint_id, CheckpointRow)
        .outerjoin(CheckpointRow, CheckpointRow.id == OtherCheckpointRow.checkpoint_id)
        .where(OtherCheckpointRow.job_id == job.id)
        .order_by(OtherCheckpointRow.position)
    )
    found = []
    for checkpoint_id, checkpoint in rows:
        if checkpoint is None:
            raise NotFound(f"checkpoint {checkpoint_id}, which job {job.id} uses, was deleted")
        found.append(checkpoint)
    return found


def _invalid(*field_errors: FieldError) -> InvalidInput:
    return InvalidInput("the job cannot start from this checkpoint", field_errors=field_errors)


def _find_continue_mismatches(
    source: JobSpec, spec: JobSpec, iteration: int
) -> Iterable[FieldError]:
    """The run must be the same up to the checkpoint, and have iterations left after it."""
    for name in ("dataset", "seed", *(field.name for field in fields(Architecture))):
        theirs, ours = getattr(source, name), getattr(spec, name)
        if theirs != ours:
            yield _describe_difference(f"/{name}", theirs, ours)
    recipe, former = spec.recipe, source.recipe
    for name in Recipe.model_fields.keys() - _MAY_DIFFER:
        if getattr(recipe, name) != getattr(former, name):
            yield _describe_difference(
                f"/recipe/{name}", getattr(former, name), getattr(recipe, name)
            )
    if _list_passed_milestones(recipe, iteration) != _list_passed_milestones(former, iteration):
        yield _describe_difference("/recipe/milestones", former.milestones, recipe.milestones)
    depends_on_length = recipe.schedule in {LrSchedule.LINEAR, LrSchedule.COSINE}
    if depends_on_length and recipe.iterations != former.iterations:
        yield _describe_difference("/recipe/iterations", former.iterations, recipe.iterations)
    if recipe.iterations <= iteration:
        message = (
            f"must be greater than {iteration}, the checkpoint's iteration; "
            f"received {recipe.iterations}"
        )
        yield FieldError(pointer="/recipe/iterations", message=message)


def _list_passed_milestones(recipe: Recipe, iteration: int) -> list[int]:
    return [milestone for milestone in recipe.milestones if milestone < iteration]


def _find_network_mismatches(
    source: JobSpec, spec: JobSpec, _iteration: int
) -> Iterable[FieldError]:
    for field in fields(Architecture):
        theirs, ours = getattr(source, field.name), getattr(spec, field.name)
        if theirs != ours and field.name not in _INITIAL_ONLY:
            yield _describe_difference(f"/{field.name}", theirs, ours)


def _find_deepen_mismatches(
    source: JobSpec, spec: JobSpec, _iteration: int
) -> Iterable[FieldError]:
    message = architectures.find_deepening_mismatch(source.architecture, spec.architecture)
    if message is not None:
        yield FieldError(pointer="/depth", message=message)


def _find_class_mismatch(source: JobSpec, spec: JobSpec, data_dir: Path) -> Iterable[FieldError]:
    """No mismatch where the classes of an image folder are not counted on this machine."""
    theirs = uploads.describe_dataset(source.dataset, data_dir)
    ours = uploads.describe_dataset(spec.dataset, data_dir)
    if None not in {theirs.classes, ours.classes} and theirs.classes != ours.classes:
        message = (
            f"the number of classes must be that of the checkpoint, {theirs.classes}; "
            f"{ours.name} has {ours.classes}"
        )
        yield FieldError(pointer="/dataset", message=message)


def _describe_difference(pointer: str, theirs: object, ours: object) -> FieldError:
    message = f"the job that it starts from has {theirs}; received {ours}"
    return FieldError(pointer=pointer, message=message)


_FIND_MISMATCHES: dict[StartMode, Callable[[JobSpec, JobSpec, int], Iterable[FieldError]]] = {
    StartMode.CONTINUE: _find_continue_mismatches,
    StartMode.WEIGHTS: _find_network_mismatches,
    StartMode.FINE_TUNE: _find_network_mismatches,
    StartMode.DEEPEN: _find_deepen_mismatches,
}
# A continued run has the same dataset.
_KEEPS_CLASSES = frozenset({StartMode.WEIGHTS, StartMode.DEEPEN})
