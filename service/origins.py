"""Starting from another job: which checkpoint is meant, whether it fits, and that it stays."""

from collections.abc import Callable, Iterable
from dataclasses import fields

from sqlalchemy import select
from sqlalchemy.orm import Session

from service import checkpoints, moves, networks
from service.datasets import find as find_dataset
from service.errors import Fault, InvalidInput, NotFound
from service.networks import Architecture
from service.recipes import Recipe, Schedule
from service.spec import How, JobSpec
from service.states import FINAL_STATES
from service.tables import CheckpointRow, JobRow

# What of a recipe may differ where a run is continued: none of it changes what lies behind.
_MAY_DIFFER = frozenset({"name", "iterations", "milestones", "checkpoint_every", "exports"})


def resolve(session: Session, spec: JobSpec) -> CheckpointRow | None:
    """The checkpoint that the spec starts from, its job locked: no retention deletes it meanwhile.

    None where the spec starts from the beginning. InvalidInput where there is no such checkpoint,
    or where it does not fit the spec.
    """
    start = spec.start_from
    if start is None:
        return None
    try:
        source = moves.lock(session, start.job)
    except NotFound as error:
        raise _invalid(Fault(pointer="/start_from/job", message=str(error))) from error
    try:
        checkpoint = checkpoints.choose(session, source.id, start.checkpoint)
    except NotFound as error:
        raise _invalid(Fault(pointer="/start_from/checkpoint", message=str(error))) from error
    misfits = _MISFITS[start.how](JobSpec.model_validate(source.spec), spec, checkpoint.iteration)
    faults = tuple(misfits)
    if faults:
        raise _invalid(*faults)
    return checkpoint


def needed_by(session: Session, checkpoint_ids: Iterable[str]) -> dict[str, str]:
    """Of these checkpoints those that unfinished jobs start from, each with one of the jobs."""
    statement = select(JobRow.source_checkpoint_id, JobRow.id).where(
        JobRow.source_checkpoint_id.in_(tuple(checkpoint_ids)),
        JobRow.state.not_in(FINAL_STATES),
    )
    return {str(checkpoint_id): job_id for checkpoint_id, job_id in session.execute(statement)}


def of_first_attempt(session: Session, job: JobRow) -> CheckpointRow | None:
    """What a job without a checkpoint of its own begins from; None: from the beginning.

    NotFound where it was taken away, by the doctor for one: to begin anew would be another run.
    """
    if job.source_checkpoint_id is None:
        return None
    checkpoint = session.get(CheckpointRow, job.source_checkpoint_id)
    if checkpoint is None:
        raise NotFound(f"the checkpoint {job.source_checkpoint_id} that it starts from is gone")
    return checkpoint


def _invalid(*faults: Fault) -> InvalidInput:
    return InvalidInput("the job cannot start from there", faults=faults)


def _continue(source: JobSpec, spec: JobSpec, iteration: int) -> Iterable[Fault]:
    """The run must be the same up to the checkpoint, and something must be left to do."""
    for name in ("dataset", "seed", *(field.name for field in fields(Architecture))):
        theirs, ours = getattr(source, name), getattr(spec, name)
        if theirs != ours:
            yield _differs(f"/{name}", theirs, ours)
    recipe, former = spec.recipe, source.recipe
    for name in Recipe.model_fields.keys() - _MAY_DIFFER:
        if getattr(recipe, name) != getattr(former, name):
            yield _differs(f"/recipe/{name}", getattr(former, name), getattr(recipe, name))
    if _behind(recipe, iteration) != _behind(former, iteration):
        yield _differs("/recipe/milestones", former.milestones, recipe.milestones)
    is_shaped = recipe.schedule in {Schedule.LINEAR, Schedule.COSINE}
    if is_shaped and recipe.iterations != former.iterations:
        yield _differs("/recipe/iterations", former.iterations, recipe.iterations)
    if recipe.iterations <= iteration:
        message = f"the checkpoint is at iteration {iteration}; received {recipe.iterations}"
        yield Fault(pointer="/recipe/iterations", message=message)


def _behind(recipe: Recipe, iteration: int) -> list[int]:
    return [milestone for milestone in recipe.milestones if milestone < iteration]


def _weights(source: JobSpec, spec: JobSpec, _iteration: int) -> Iterable[Fault]:
    for field in fields(Architecture):
        theirs, ours = getattr(source, field.name), getattr(spec, field.name)
        # It decides how weights begin, and these do not begin.
        if theirs != ours and field.name != "zero_gamma":
            yield _differs(f"/{field.name}", theirs, ours)
    yield from _other_classes(source, spec)


def _deepen(source: JobSpec, spec: JobSpec, _iteration: int) -> Iterable[Fault]:
    words = networks.cannot_deepen(source.architecture, spec.architecture)
    if words is not None:
        yield Fault(pointer="/depth", message=words)
    yield from _other_classes(source, spec)


def _other_classes(source: JobSpec, spec: JobSpec) -> Iterable[Fault]:
    """Of an image folder only the images can tell how many there are."""
    theirs, ours = (find_dataset(one.dataset) for one in (source, spec))
    assert theirs is not None, "validated"
    assert ours is not None, "validated"
    if None not in {theirs.classes, ours.classes} and theirs.classes != ours.classes:
        message = f"{ours.name} has {ours.classes} classes, the network was made for "
        yield Fault(pointer="/dataset", message=f"{message}{theirs.classes}")


def _differs(pointer: str, theirs: object, ours: object) -> Fault:
    message = f"the job that it starts from has {theirs}; received {ours}"
    return Fault(pointer=pointer, message=message)


_MISFITS: dict[How, Callable[[JobSpec, JobSpec, int], Iterable[Fault]]] = {
    How.CONTINUE: _continue,
    How.WEIGHTS: _weights,
    How.DEEPEN: _deepen,
}
