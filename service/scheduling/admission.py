"""Admission: gives the next jobs to a dispatcher under a lease, or preempts others for them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import takewhile
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Row, func, or_, select
from sqlalchemy.orm import Session

from service.access import quotas
from service.errors import NotFound
from service.execution import runners
from service.jobs import checkpoints, commands, lifecycle, records, warm_start
from service.resources import ResourceBundle, WorkerGroup
from service.scheduling import cluster_state, fair_share, policy, snapshot
from service.scheduling.leases import Claim
from service.scheduling.policy import PreemptJobs, StartJob
from service.scheduling.worker_groups import WorkerGroups
from service.specs.job_spec import StartMode
from service.specs.quota import Quota
from service.states import CONTINUING_STOPS, AttemptState, JobState, Reason
from service.storage import events
from service.storage.events import EventKind
from service.storage.tables import AttemptRow, JobRow

# Of one transaction: while it runs, no other dispatcher decides.
MAX_CLAIMS = 100


def is_any_eligible(session: Session, *, now: datetime) -> bool:
    """Whether `claim_jobs` may find a job; without a lock."""
    return session.execute(snapshot.select_eligible(now).limit(1)).first() is not None


def claim_jobs(
    session: Session,
    *,
    owner: str,
    now: datetime,
    lease_seconds: float,
    data_dir: Path,
    attempts_per_runner: int = 1,
    limit: int = MAX_CLAIMS,
) -> list[Claim]:
    """Starts attempts of the next jobs on runners, as the policy decides.

    Fewer than `limit`: all others must wait.

    Dispatchers decide one after the other, under the lock of the cluster's row, so that none
    assigns resources that another has assigned. Where a more urgent job needs the resources of
    preemptible jobs, those are asked to stop.
    """
    capacity = cluster_state.lock_cluster(session)
    if capacity is None:
        return []
    fair_share.refresh_points(session, capacity, now=now)
    round_ = _Round(
        session=session,
        worker_groups=WorkerGroups(capacity, cluster_state.find_nodes(session)),
        quotas=quotas.read_quotas(session),
        owner=owner,
        lease_expires_at=now + timedelta(seconds=lease_seconds),
        data_dir=data_dir,
        attempts_per_runner=attempts_per_runner,
        now=now,
    )
    while len(round_.claims) < limit and round_.advance(limit - len(round_.claims)):
        pass
    return round_.claims


def find_next_retry_at(session: Session, *, now: datetime) -> datetime | None:
    """When the first of the jobs whose backoff is not over may start; None where none waits."""
    return session.scalar(
        select(func.min(JobRow.not_before)).where(
            JobRow.state == JobState.QUEUED, JobRow.not_before > now
        )
    )


@dataclass
class _Round:
    """What a dispatcher claims while it holds the lock of the cluster's row."""

    session: Session
    worker_groups: WorkerGroups
    quotas: dict[str, Quota]
    owner: str
    lease_expires_at: datetime
    data_dir: Path
    attempts_per_runner: int
    now: datetime
    claims: list[Claim] = field(default_factory=list)

    def advance(self, limit: int) -> bool:
        """Takes up to `limit` jobs from the queue; False where none may start now."""
        first = self.session.execute(snapshot.select_eligible(self.now).limit(limit)).all()
        if not first:
            return False
        if not self.quotas:
            # The complete snapshot, with its estimates, is read only where a decision needs it.
            free = self.worker_groups.capacity - cluster_state.sum_reserved(self.session)
            if fitting := self._choose_fitting(first, free):
                return self._start(fitting)
            # Each state change wakes dispatchers, and usually the cluster is full.
            if free.cpus < 1 and not _is_any_preemptible(self.session):
                return False
        found = snapshot.read_snapshot(
            self.session,
            self.worker_groups,
            quotas=self.quotas,
            data_dir=self.data_dir,
            now=self.now,
        )
        decision = policy.decide(found)
        if isinstance(decision, PreemptJobs):
            _preempt(self.session, decision, now=self.now)
        if not isinstance(decision, StartJob):
            return False
        chosen = {decision.job_id: decision.num_workers}
        return self._start(chosen, backfill_seconds=decision.backfill_seconds)

    def _choose_fitting(
        self, first: Sequence[Row[tuple[Any, ...]]], free: ResourceBundle
    ) -> dict[str, int | None]:
        """Those before the first that does not fit: without quotas, the policy starts them.

        With the number of workers of an elastic job, the largest that fits; the policy decides on
        one whose last attempt still occupies resources.
        """
        fitting: dict[str, int | None] = {}
        is_any_elastic = any(len(row.worker_counts) > 1 for row in first)
        held = cluster_state.list_holding_jobs(self.session) if is_any_elastic else ()
        for row in first:
            groups = self.worker_groups.list(row.worker_counts, row)
            chosen = next((g for g in reversed(groups) if free.contains(g.resources)), None)
            is_elastic = len(row.worker_counts) > 1
            if chosen is None or (is_elastic and row.id in held):
                break
            free -= chosen.resources
            fitting[row.id] = chosen.num_workers if is_elastic else None
        return fitting

    def _start(
        self, chosen: Mapping[str, int | None], *, backfill_seconds: float | None = None
    ) -> bool:
        """Starts the jobs or, where one cannot begin, fails it; False where the first is locked.

        `chosen`: by id, the number of workers; None: the only one.
        """
        jobs = _lock_queued(self.session, list(chosen))
        attempts = []
        # One INSERT for the attempts, and one for their events.
        with self.session.no_autoflush:
            for job in jobs:
                message = _find_start_error(self.session, job)
                if message is None:
                    worker_group = self._make_worker_group(job, chosen[job.id])
                    attempts.append(self._create_attempt(job, worker_group, backfill_seconds))
                    continue
                reason = Reason.INTERNAL
                lifecycle.transition(
                    self.session, job, JobState.FAILED, reason=reason, message=message, now=self.now
                )
        assigned = runners.assign_runners(
            self.session, attempts, max_attempts=self.attempts_per_runner, now=self.now
        )
        self.claims += [
            Claim(attempt_id=attempt.id, fencing_token=attempt.fencing_token, runner_id=runner.id)
            for attempt, runner in zip(attempts, assigned, strict=True)
        ]
        return bool(jobs)

    def _make_worker_group(self, job: JobRow, num_workers: int | None) -> WorkerGroup:
        groups = self.worker_groups.list(job.worker_counts, job)
        return next((g for g in groups if g.num_workers == num_workers), groups[0])

    def _create_attempt(
        self, job: JobRow, worker_group: WorkerGroup, backfill_seconds: float | None
    ) -> AttemptRow:
        job.attempts += 1
        job.num_workers = worker_group.num_workers
        start = _find_start_point(self.session, job)
        attempt = AttemptRow(
            id=f"{job.id}-a{job.attempts}",
            job_id=job.id,
            number=job.attempts,
            timing_key=job.timing_key,
            state=AttemptState.STARTING,
            owner=self.owner,
            fencing_token=1,
            lease_expires_at=self.lease_expires_at,
            num_workers=worker_group.num_workers,
            cpus_per_worker=worker_group.cpus_per_worker,
            gpus_per_worker=worker_group.gpus_per_worker,
            resume_checkpoint_id=start.checkpoint_id,
            first_iteration=start.iteration or 0,
            created_at=self.now,
            last_sequence=0,
        )
        if backfill_seconds is not None:
            attempt.backfill_deadline = self.now + timedelta(seconds=backfill_seconds)
        self.session.add(attempt)
        data = {
            "number": attempt.number,
            "num_workers": attempt.num_workers,
            "resumed_at": start.iteration,
        }
        events.append_event(self.session, job, EventKind.ATTEMPT, data, now=self.now)
        lifecycle.transition(self.session, job, JobState.STARTING, now=self.now)
        return attempt


