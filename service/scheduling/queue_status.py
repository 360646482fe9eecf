"""Why a job waits, where it stands, when it may start: the same decision that claims, told."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import Session

from service.catalog.model_stats import ModelStats
from service.jobs import lifecycle, records, submission
from service.resources import ResourceBundle
from service.scheduling import cluster_state, policy, snapshot
from service.scheduling.estimates import Estimates
from service.scheduling.policy import DurationEstimate, SchedulerSnapshot, StartJob, WaitingJob
from service.settings import ConcurrencyLimit
from service.specs.job_spec import JobSpec
from service.states import WAITING_STATES, JobState
from service.storage.tables import JobRow

# Dispatchers write down every ten seconds that they see the cluster.
_SEEN_SECONDS = 60.0
_BYTES_PER_VALUE = 4  # float32


class WaitReason(StrEnum):
    """Why a job that waits does not run."""

    HELD = "held"
    PARKED = "parked"
    PAUSED = "paused"
    DEPENDENCY = "dependency"
    BACKOFF = "backoff"
    NO_DISPATCHER = "no-dispatcher"
    TOO_LARGE = "too-large"
    LIMIT = "limit"
    RESOURCES = "resources"
    BEHIND = "behind"
    NEXT = "next"


@dataclass(frozen=True)
class JobQueueStatus:
    """`position` counts from 1 among the jobs that may start; None for one that may not.

    `effective_priority`: with what waiting has added. The start is expected at `p50`; nine of
    ten start by `p90`; None where nothing like the jobs ahead was measured.
    """

    code: WaitReason
    message: str
    position: int | None
    effective_priority: float
    starts_p50: datetime | None = None
    starts_p90: datetime | None = None


class QueueStatus:
    """One look at the queue; answers for each job from it."""

    def __init__(
        self, session: Session, *, limits: Mapping[str, ConcurrencyLimit], now: datetime
    ) -> None:
        self._session = session
        self._now = now
        seen = cluster_state.read_cluster(session)
        self._is_dispatched = seen is not None and now <= seen[1] + timedelta(seconds=_SEEN_SECONDS)
        whole = seen[0] if seen is not None else ResourceBundle(cpus=0, gpus=0)
        self.scene = snapshot.read_snapshot(session, whole, limits=limits, now=now)
        self._usage = policy.compute_usage(self.scene.running)
        self._look(self.scene)

    def with_job(self, job: WaitingJob) -> "QueueStatus":
        """The outlook if that job waited as well."""
        other: QueueStatus = object.__new__(QueueStatus)
        other.__dict__ |= self.__dict__
        ordered = sorted([*self.scene.waiting, job], key=lambda one: (one.sort_key, one.job_id))
        other._look(replace(self.scene, waiting=ordered))
        return other

    def _look(self, scene: SchedulerSnapshot) -> None:
        self.scene = scene
        self._decision = policy.decide(scene)
        self._starts = policy.forecast_starts(scene)
        self._places = {job.job_id: at for at, job in enumerate(scene.waiting)}

    def of(self, job: JobRow) -> JobQueueStatus | None:
        """None for a job that does not wait."""
        if not job.state.is_waiting:
            return None
        waited = (self._now - job.created_at).total_seconds()
        standing = JobQueueStatus(
            code=WaitReason.BEHIND,
            message="",
            position=None,
            effective_priority=round(job.priority + waited / lifecycle.AGING_SECONDS, 1),
        )
        kept = self._kept(job)
        if kept is not None:
            code, message = kept
            return replace(standing, code=code, message=message)
        if job.id not in self._places:
            position = self._count_before(job) + 1
            message = f"{position - 1} jobs go first"
            return replace(standing, message=message, position=position)
        return self._among_the_first(standing, job.id)

    def of_new(self, job_id: str, *, priority: int) -> JobQueueStatus:
        """Of a job that is in the scene only."""
        standing = JobQueueStatus(
            code=WaitReason.BEHIND, message="", position=None, effective_priority=float(priority)
        )
        return self._among_the_first(standing, job_id)

    def _among_the_first(self, standing: JobQueueStatus, job_id: str) -> JobQueueStatus:
        at = self._places[job_id]
        code, message = self._why(self.scene.waiting[at], at)
        span = self._starts[job_id] if self._is_dispatched else None
        if code is WaitReason.NEXT:
            span = DurationEstimate(p50=0.0, p90=0.0)
        return replace(
            standing,
            code=code,
            message=message,
            position=at + 1,
            starts_p50=self._at(span.p50) if span is not None else None,
            starts_p90=self._at(span.p90) if span is not None else None,
        )

    def _kept(self, job: JobRow) -> tuple[WaitReason, str] | None:
        """Why a job is not among those that may start."""
        if job.state is JobState.HELD and job.reason is not None:
            return WaitReason.PARKED, f"held by the service, release it to try again: {job.message}"
        if job.state is JobState.HELD:
            return WaitReason.HELD, "somebody holds it; release it to let it go"
        if job.state is JobState.PAUSED:
            return WaitReason.PAUSED, "somebody paused it; resume it to let it go"
        if job.state is JobState.BLOCKED:
            unmet = lifecycle.list_unmet_dependencies(self._session, job.id)
            told = ", ".join(f"{one.id} ({one.state})" for one in unmet)
            return WaitReason.DEPENDENCY, f"it starts after {told}"
        if job.not_before is not None and job.not_before > self._now:
            seconds = (job.not_before - self._now).total_seconds()
            return (
                WaitReason.BACKOFF,
                f"its last attempt broke ({job.reason}); again in {seconds:.0f} s",
            )
        return None

    def _why(self, job: WaitingJob, at: int) -> tuple[WaitReason, str]:
        scene = self.scene
        if not self._is_dispatched:
            return WaitReason.NO_DISPATCHER, "no dispatcher has seen the cluster in the last minute"
        if not scene.whole.holds(job.needed):
            capacity = _format_resources(scene.whole)
            told = f"it needs {_format_resources(job.needed)}, the whole cluster has {capacity}"
            return WaitReason.TOO_LARGE, told
        over = policy.find_exceeded_limit(job, self._usage, scene.limits)
        if over is not None:
            told = f"{over.key} has {over.used} of {over.limit} {over.kind} running"
            return WaitReason.LIMIT, told
        if isinstance(self._decision, StartJob) and self._decision.job_id == job.job_id:
            return WaitReason.NEXT, "it starts at the dispatcher's next look"
        needs = (
            f"it needs {_format_resources(job.needed)}, {_format_resources(scene.free)} are free"
        )
        if not scene.free.holds(job.needed):
            return WaitReason.RESOURCES, f"{needs}{self._next_end()}"
        return WaitReason.BEHIND, f"{at} jobs go first, and it could delay them"

    def _next_end(self) -> str:
        if not self.scene.running:
            return ""
        first = min(self.scene.running, key=lambda one: one.ends_in.p50)
        if first.is_stopping:
            return f"; job {first.job_id} is stopping"
        return f"; job {first.job_id} is expected to end in {_format_duration(first.ends_in.p50)}"

    def _count_before(self, job: JobRow) -> int:
        statement = select(func.count()).where(
            JobRow.state == JobState.QUEUED,
            or_(JobRow.not_before.is_(None), JobRow.not_before <= self._now),
            or_(
                JobRow.queue_sort_key < job.queue_sort_key,
                and_(JobRow.queue_sort_key == job.queue_sort_key, JobRow.id < job.id),
            ),
        )
        return self._session.scalar(statement) or 0

    def _at(self, seconds: float) -> datetime:
        return self._now + timedelta(seconds=seconds)


def list_waiting_jobs(session: Session, *, limit: int) -> list[JobRow]:
    """Those that may start in their order, then those that may not yet."""
    found: list[JobRow] = []
    # State by state, as the index has them; of the kept ones there may be many, too.
    for states in ({JobState.QUEUED}, WAITING_STATES - {JobState.QUEUED}):
        statement = (
            select(JobRow)
            .where(JobRow.state.in_(states))
            .order_by(JobRow.queue_sort_key, JobRow.id)
            .limit(limit - len(found))
        )
        found += session.scalars(statement)
    return found


@dataclass(frozen=True)
class JobPlan:
    """What a spec would become. `counts` None where only the folder's images can tell.

    `memory_bytes`: of each worker, for weights, gradients, momentum, and what the backward pass
    keeps of every convolution; a worker's libraries come on top. `lasts`: in seconds.
    """

    spec: JobSpec
    counts: ModelStats | None
    memory_bytes: int | None
    lasts: DurationEstimate | None
    standing: JobQueueStatus


def plan_job(
    session: Session,
    spec: JobSpec,
    *,
    user: str,
    limits: Mapping[str, ConcurrencyLimit],
    now: datetime,
) -> JobPlan:
    """Submits nothing. CannotFit and InvalidInput as a submission."""
    submission.check_submission(session, spec)
    resources = spec.resources
    group = (resources.num_workers, resources.cpus_per_worker, resources.gpus_per_worker)
    counts = records.model_stats_of(spec)
    lasts = Estimates(session).whole(
        timing_key=records.timing_key(spec),
        macs_per_iteration=records.macs_per_iteration(spec),
        resources=group,
        iterations=spec.recipe.iterations,
    )
    outlook = QueueStatus(session, limits=limits, now=now)
    name = "~"  # behind all ids
    needed = snapshot.required_resources(
        outlook.scene.whole,
        num_workers=resources.num_workers,
        cpus_per_worker=resources.cpus_per_worker,
        gpus_per_worker=resources.gpus_per_worker,
    )
    outlook = outlook.with_job(
        WaitingJob(
            job_id=name,
            sort_key=lifecycle.queue_sort_key(created_at=now, priority=spec.priority),
            priority=spec.priority,
            needed=needed,
            num_workers=resources.num_workers,
            user=user,
            tags=spec.tags,
            lasts=lasts,
        )
    )
    return JobPlan(
        spec=spec,
        counts=counts,
        memory_bytes=None if counts is None else _memory_bytes(spec, counts),
        lasts=lasts,
        standing=outlook.of_new(name, priority=spec.priority),
    )


def _memory_bytes(spec: JobSpec, counts: ModelStats) -> int:
    """A convolution's output is kept twice: for its normalisation, and normalised for the next."""
    images = spec.recipe.batch_size // spec.resources.num_workers
    return _BYTES_PER_VALUE * (3 * counts.parameters + 2 * counts.activations * images)


def _format_resources(pool: ResourceBundle) -> str:
    gpus = f" and {pool.gpus:g} GPUs" if pool.gpus else ""
    return f"{pool.cpus} CPUs{gpus}"


def _format_duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"  # noqa: PLR2004
