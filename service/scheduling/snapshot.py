"""The queue as `service.schedule` sees it, read from the database."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Select, or_, select
from sqlalchemy.orm import Session

from service.resources import ResourceBundle
from service.scheduling.estimates import Estimates
from service.scheduling.policy import DurationEstimate, RunningJob, SchedulerSnapshot, WaitingJob
from service.settings import ConcurrencyLimit
from service.states import AttemptState, JobState
from service.storage.tables import AttemptRow, JobRow, TagRow

# So far behind the head jobs are looked at for a gap to fill, and told when they may start.
DEPTH = 500

_ENDING = DurationEstimate(p50=0.0, p90=0.0)


def read_snapshot(
    session: Session,
    whole: ResourceBundle,
    *,
    limits: Mapping[str, ConcurrencyLimit],
    now: datetime,
    depth: int = DEPTH,
) -> SchedulerSnapshot:
    """All that runs, and the first `depth` jobs that may start now, in their order."""
    estimates = Estimates(session)
    has_tag_limits = any(key.startswith("tag:") for key in limits)
    running = session.execute(
        select(AttemptRow, JobRow)
        .join(JobRow, JobRow.id == AttemptRow.job_id)
        .where(AttemptRow.released_at.is_(None))
    ).all()
    waiting = session.execute(select_eligible(now).limit(depth)).all()
    ids = [job.id for _, job in running] + [row.id for row in waiting]
    tags = _read_tags(session, ids) if has_tag_limits else {}
    return SchedulerSnapshot(
        whole=whole,
        running=[
            _running_job(attempt, job, estimates, tags.get(job.id, ()), now=now)
            for attempt, job in running
        ],
        waiting=[
            WaitingJob(
                job_id=row.id,
                sort_key=row.queue_sort_key,
                priority=row.priority,
                needed=required_resources(
                    whole,
                    num_workers=row.num_workers,
                    cpus_per_worker=row.cpus_per_worker,
                    gpus_per_worker=row.gpus_per_worker,
                ),
                num_workers=row.num_workers,
                user=row.user,
                tags=tags.get(row.id, ()),
                lasts=estimates.whole(
                    timing_key=row.timing_key,
                    macs_per_iteration=row.macs_per_iteration,
                    resources=(row.num_workers, row.cpus_per_worker, row.gpus_per_worker),
                    iterations=row.iterations - row.checkpointed_iteration,
                ),
            )
            for row in waiting
        ],
        limits=limits,
    )


def required_resources(
    whole: ResourceBundle, *, num_workers: int, cpus_per_worker: int, gpus_per_worker: float | None
) -> ResourceBundle:
    """What a job occupies: a GPU for each worker where nothing was said and there are so many."""
    if gpus_per_worker is None:
        gpus_per_worker = 1 if whole.gpus >= num_workers else 0
    return ResourceBundle(cpus=num_workers * cpus_per_worker, gpus=num_workers * gpus_per_worker)


def select_eligible(now: datetime) -> Select[*tuple[Any, ...]]:
    """Queued jobs that do not wait to be tried again, in their order. Columns: rows are large."""
    return (
        select(
            JobRow.id,
            JobRow.queue_sort_key,
            JobRow.priority,
            JobRow.num_workers,
            JobRow.cpus_per_worker,
            JobRow.gpus_per_worker,
            JobRow.user,
            JobRow.timing_key,
            JobRow.macs_per_iteration,
            JobRow.iterations,
            JobRow.checkpointed_iteration,
        )
        .where(
            JobRow.state == JobState.QUEUED,
            or_(JobRow.not_before.is_(None), JobRow.not_before <= now),
        )
        .order_by(JobRow.queue_sort_key, JobRow.id)
    )


def _running_job(
    attempt: AttemptRow,
    job: JobRow,
    estimates: Estimates,
    tags: tuple[str, ...],
    *,
    now: datetime,
) -> RunningJob:
    has_ended = attempt.state is AttemptState.ENDED
    is_stopping = has_ended or job.stop_requested is not None
    return RunningJob(
        job_id=job.id,
        sort_key=job.queue_sort_key,
        priority=job.priority,
        held=ResourceBundle(
            cpus=attempt.num_workers * attempt.cpus_per_worker,
            gpus=attempt.num_workers * attempt.gpus_per_worker,
        ),
        num_workers=attempt.num_workers,
        user=job.user,
        ends_in=_ENDING if is_stopping else estimates.left(attempt, job, now=now),
        tags=tags,
        is_preemptible=job.preemptible,
        is_stopping=is_stopping,
        is_overdue_backfill=attempt.backfill_deadline is not None
        and now >= attempt.backfill_deadline,
    )


def _read_tags(session: Session, job_ids: Iterable[str]) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = defaultdict(list)
    rows = session.execute(
        select(TagRow.job_id, TagRow.tag).where(TagRow.job_id.in_(list(job_ids)))
    )
    for job_id, tag in rows:
        found[job_id].append(tag)
    return {job_id: tuple(tags) for job_id, tags in found.items()}
