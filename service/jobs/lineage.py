"""The lineage of a job: whose checkpoints it started from, and which trainings from its own."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, select
from sqlalchemy.orm import Session

from service.specs.analysis_spec import TRAINING
from service.specs.job_spec import StartMode
from service.states import JobState
from service.storage.tables import JobRow

# A page shows no more.
_MAX_JOBS = 500


@dataclass(frozen=True)
class LineageSource:
    """The checkpoint that a job started from; its job may have been deleted since."""

    job_id: str
    iteration: int
    mode: StartMode


@dataclass(frozen=True)
class LineageJob:
    id: str
    name: str
    state: JobState
    source: LineageSource | None


def read_lineage(session: Session, job_id: str) -> list[LineageJob]:
    """The job, its ancestors and at most 500 descendants, in the order of their submission.

    Every job comes after the one that it started from, without which it could not be submitted.
    """
    newest = _read_jobs(session, JobRow.id == job_id)
    found = list(newest)
    # An ancestor that was deleted ends the chain.
    while newest and newest[0].source is not None:
        newest = _read_jobs(session, JobRow.id == newest[0].source.job_id)
        found += newest
    parents = [job_id]
    while parents and len(found) < _MAX_JOBS:
        is_child = and_(JobRow.source_job_id.in_(parents), JobRow.kind == TRAINING)
        children = _read_jobs(session, is_child)
        found += children
        parents = [child.id for child in children]
    return sorted(found, key=lambda job: job.id)


def _read_jobs(session: Session, condition: ColumnElement[bool]) -> Sequence[LineageJob]:
    """Only the columns that are needed: specs are large."""
    rows = session.execute(
        select(
            JobRow.id,
            JobRow.name,
            JobRow.state,
            JobRow.source_job_id,
            JobRow.source_iteration,
            JobRow.spec["start_from"]["mode"].as_string(),
        )
        .where(condition)
        .order_by(JobRow.id)
        .limit(_MAX_JOBS)
    )
    return [
        LineageJob(
            id=job_id,
            name=name,
            state=state,
            source=LineageSource(source_job_id, iteration, StartMode(mode))
            if source_job_id is not None
            else None,
        )
        for job_id, name, state, source_job_id, iteration, mode in rows
    ]
