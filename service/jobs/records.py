"""Rows of jobs: finding them, and their JSON columns as types."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from pydantic import TypeAdapter
from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from service import ids
from service.catalog.architectures import Architecture
from service.errors import NotFound
from service.jobs import job_query
from service.specs.job_spec import JobSpec, Retention
from service.specs.protocol import Progress, RunEnvironment, TrainingResult
from service.states import JobState
from service.storage import paging
from service.storage.paging import Page
from service.storage.tables import JobRow, TagRow
from service.storage.visibility import VISIBLE_ROWS

# `find_job`, or `lifecycle.lock_job`.
FindJob = Callable[[Session, str], JobRow]


def find_job(session: Session, job_id: str) -> JobRow:
    job = None
    if ids.is_id(job_id):
        job = session.get(JobRow, job_id, execution_options=VISIBLE_ROWS)
    if job is None:
        raise NotFound(f"no job {job_id!r}")
    return job


def find_jobs(session: Session, job_ids: Iterable[str]) -> list[JobRow]:
    """In the order of their first mention, each once; NotFound for the first that is missing."""
    wanted = list(dict.fromkeys(job_ids))
    known = [job_id for job_id in wanted if ids.is_id(job_id)]
    statement = select(JobRow).where(JobRow.id.in_(known))
    found = {job.id: job for job in session.scalars(statement, execution_options=VISIBLE_ROWS)}
    for job_id in wanted:
        if job_id not in found:
            raise NotFound(f"no job {job_id!r}")
    return [found[job_id] for job_id in wanted]


def list_ids_of(session: Session, user: str) -> list[str]:
    """Of all jobs of this person, oldest first."""
    return list(session.scalars(select(JobRow.id).where(JobRow.user == user).order_by(JobRow.id)))


def count_events_and_log_lines(session: Session, job_id: str) -> tuple[int, int] | None:
    """Also of those that are no longer kept; None if there is no such job."""
    columns = select(JobRow.event_count, JobRow.log_line_count)
    row = session.execute(columns.where(JobRow.id == job_id)).one_or_none()
    return None if row is None else (row.event_count, row.log_line_count)


@dataclass(frozen=True)
class JobFilter:
    """`name`: a part of the name. `text`: words of name, note or tags.

    `where`: conditions of service.jobs.job_query. `archived`: as in paging.read_page.
    """

    ids: Sequence[str] = ()
    states: Sequence[JobState] = ()
    kinds: Sequence[str] = ()
    dataset: str | None = None
    tags: Sequence[str] = ()
    name: str | None = None
    text: str | None = None
    where: Sequence[str] = ()
    archived: bool | None = None
    id_prefix: str | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        found: list[ColumnElement[bool]] = [
            JobRow.id.in_(select(TagRow.job_id).where(TagRow.tag == tag)) for tag in self.tags
        ]
        found += [job_query.parse_condition(condition) for condition in self.where]
        if self.states:
            found.append(JobRow.state.in_(self.states))
        if self.kinds:
            found.append(JobRow.kind.in_(self.kinds))
        if self.dataset is not None:
            found.append(JobRow.dataset == self.dataset)
        if self.name is not None:
            found.append(JobRow.name.contains(self.name, autoescape=True))
        if self.text is not None:
            found.append(job_query.contains_words(self.text))
        return found


def list_page(
    session: Session,
    wanted: JobFilter,
    *,
    limit: int,
    token: str | None = None,
    sort: str | None = None,
) -> Page[JobRow]:
    """Jobs that match all filters, newest first, or in the order of job_query.parse_order."""
    return paging.read_page(
        session,
        JobRow,
        *wanted.conditions(),
        limit=limit,
        token=token,
        named=wanted.ids,
        id_prefix=wanted.id_prefix,
        archived=wanted.archived,
        order=job_query.parse_order(sort) if sort is not None else (),
    )


def spec_of(job: JobRow) -> JobSpec:
    """The complete spec. Its validation takes a tenth of a millisecond: not for what is polled."""
    return JobSpec.model_validate(job.spec)


_ARCHITECTURE = TypeAdapter(Architecture)


def architecture_of(job: JobRow) -> Architecture:
    return _ARCHITECTURE.validate_python(job.spec)


def batch_size_of(job: JobRow) -> int:
    return int(job.spec["recipe"]["batch_size"])


def max_restarts_of(job: JobRow) -> int:
    return int(job.spec["max_restarts"])


def retention_of(job: JobRow) -> Retention:
    return Retention.model_validate(job.spec["retention"])


def tags_of(job: JobRow) -> tuple[str, ...]:
    return tuple(job.spec["tags"])


def time_limit_of(job: JobRow) -> timedelta:
    return timedelta(minutes=job.spec["time_limit_minutes"])


def progress_of(job: JobRow) -> Progress | None:
    return None if job.progress is None else Progress.model_validate(job.progress)


def environment_of(job: JobRow) -> RunEnvironment | None:
    return None if job.environment is None else RunEnvironment.model_validate(job.environment)


def result_of(job: JobRow) -> TrainingResult | None:
    return None if job.result is None else TrainingResult.model_validate(job.result)
