from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from service import ids
from service.catalog import model_stats
from service.catalog.datasets import find_dataset
from service.catalog.model_stats import ModelStats
from service.errors import NotFound
from service.specs.job_spec import JobSpec
from service.states import JobState
from service.storage.tables import JobRow, TagRow


def spec_of(job: JobRow) -> JobSpec:
    return JobSpec.model_validate(job.spec)


def timing_key(spec: JobSpec) -> str:
    """Jobs of one shape take as long for an iteration, on the same machines."""
    resources = spec.resources
    gpus = "any" if resources.gpus_per_worker is None else f"{resources.gpus_per_worker:g}"
    return (
        f"{spec.family}/{spec.network}/{spec.dataset}/batch={spec.recipe.batch_size}"
        f"/workers={resources.num_workers}/cpus={resources.cpus_per_worker}/gpus={gpus}"
    )


def model_stats_of(spec: JobSpec) -> ModelStats | None:
    """What the spec's network weighs; None where only the folder's images can tell."""
    dataset = find_dataset(spec.dataset)
    assert dataset is not None, "validated"
    if dataset.classes is None or dataset.size is None:
        return None
    return model_stats.compute_model_stats(
        spec.architecture,
        classes=dataset.classes,
        height=dataset.size,
        width=dataset.size,
    )


def macs_per_iteration(spec: JobSpec) -> float | None:
    """Multiply-adds of the forward pass in one iteration; None where only the images can tell."""
    weight = model_stats_of(spec)
    return None if weight is None else float(weight.multiply_adds * spec.recipe.batch_size)


def find_job(session: Session, job_id: str) -> JobRow:
    job = session.get(JobRow, job_id) if ids.is_id(job_id) else None
    if job is None:
        raise NotFound(f"no job {job_id!r}")
    return job


@dataclass(frozen=True)
class JobPage:
    """`next_id`: where the next page begins; None after the last."""

    jobs: list[JobRow]
    next_id: str | None


def list_page(
    session: Session,
    *,
    limit: int,
    before_id: str | None = None,
    states: Sequence[JobState] = (),
    dataset: str | None = None,
    tags: Sequence[str] = (),
    name: str | None = None,
    id_prefix: str | None = None,
) -> JobPage:
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
    return JobPage(jobs=found[:limit], next_id=found[limit - 1].id if has_more else None)
