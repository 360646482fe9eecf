"""The state of the service for monitoring, in a number of queries that no number of rows changes.

All of it is in the database, so each API process returns the same.
"""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Select, and_, case, func, or_, select
from sqlalchemy.orm import Session

from service.access import quotas, storage_use
from service.catalog import uploads
from service.resources import ResourceBundle
from service.scheduling import cluster_state, dispatchers, policy, snapshot
from service.scheduling.cluster_state import ClusterState
from service.scheduling.dispatchers import DispatchersState
from service.scheduling.estimates import Estimator, TimingProfile
from service.scheduling.policy import DurationEstimate, SchedulerSnapshot, Usage, WaitingJob
from service.scheduling.queue_status import WaitReason
from service.states import WAITING_STATES, AttemptState, JobState, RayJobState, Reason
from service.storage.database import Database
from service.storage.tables import AttemptRow, JobRow, PersonRow, RunnerRow
from service.storage.visibility import ALL_ROWS

# The groups with the most jobs have a number of their own.
MAX_GROUPS = 20
OTHER_GROUPS = "(other)"
NO_GROUP = "(none)"
_UNFINISHED = [*WAITING_STATES, JobState.STARTING, JobState.RUNNING]
_OWN_REASONS = {
    JobState.BLOCKED: WaitReason.DEPENDENCY,
    JobState.PAUSED: WaitReason.PAUSED,
    JobState.HELD: WaitReason.HELD,
}


@dataclass(frozen=True)
class QueueState:
    """Jobs that have not ended.

    `oldest_at`: when the oldest job was submitted that may start and has not run yet. `waiting`,
    `running`: by group of people, of MAX_GROUPS groups, the others as one.
    """

    reasons: Counter[WaitReason]
    oldest_at: datetime | None
    waiting: Counter[str]
    running: Counter[str]


@dataclass(frozen=True)
class ServiceState:
    """`reserved`: what attempts occupy. `runners`: by state; `idle_runners` of those are ready."""

    queue: QueueState
    cluster: ClusterState | None
    reserved: ResourceBundle
    runners: Counter[RayJobState]
    idle_runners: int
    dispatchers: DispatchersState


def read_state(session: Session, *, data_dir: Path, now: datetime) -> ServiceState:
    """`data_dir`: of uploads, which quotas may limit."""
    cluster = cluster_state.find_cluster(session)
    runners, idle_runners = _count_runners(session)
    return ServiceState(
        queue=_read_queue(session, cluster, data_dir=data_dir, now=now),
        cluster=cluster,
        reserved=cluster_state.sum_reserved(session),
        runners=runners,
        idle_runners=idle_runners,
        dispatchers=dispatchers.read_state(session, now=now),
    )


@dataclass(frozen=True)
class AttemptTimes:
    """When an attempt was claimed, had done its first step, and ended.

    `was_runner_waiting`: the attempt was claimed for a runner that had been submitted before.
    """

    id: str
    state: AttemptState
    created_at: datetime
    first_step_at: datetime | None
    ended_at: datetime | None
    reason: Reason | None
    was_runner_waiting: bool


def list_attempts(session: Session, *, since: datetime) -> list[AttemptTimes]:
    """Those that have not ended, or have ended since."""
    rows = session.execute(
        select(
            AttemptRow.id,
            AttemptRow.state,
            AttemptRow.created_at,
            AttemptRow.submitted_at,
            AttemptRow.first_step_at,
            AttemptRow.ended_at,
            AttemptRow.reason,
        ).where(or_(AttemptRow.ended_at.is_(None), AttemptRow.ended_at > since))
    )
    return [
        AttemptTimes(
            id=row.id,
            state=row.state,
            created_at=row.created_at,
            first_step_at=row.first_step_at,
            ended_at=row.ended_at,
            reason=row.reason,
            was_runner_waiting=row.submitted_at == row.created_at,
        )
        for row in rows
    ]


@dataclass(frozen=True)
class StoredBytes:
    """`checkpoints`: as their rows say; `datasets`: that people uploaded; `database`: its files."""

    checkpoints: int
    datasets: int
    database: int


def count_stored_bytes(session: Session, database: Database, *, data_dir: Path) -> StoredBytes:
    """Reads all rows of checkpoints: not for each scrape."""
    return StoredBytes(
        checkpoints=storage_use.count_all_checkpoints(session),
        datasets=uploads.count_bytes(data_dir).total(),
        database=database.read_size(session),
    )


