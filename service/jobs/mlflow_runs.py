"""Which runs of an MLflow server mirror trainings, and what these runs have of them already.

A row is claim, schedule and cursor in one. What a run lacks follows from the job and its metrics,
so that a training writes nothing for the mirror, and an outage of MLflow loses nothing.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from service.jobs import records
from service.jobs.training_key import flatten_spec
from service.specs.analysis_spec import TRAINING
from service.states import WAITING_STATES, JobState
from service.storage.tables import JobRow, MetricRow, MlflowRunRow, StudyMemberRow, TrialRow

# If a dispatcher dies, another one sends what it has claimed after this time.
_CLAIM_SECONDS = 60.0
# Between two looks at a job.
_RUNNING_SECONDS, _WAITING_SECONDS = 5.0, 60.0
_MAX_POINTS = 10_000
# MLflow refuses longer tags.
_MAX_TAG_LENGTH = 5000
# They may change later, and parameters of MLflow cannot.
_LABELS = {"name", "tags", "priority", "hold"}
# How long after the last complete search a job may have ended whose run is still missing.
_OVERLAP = timedelta(minutes=10)
_UNFINISHED = [state for state in JobState if not state.is_final]
_LAST = timedelta(milliseconds=1)
_STATUS = {
    JobState.STARTING: "RUNNING",
    JobState.RUNNING: "RUNNING",
    JobState.SUCCEEDED: "FINISHED",
    JobState.FAILED: "FAILED",
    JobState.CANCELLED: "KILLED",
}


@dataclass(frozen=True)
class Point:
    """`value` is None where it was not finite; `time`: seconds since 1970."""

    series: str
    iteration: int
    value: float | None
    time: float


@dataclass(frozen=True)
class Unsent:
    """What the run lacks. `run_id`: None where none is known; it needs all parameters.

    `status`: in MLflow's words. `cursor`: attempt and iteration of the newest point of each series
    after the points were sent. `is_last`: the job has ended, and nothing will follow.
    """

    job_id: str
    run_id: str | None
    name: str
    started_at: datetime
    ended_at: datetime | None
    status: str
    parameters: Mapping[str, str]
    tags: Mapping[str, str]
    points: Sequence[Point]
    cursor: Mapping[str, Sequence[int]]
    is_last: bool
    has_more: bool
    is_waiting: bool

    @property
    def is_empty(self) -> bool:
        return self.run_id is not None and not self.tags and not self.points


def list_missing(session: Session, *, since: datetime | None, limit: int) -> Sequence[str]:
    """Ids of trainings that have started and have no row.

    `since`: those that had ended before, except for a few minutes, have rows. None: not known.
    """
    unfinished = JobRow.state.in_(_UNFINISHED)
    ended: ColumnElement[bool] = JobRow.finished_at.is_not(None)
    if since is not None:
        ended = JobRow.finished_at >= since - _OVERLAP
    return session.scalars(
        select(JobRow.id)
        .outerjoin(MlflowRunRow, MlflowRunRow.job_id == JobRow.id)
        .where(
            MlflowRunRow.job_id.is_(None),
            JobRow.kind == TRAINING,
            JobRow.started_at.is_not(None),
            or_(unfinished, ended),
        )
        .limit(limit)
    ).all()


def add(session: Session, job_ids: Iterable[str], *, now: datetime) -> None:
    """Adds rows that are due. Another dispatcher may have added them, or a job was deleted."""
    existing = session.scalars(select(JobRow.id).where(JobRow.id.in_(job_ids))).all()
    rows = [
        {"job_id": job_id, "sent_tags": {}, "sent_points": {}, "next_try_at": now}
        for job_id in existing
    ]
    if rows:
        insert = sqlite.insert if session.get_bind().dialect.name == "sqlite" else postgresql.insert
        session.execute(insert(MlflowRunRow).on_conflict_do_nothing(), rows)


def is_any_due(session: Session, *, now: datetime) -> bool:
    due = select(MlflowRunRow.job_id).where(MlflowRunRow.next_try_at <= now).limit(1)
    return session.scalar(due) is not None


def claim_due(session: Session, *, now: datetime, limit: int) -> list[str]:
    """Ids of jobs at whose runs no other dispatcher looks for a minute."""
    rows = session.scalars(
        select(MlflowRunRow)
        .where(MlflowRunRow.next_try_at <= now)
        .order_by(MlflowRunRow.next_try_at, MlflowRunRow.job_id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    for row in rows:
        row.next_try_at = now + timedelta(seconds=_CLAIM_SECONDS)
    return [row.job_id for row in rows]


def read_unsent(session: Session, job_id: str, *, public_url: str | None) -> Unsent | None:
    """None where the job was deleted."""
    found = session.execute(
        select(MlflowRunRow, JobRow)
        .join(JobRow, JobRow.id == MlflowRunRow.job_id)
        .where(JobRow.id == job_id)
    ).first()
    if found is None:
        return None
    run, job = found
    tags = {
        name: value
        for name, value in _list_tags(session, job, public_url).items()
        if run.sent_tags.get(name) != value
    }
    points, cursor, has_more = _read_new_points(session, job, run.sent_points)
    if "resnetd.state" in tags and job.finished_at is not None:
        points += _list_results(job, job.finished_at)
    assert job.started_at is not None
    return Unsent(
        job_id=job.id,
        run_id=run.run_id,
        name=job.name,
        started_at=job.started_at,
        ended_at=job.finished_at,
        status=_STATUS.get(job.state, "SCHEDULED"),
        parameters={
            name: value if isinstance(value, str) else json.dumps(value)
            for name, value in flatten_spec(job.spec).items()
            if value is not None and name not in _LABELS
        },
        tags=tags,
        points=points,
        cursor=cursor,
        is_last=job.state.is_final and not has_more,
        has_more=has_more,
        is_waiting=job.state in WAITING_STATES,
    )


def record_sent(session: Session, sent: Unsent, run_id: str, *, now: datetime) -> None:
    row = session.get(MlflowRunRow, sent.job_id, with_for_update=True)
    if row is None:  # the job was deleted meanwhile
        return
    row.run_id = run_id
    row.sent_tags = {**row.sent_tags, **sent.tags}
    row.sent_points = {**row.sent_points, **{name: list(at) for name, at in sent.cursor.items()}}
    row.next_try_at = _find_next_time(sent, now)


def postpone(session: Session, unchanged: Iterable[Unsent], *, now: datetime) -> None:
    for unsent in unchanged:
        _set_next_time(session, unsent.job_id, _find_next_time(unsent, now))


def release(session: Session, job_ids: Sequence[str], *, now: datetime) -> None:
    """Of claims that were not used, and first of the one that failed, which is then due last."""
    for number, job_id in enumerate(job_ids):
        _set_next_time(session, job_id, now if number else now + _LAST)


def give_up(session: Session, job_id: str) -> None:
    """MLflow has refused what no repetition changes."""
    _set_next_time(session, job_id, None)


def _set_next_time(session: Session, job_id: str, at: datetime | None) -> None:
    session.execute(
        update(MlflowRunRow).where(MlflowRunRow.job_id == job_id).values(next_try_at=at)
    )


def _find_next_time(sent: Unsent, now: datetime) -> datetime | None:
    if sent.is_last:
        return None
    if sent.has_more:
        return now
    return now + timedelta(seconds=_WAITING_SECONDS if sent.is_waiting else _RUNNING_SECONDS)


def _read_new_points(
    session: Session, job: JobRow, cursor: Mapping[str, Sequence[int]]
) -> tuple[list[Point], dict[str, Sequence[int]], bool]:
    """Of each series the oldest first, with the cursor after them, and whether there are more."""
    points: list[Point] = []
    moved: dict[str, Sequence[int]] = {}
    for series in sorted(job.latest_metrics):
        statement = select(
            MetricRow.attempt, MetricRow.iteration, MetricRow.value, MetricRow.time
        ).where(MetricRow.job_id == job.id, MetricRow.series == series)
        if series in cursor:
            attempt, iteration = cursor[series]
            newer = and_(MetricRow.attempt == attempt, MetricRow.iteration > iteration)
            if attempt == job.attempts:  # the index finds these without the older ones
                statement = statement.where(newer)
            else:
                statement = statement.where(or_(newer, MetricRow.attempt > attempt))
        limit = _MAX_POINTS - len(points)
        rows = session.execute(
            statement.order_by(MetricRow.attempt, MetricRow.iteration).limit(limit + 1)
        ).all()
        for row in rows[:limit]:
            points.append(Point(series, row.iteration, row.value, row.time))
            moved[series] = (row.attempt, row.iteration)
        if len(rows) > limit:
            return points, moved, True
    return points, moved, False


def _list_results(job: JobRow, ended_at: datetime) -> list[Point]:
    """As points of series such as `result/test_error`."""
    iteration = 0 if job.progress is None else int(job.progress["iteration"])
    return [
        Point(f"result/{name}", iteration, float(value), ended_at.timestamp())
        for name, value in (job.result or {}).items()
        if isinstance(value, int | float)
    ]


def _list_tags(session: Session, job: JobRow, public_url: str | None) -> dict[str, str]:
    """The tags of `resnetd export --to mlflow`, which so finds the run and completes it."""
    trial = session.scalars(select(TrialRow).where(TrialRow.job_id == job.id)).first()
    member = session.scalars(
        select(StudyMemberRow).where(StudyMemberRow.job_id == job.id).limit(1)
    ).first()
    tags: dict[str, Any] = {
        "resnetd.job_id": job.id,
        "resnetd.url": None if public_url is None else f"{public_url}/jobs/{job.id}",
        "resnetd.network": records.architecture_of(job).label,
        "resnetd.state": job.state,
        "resnetd.reason": job.reason,
        "resnetd.tags": ", ".join(job.spec.get("tags") or ()),
        "resnetd.search_id": None if trial is None else trial.search_id,
        "resnetd.trial": None if trial is None else trial.number,
        "resnetd.study_id": None if member is None else member.study_id,
        "resnetd.member": None if member is None else member.label,
        "mlflow.runName": job.name,
        "mlflow.user": job.user,
        "mlflow.note.content": job.note,
        "mlflow.source.git.commit": (job.environment or {}).get("versions", {}).get("commit"),
    }
    return {name: str(value)[:_MAX_TAG_LENGTH] for name, value in tags.items() if value is not None}
