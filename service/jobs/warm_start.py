"""Starting from another job: which checkpoint is meant, whether it fits, and that it stays."""

from collections.abc import Callable, Iterable
from dataclasses import fields

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.catalog import architectures
from service.catalog.architectures import Architecture
from service.catalog.datasets import find_dataset
from service.catalog.recipes import LrSchedule, Recipe
from service.errors import FieldError, InvalidInput, NotFound
from service.jobs import checkpoints, lifecycle
from service.specs.job_spec import JobSpec, StartMode
from service.states import FINAL_STATES
from service.storage.tables import CheckpointRow, JobRow

# What of a recipe may differ where a run is continued: none of it changes what lies behind.
_MAY_DIFFER = frozenset({"name", "iterations", "milestones", "checkpoint_every", "exports"})


def resolve_source(session: Session, spec: JobSpec) -> CheckpointRow | None:
    """The checkpoint that the spec starts from, its job locked: no retention deletes it meanwhile.

    None where the spec starts from the beginning. InvalidInput where there is no such checkpoint,
    or where it does not fit the spec.
    """
    start = spec.start_from
    if start is None:
        return None
    try:
        source = lifecycle.lock_job(session, start.job)
    except NotFound as error:
        raise _invalid(FieldError(pointer="/start_from/job", message=str(error))) from error
    try:
        checkpoint = checkpoints.select_checkpoint(session, source.id, start.checkpoint)
    except NotFound as error:
        raise _invalid(FieldError(pointer="/start_from/checkpoint", message=str(error))) from error
    misfits = _MISMATCHES[start.mode](
        JobSpec.model_validate(source.spec), spec, checkpoint.iteration
    )
    faults = tuple(misfits)
    if faults:
        raise _invalid(*faults)
    return checkpoint


def find_dependent_jobs(session: Session, checkpoint_ids: Iterable[str]) -> dict[str, str]:
    """Of these checkpoints those that unfinished jobs start from, each with one of the jobs."""
    statement = select(JobRow.source_checkpoint_id, JobRow.id).where(
        JobRow.source_checkpoint_id.in_(tuple(checkpoint_ids)),
        JobRow.state.not_in(FINAL_STATES),
    )
    return {str(checkpoint_id): job_id for checkpoint_id, job_id in session.execute(statement)}


def find_source_checkpoint(session: Session, job: JobRow) -> CheckpointRow | None:
    """What a job without a checkpoint of its own begins from; None: from the beginning.

    NotFound where it was taken away, by the doctor for one: to begin anew would be another run.
    """
    if job.source_checkpoint_id is None:
        return None
    checkpoint = session.get(CheckpointRow, job.source_checkpoint_id)
    if checkpoint is None:
        raise NotFound(f"the checkpoint {job.source_checkpoint_id} that it starts from is gone")
    return checkpoint


def _invalid(*faults: FieldError) -> InvalidInput:
    return InvalidInput("the job cannot start from there", field_errors=faults)


def _continue_mismatch(source: JobSpec, spec: JobSpec, iteration: int) -> Iterable[FieldError]:
    """The run must be the same up to the checkpoint, and something must be left to do."""
    for name in ("dataset", "seed", *(field.name for field in fields(Architecture))):
        theirs, ours = getattr(source, name), getattr(spec, name)
        if theirs != ours:
            yield _differs(f"/{name}", theirs, ours)
    recipe, former = spec.recipe, source.recipe
    for name in Recipe.model_fields.keys() - _MAY_DIFFER:
        if getattr(recipe, name) != getattr(former, name):
            yield _differs(f"/recipe/{name}", getattr(former, name), getattr(recipe, name))
    if _passed_milestones(recipe, iteration) != _passed_milestones(former, iteration):
        yield _differs("/recipe/milestones", former.milestones, recipe.milestones)
    is_shaped = recipe.schedule in {LrSchedule.LINEAR, LrSchedule.COSINE}
    if is_shaped and recipe.iterations != former.iterations:
        yield _differs("/recipe/iterations", former.iterations, recipe.iterations)
    if recipe.iterations <= iteration:
        message = f"the checkpoint is at iteration {iteration}; received {recipe.iterations}"
        yield FieldError(pointer="/recipe/iterations", message=message)


def _passed_milestones(recipe: Recipe, iteration: int) -> list[int]:
    return [milestone for milestone in recipe.milestones if milestone < iteration]


def _weights_mismatch(source: JobSpec, spec: JobSpec, _iteration: int) -> Iterable[FieldError]:
    for field in fields(Architecture):
        theirs, ours = getattr(source, field.name), getattr(spec, field.name)
        # It decides how weights begin, and these do not begin.
        if theirs != ours and field.name != "zero_init_residual":
            yield _differs(f"/{field.name}", theirs, ours)
    yield from _class_mismatch(source, spec)


def _deepen_mismatch(source: JobSpec, spec: JobSpec, _iteration: int) -> Iterable[FieldError]:
    message = architectures.find_deepening_mismatch(source.architecture, spec.architecture)
    if message is not None:
        yield FieldError(pointer="/depth", message=message)
    yield from _class_mismatch(source, spec)


def _class_mismatch(source: JobSpec, spec: JobSpec) -> Iterable[FieldError]:
    """Of an image folder only the images can tell how many there are."""
    theirs, ours = (find_dataset(one.dataset) for one in (source, spec))
    assert theirs is not None, "validated"
    assert ours is not None, "validated"
    if None not in {theirs.classes, ours.classes} and theirs.classes != ours.classes:
        message = f"{ours.name} has {ours.classes} classes, the network was made for "
        yield FieldError(pointer="/dataset", message=f"{message}{theirs.classes}")


def _differs(pointer: str, theirs: object, ours: object) -> FieldError:
    message = f"the job that it starts from has {theirs}; received {ours}"
    return FieldError(pointer=pointer, message=message)


_MISMATCHES: dict[StartMode, Callable[[JobSpec, JobSpec, int], Iterable[FieldError]]] = {
    StartMode.CONTINUE: _continue_mismatch,
    StartMode.WEIGHTS: _weights_mismatch,
    StartMode.DEEPEN: _deepen_mismatch,
}
