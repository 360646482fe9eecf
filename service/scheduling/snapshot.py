"""Reads from the database what the scheduling policy decides on."""

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Row, Select, or_, select
from sqlalchemy.orm import Session

from service.access import people, storage_use, usage
from service.execution import runners
from service.jobs import queue_order
from service.resources import WorkerGroup
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
    # Those of the job are of the time when it last waited.
    points = queue_order.read_points(session) if running else {}
    waiting = session.execute(select_eligible(now).limit(MAX_WAITING_JOBS)).all()
    has_tag_quotas = any(key.startswith("tag:") for key in quotas)
    job_ids = [job.id for _, job in running] + [row.id for row in waiting]
    tags = _read_tags(session, job_ids) if has_tag_quotas else {}
    has_group_quotas = any(key.startswith("group:") for key in quotas)
    groups = people.read_groups(session) if has_group_quotas else {}
    waiting_jobs = [
        _make_waiting_job(row, worker_groups, estimator, groups.get(row.user), tags.get(row.id, ()))
        for row in waiting
    ]
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
            JobRow.worker_counts,
            JobRow.cpus_per_worker,
            JobRow.gpus_per_worker,
            JobRow.user,
            JobRow.timing_key,
            JobRow.macs_per_iteration,
            JobRow.iterations,
            JobRow.max_seconds,
            JobRow.checkpointed_iteration,
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


def _make_waiting_job(
    row: Row[tuple[Any, ...]],
    worker_groups: WorkerGroups,
    estimator: Estimator,
    group: str | None,
    tags: tuple[str, ...],
) -> WaitingJob:
    smallest, *larger = worker_groups.list(row.worker_counts, row)
    return WaitingJob(
        job_id=row.id,
        sort_key=row.queue_sort_key,
        priority=row.priority,
        resources=smallest.resources,
        num_workers=smallest.num_workers,
        user=row.user,
        group=group,
        tags=tags,
        has_checkpoint=row.checkpointed_iteration > 0,
        duration=estimator.estimate_total(
            TimingProfile.from_row(row, num_workers=smallest.num_workers),
            iterations=row.iterations - row.checkpointed_iteration,
        ),
        is_elastic=len(row.worker_counts) > 1,
        larger=list_options(larger),
    )


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