def _read_queue(
    session: Session, cluster: ClusterState | None, *, data_dir: Path, now: datetime
) -> QueueState:
    reasons: Counter[WaitReason] = Counter()
    waiting: Counter[str] = Counter()
    running: Counter[str] = Counter()
    oldest_at: datetime | None = None
    num_eligible = 0
    for row in session.execute(_select_counts(now)):
        group = row.group or NO_GROUP
        if not row.state.is_waiting:
            running[group] += row.jobs
            continue
        waiting[group] += row.jobs
        if row.state is JobState.QUEUED:
            num_eligible += row.jobs - row.in_backoff
            reasons[WaitReason.BACKOFF] += row.in_backoff
            if row.oldest_at is not None:
                oldest_at = min(oldest_at or row.oldest_at, row.oldest_at)
            continue
        # Only the service gives a job that is held a reason.
        num_parked = row.with_reason if row.state is JobState.HELD else 0
        reasons[WaitReason.PARKED] += num_parked
        reasons[_OWN_REASONS[row.state]] += row.jobs - num_parked
    if num_eligible:
        reasons += _count_reasons(session, cluster, num_eligible, data_dir=data_dir, now=now)
    largest = {group for group, _ in (waiting + running).most_common(MAX_GROUPS)}
    return QueueState(
        reasons=reasons,
        oldest_at=oldest_at,
        waiting=_merge_others(waiting, largest),
        running=_merge_others(running, largest),
    )


def _select_counts(now: datetime) -> Select[*tuple[Any, ...]]:
    """A row for each state and group, however many jobs there are."""
    is_in_backoff = and_(JobRow.not_before.is_not(None), JobRow.not_before > now)
    is_new = and_(JobRow.started_at.is_(None), JobRow.not_before.is_(None))
    return (
        select(
            JobRow.state,
            PersonRow.group,
            func.count().label("jobs"),
            func.sum(case((is_in_backoff, 1), else_=0)).label("in_backoff"),
            func.sum(case((JobRow.reason.is_not(None), 1), else_=0)).label("with_reason"),
            func.min(case((is_new, JobRow.created_at))).label("oldest_at"),
        )
        .outerjoin(PersonRow, PersonRow.name == JobRow.user)
        .where(JobRow.state.in_(_UNFINISHED))
        .group_by(JobRow.state, PersonRow.group)
        .execution_options(**ALL_ROWS)
    )


def _count_reasons(
    session: Session,
    cluster: ClusterState | None,
    num_eligible: int,
    *,
    data_dir: Path,
    now: datetime,
) -> Counter[WaitReason]:
    """Of the jobs that may start, as `QueueStatus` explains them one by one.

    Without estimates, which need a query for each kind of job: which job is backfilled next is not
    known, so it counts as `behind`.
    """
    if cluster is None or not cluster.has_dispatcher(now):
        return Counter({WaitReason.NO_DISPATCHER: num_eligible})
    found = snapshot.read_snapshot(
        session,
        cluster.make_worker_groups(),
        quotas=quotas.read_quotas(session),
        data_dir=data_dir,
        now=now,
        estimator=_NoEstimates(session),
    )
    usage = policy.compute_usage(found.running)
    counted: Counter[WaitReason] = Counter()
    for job in found.waiting:
        reason = _find_reason(job, found, usage)
        is_head = not (counted[WaitReason.NEXT] or counted[WaitReason.RESOURCES])
        if reason is WaitReason.BEHIND and is_head:
            reason = WaitReason.NEXT
        counted[reason] += 1
    counted[WaitReason.BEHIND] += num_eligible - len(found.waiting)
    return counted


def _find_reason(job: WaitingJob, found: SchedulerSnapshot, usage: Usage) -> WaitReason:
    if not found.capacity.contains(job.resources):
        return WaitReason.TOO_LARGE
    if policy.find_exceeded_quota(job, usage, found) is not None:
        return WaitReason.LIMIT
    return WaitReason.BEHIND if found.free.contains(job.resources) else WaitReason.RESOURCES


class _NoEstimates(Estimator):
    def estimate_total(self, profile: TimingProfile, *, iterations: int) -> None:
        del profile, iterations

    def estimate_remaining(
        self, attempt: AttemptRow, job: JobRow, *, now: datetime
    ) -> DurationEstimate:
        del attempt, job, now
        return DurationEstimate(p50=0.0, p90=0.0)


def _merge_others(jobs: Counter[str], largest: set[str]) -> Counter[str]:
    merged: Counter[str] = Counter()
    for group, number in jobs.items():
        merged[group if group in largest else OTHER_GROUPS] += number
    return merged


def _count_runners(session: Session) -> tuple[Counter[RayJobState], int]:
    rows = session.execute(
        select(RunnerRow.state, func.count(), func.count(RunnerRow.attempt_id))
        .where(RunnerRow.terminated_at.is_(None))
        .group_by(RunnerRow.state)
    ).all()
    counted = Counter({state: number for state, number, _ in rows})
    busy = sum(number for state, _, number in rows if state is RayJobState.READY)
    return counted, counted[RayJobState.READY] - busy
