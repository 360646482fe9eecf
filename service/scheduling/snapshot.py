"""Reads from the database what the scheduling policy decides on."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Row, Select, or_, select
from sqlalchemy.orm import Session

from service.access import people, storage_use, usage
from service.execution import runners
from service.jobs import queue_order
from service.resources import ResourceBundle, WorkerGroup
from service.scheduling.estimates import Estimator, TimingProfile
from service.scheduling.policy import (
    DurationEstimate,
    RunningJob,
    SchedulerSnapshot,
    WaitingJob,
    WorkerOption,
)
from service.scheduling.worker_groups import WorkerGroups
from service.specs.quota import Quota, find_storage_limits, list_keys, list_limited_in_hours
from service.states import CONTINUING_STOPS, AttemptState, JobState
from service.storage.tables import AttemptRow, JobRow, TagRow
from service.storage.visibility import ALL_ROWS

# From the head of the queue: jobs that are considered for backfill, and that get a forecast.
MAX_WAITING_JOBS = 500

_ENDING = DurationEstimate(p50=0.0, p90=0.0)


def read_snapshot(
    session: Session,
    worker_groups: WorkerGroups,
    *,
    quotas: dict[str, Quota],
    data_dir: Path,
    now: datetime,
    estimator: Estimator | None = None,
) -> SchedulerSnapshot:
    """All that runs, and the first jobs that may start now, in their order.

    `estimator`: of durations; by default one that reads what was measured.
    """
    estimator = estimator or Estimator(session)
    running = session.execute(
        select(AttemptRow, JobRow)
        .join(JobRow, JobRow.id == AttemptRow.job_id)
        .where(AttemptRow.released_at.is_(None))
        .execution_options(**ALL_ROWS)
    ).all()
    # Of jobs that may end at the same time, every process lets the same one end first. SQLite would
    # read all attempts in their order.
    running = sorted(running, key=lambda row: row[0].id)
    # Those of the job are of the time when it last waited.
    points = queue_order.read_points(session) if running else {}
    waiting = session.execute(select_eligible(now).limit(MAX_WAITING_JOBS)).all()
    has_tag_quotas = any(key.startswith("tag:") for key in quotas)
    job_ids = [job.id for _, job in running] + [row.id for row in waiting]
    tags = _read_tags(session, job_ids) if has_tag_quotas else {}
    has_group_quotas = any(key.startswith("group:") for key in quotas)
    groups = people.read_groups(session) if has_group_quotas else {}
    jobs = _WaitingJobs(worker_groups, estimator)
    waiting_jobs = [jobs.make(row, groups.get(row.user), tags.get(row.id, ())) for row in waiting]
    keys = (
        [key for job in waiting_jobs for key in list_keys(job.user, job.group, job.tags)]
        if quotas
        else []
    )
    return SchedulerSnapshot(
        capacity=worker_groups.capacity,
        running=[
            _make_running_job(
                attempt,
                job,
                estimator,
                points=points.get(job.user, 0),
                group=groups.get(job.user),
                tags=tags.get(job.id, ()),
                now=now,
            )
            for attempt, job in running
        ],
        waiting=waiting_jobs,
        quotas=quotas,
        used=usage.read_usage(session, list_limited_in_hours(quotas, keys), now=now),
        stored=storage_use.count_bytes(session, find_storage_limits(quotas, keys), data_dir),
    )


def select_eligible(now: datetime) -> Select[*tuple[Any, ...]]:
    """Queued jobs that may start now, in their order; single columns, since rows are large."""
    return (
        select(
            JobRow.id,
            JobRow.queue_sort_key,
            JobRow.priority,
            JobRow.user,
            JobRow.checkpointed_iteration,
            JobRow.worker_counts,
            JobRow.cpus_per_worker,
            JobRow.gpus_per_worker,
            JobRow.timing_key,
            JobRow.macs_per_iteration,
            JobRow.iterations,
            JobRow.max_seconds,
        )
        .where(
            JobRow.state == JobState.QUEUED,
            or_(JobRow.not_before.is_(None), JobRow.not_before <= now),
        )
        .order_by(JobRow.queue_sort_key, JobRow.id)
        .execution_options(**ALL_ROWS)
    )


def _make_running_job(
    attempt: AttemptRow,
    job: JobRow,
    estimator: Estimator,
    *,
    points: int,
    group: str | None,
    tags: tuple[str, ...],
    now: datetime,
) -> RunningJob:
    has_ended = attempt.state is AttemptState.ENDED
    is_stopping = has_ended or job.stop_requested not in CONTINUING_STOPS
    deadline = attempt.backfill_deadline
    return RunningJob(
        job_id=job.id,
        sort_key=queue_order.make_sort_key(
            created_at=job.created_at, priority=job.priority, points=points
        ),
        priority=job.priority,
        resources=runners.worker_group_of(attempt).resources,
        num_workers=attempt.num_workers,
        user=job.user,
        remaining=_ENDING if is_stopping else estimator.estimate_remaining(attempt, job, now=now),
        group=group,
        tags=tags,
        is_preemptible=job.preemptible,
        is_stopping=is_stopping,
        is_overdue_backfill=deadline is not None and now >= deadline,
    )


class _WaitingJobs:
    """Makes waiting jobs from rows; examines those with equal specs, but for their seeds, once."""

    def __init__(self, worker_groups: WorkerGroups, estimator: Estimator) -> None:
        self._worker_groups = worker_groups
        self._estimator = estimator
        self._alike: dict[tuple[Any, ...], _Alike] = {}

    def make(
        self, row: Row[tuple[Any, ...]], group: str | None, tags: tuple[str, ...]
    ) -> WaitingJob:
        # Each attribute of a row is a search for its name.
        job_id, sort_key, priority, user, checkpointed, counts, *of_spec = tuple[Any, ...](row)
        key = (checkpointed, tuple(counts), *of_spec)
        alike = self._alike.get(key)
        if alike is None:
            alike = self._alike[key] = self._examine(row)
        return WaitingJob(
            job_id=job_id,
            sort_key=sort_key,
            priority=priority,
            resources=alike.resources,
            num_workers=alike.num_workers,
            user=user,
            group=group,
            tags=tags,
            has_checkpoint=checkpointed > 0,
            duration=alike.duration,
            is_elastic=len(counts) > 1,
            larger=alike.larger,
        )

    def _examine(self, row: Row[tuple[Any, ...]]) -> "_Alike":
        smallest, *larger = self._worker_groups.list(row.worker_counts, row)
        duration = self._estimator.estimate_total(
            TimingProfile.from_row(row, num_workers=smallest.num_workers),
            iterations=row.iterations - row.checkpointed_iteration,
        )
        return _Alike(smallest.num_workers, smallest.resources, list_options(larger), duration)


@dataclass(frozen=True)
class _Alike:
    """What jobs with equal specs, but for their seeds, have in common; as in WaitingJob."""

    num_workers: int
    resources: ResourceBundle
    larger: tuple[WorkerOption, ...]
    duration: DurationEstimate | None


def list_options(groups: Iterable[WorkerGroup]) -> tuple[WorkerOption, ...]:
    return tuple(WorkerOption(group.num_workers, group.resources) for group in groups)


def _read_tags(session: Session, job_ids: Iterable[str]) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = defaultdict(list)
    rows = session.execute(
        select(TagRow.job_id, TagRow.tag).where(TagRow.job_id.in_(list(job_ids)))
    )
    for job_id, tag in rows:
        found[job_id].append(tag)
    return {job_id: tuple(tags) for job_id, tags in found.items()}