def _is_any_preemptible(session: Session) -> bool:
    """Whether the policy could choose any running job as a victim."""
    statement = (
        select(AttemptRow.id)
        .join(JobRow, JobRow.id == AttemptRow.job_id)
        .where(
            AttemptRow.released_at.is_(None),
            or_(JobRow.preemptible, AttemptRow.backfill_deadline.is_not(None)),
        )
        .limit(1)
    )
    return session.scalar(statement) is not None


def _preempt(session: Session, decision: PreemptJobs, *, now: datetime) -> None:
    for job_id in sorted(decision.victims):
        job = lifecycle.lock_job(session, job_id)
        is_running = job.state in {JobState.STARTING, JobState.RUNNING}
        if is_running and job.stop_requested in CONTINUING_STOPS:
            commands.preempt(session, job, by=decision.job_id, now=now)


def _lock_queued(session: Session, job_ids: Sequence[str]) -> list[JobRow]:
    """In their order, those before the first that left the queue or is locked.

    The commit of the transaction that has locked it wakes us.
    """
    rows = session.scalars(
        select(JobRow)
        .where(JobRow.id.in_(job_ids), JobRow.state == JobState.QUEUED)
        .with_for_update(skip_locked=True)
        .execution_options(populate_existing=True)
    )
    found = {row.id: row for row in rows}
    return [found[job_id] for job_id in takewhile(found.__contains__, job_ids)]


def _find_start_error(session: Session, job: JobRow) -> str | None:
    """Why no attempt of the job can begin; None where one can."""
    try:
        records.spec_of(job)
        warm_start.find_source_checkpoint(session, job)
        warm_start.find_other_checkpoints(session, job)
    except ValidationError as error:
        return f"this version of the service cannot read the job's spec: {error}"
    except NotFound as error:
        return None if job.checkpointed_iteration > 0 else str(error)
    return None


@dataclass(frozen=True)
class _StartPoint:
    """Where an attempt begins; `iteration` None: at the first, perhaps with given weights."""

    checkpoint_id: str | None = None
    iteration: int | None = None


def _find_start_point(session: Session, job: JobRow) -> _StartPoint:
    """From the job's own newest checkpoint, or else from another job's."""
    if (
        job.checkpointed_iteration > 0
        and (newest := checkpoints.find_newest(session, job.id)) is not None
    ):
        return _StartPoint(newest.id, newest.iteration)
    source = warm_start.find_source_checkpoint(session, job)
    if source is None:
        return _StartPoint()
    start = records.spec_of(job).start_from
    is_continued = start is not None and start.mode is StartMode.CONTINUE
    return _StartPoint(source.id, source.iteration if is_continued else None)
