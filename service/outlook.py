"""Why a job waits, where it stands, when it may start: the same decision that claims, told."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import Session

from service import jobs, moves, queue, scenes, schedule
from service.counts import Counts
from service.estimates import Estimates
from service.pools import Pool
from service.schedule import Scene, Span, Start, Waiting
from service.settings import Limit
from service.spec import JobSpec
from service.states import WAITING_STATES, JobState
from service.tables import JobRow

# Dispatchers write down every ten seconds that they see the cluster.
_SEEN_SECONDS = 60.0
_BYTES_PER_VALUE = 4  # float32


class WaitCode(StrEnum):
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
class Standing:
    """`position` counts from 1 among the jobs that may start; None for one that may not.

    `effective_priority`: with what waiting has added. The start is expected at `p50`; nine of
    ten start by `p90`; None where nothing like the jobs ahead was measured.
    """

    code: WaitCode
    words: str
    position: int | None
    effective_priority: float
    starts_p50: datetime | None = None
    starts_p90: datetime | None = None


class Outlook:
    """One look at the queue; answers for each job from it."""

    def __init__(self, session: Session, *, limits: Mapping[str, Limit], now: datetime) -> None:
        self._session = session
        self._now = now
        seen = queue.cluster(session)
        self._is_dispatched = seen is not None and now <= seen[1] + timedelta(seconds=_SEEN_SECONDS)
        whole = seen[0] if seen is not None else Pool(cpus=0, gpus=0)
        self.scene = scenes.read(session, whole, limits=limits, now=now)
        self._usage = schedule.usage_of(self.scene.running)
        self._look(self.scene)

    def with_job(self, job: Waiting) -> "Outlook":
        """The outlook if that job waited as well."""
        other: Outlook = object.__new__(Outlook)
        other.__dict__ |= self.__dict__
        ordered = sorted([*self.scene.waiting, job], key=lambda one: (one.place, one.job_id))
        other._look(replace(self.scene, waiting=ordered))
        return other

    def _look(self, scene: Scene) -> None:
        self.scene = scene
        self._decision = schedule.decide(scene)
        self._starts = schedule.forecast(scene)
        self._places = {job.job_id: at for at, job in enumerate(scene.waiting)}

    def of(self, job: JobRow) -> Standing | None:
        """None for a job that does not wait."""
        if not job.state.is_waiting:
            return None
        waited = (self._now - job.created_at).total_seconds()
        standing = Standing(
            code=WaitCode.BEHIND,
            words="",
            position=None,
            effective_priority=round(job.priority + waited / moves.AGING_SECONDS, 1),
        )
        kept = self._kept(job)
        if kept is not None:
            code, words = kept
            return replace(standing, code=code, words=words)
        if job.id not in self._places:
            position = self._count_before(job) + 1
            words = f"{position - 1} jobs go first"
            return replace(standing, words=words, position=position)
        return self._among_the_first(standing, job.id)

    def of_new(self, job_id: str, *, priority: int) -> Standing:
        """Of a job that is in the scene only."""
        standing = Standing(
            code=WaitCode.BEHIND, words="", position=None, effective_priority=float(priority)
        )
        return self._among_the_first(standing, job_id)

    def _among_the_first(self, standing: Standing, job_id: str) -> Standing:
        at = self._places[job_id]
        code, words = self._why(self.scene.waiting[at], at)
        span = self._starts[job_id] if self._is_dispatched else None
        if code is WaitCode.NEXT:
            span = Span(p50=0.0, p90=0.0)
        return replace(
            standing,
            code=code,
            words=words,
            position=at + 1,
            starts_p50=self._at(span.p50) if span is not None else None,
            starts_p90=self._at(span.p90) if span is not None else None,
        )

    def _kept(self, job: JobRow) -> tuple[WaitCode, str] | None:
        """Why a job is not among those that may start."""
        if job.state is JobState.HELD and job.reason is not None:
            return WaitCode.PARKED, f"held by the service, release it to try again: {job.message}"
        if job.state is JobState.HELD:
            return WaitCode.HELD, "somebody holds it; release it to let it go"
        if job.state is JobState.PAUSED:
            return WaitCode.PAUSED, "somebody paused it; resume it to let it go"
        if job.state is JobState.BLOCKED:
            unmet = moves.unmet_dependencies(self._session, job.id)
            told = ", ".join(f"{one.id} ({one.state})" for one in unmet)
            return WaitCode.DEPENDENCY, f"it starts after {told}"
        if job.not_before is not None and job.not_before > self._now:
            seconds = (job.not_before - self._now).total_seconds()
            return (
                WaitCode.BACKOFF,
                f"its last attempt broke ({job.reason}); again in {seconds:.0f} s",
            )
        return None

    def _why(self, job: Waiting, at: int) -> tuple[WaitCode, str]:
        scene = self.scene
        if not self._is_dispatched:
            return WaitCode.NO_DISPATCHER, "no dispatcher has seen the cluster in the last minute"
        if not scene.whole.holds(job.needed):
            told = f"it needs {_told(job.needed)}, the whole cluster has {_told(scene.whole)}"
            return WaitCode.TOO_LARGE, told
        over = schedule.exceeded(job, self._usage, scene.limits)
        if over is not None:
            told = f"{over.key} has {over.used} of {over.limit} {over.kind} running"
            return WaitCode.LIMIT, told
        if isinstance(self._decision, Start) and self._decision.job_id == job.job_id:
            return WaitCode.NEXT, "it starts at the dispatcher's next look"
        needs = f"it needs {_told(job.needed)}, {_told(scene.free)} are free"
        if not scene.free.holds(job.needed):
            return WaitCode.RESOURCES, f"{needs}{self._next_end()}"
        return WaitCode.BEHIND, f"{at} jobs go first, and it could delay them"

    def _next_end(self) -> str:
        if not self.scene.running:
            return ""
        first = min(self.scene.running, key=lambda one: one.ends_in.p50)
        if first.is_stopping:
            return f"; job {first.job_id} is stopping"
        return f"; job {first.job_id} is expected to end in {_minutes(first.ends_in.p50)}"

    def _count_before(self, job: JobRow) -> int:
        statement = select(func.count()).where(
            JobRow.state == JobState.QUEUED,
            or_(JobRow.not_before.is_(None), JobRow.not_before <= self._now),
            or_(JobRow.place < job.place, and_(JobRow.place == job.place, JobRow.id < job.id)),
        )
        return self._session.scalar(statement) or 0

    def _at(self, seconds: float) -> datetime:
        return self._now + timedelta(seconds=seconds)


def waiting_jobs(session: Session, *, limit: int) -> list[JobRow]:
    """Those that may start in their order, then those that may not yet."""
    found: list[JobRow] = []
    # State by state, as the index has them; of the kept ones there may be many, too.
    for states in ({JobState.QUEUED}, WAITING_STATES - {JobState.QUEUED}):
        statement = (
            select(JobRow)
            .where(JobRow.state.in_(states))
            .order_by(JobRow.place, JobRow.id)
            .limit(limit - len(found))
        )
        found += session.scalars(statement)
    return found


@dataclass(frozen=True)
class Plan:
    """What a spec would become. `counts` None where only the folder's images can tell.

    `memory_bytes`: of each worker, for weights, gradients, momentum, and what the backward pass
    keeps of every convolution; a worker's libraries come on top. `lasts`: in seconds.
    """

    spec: JobSpec
    counts: Counts | None
    memory_bytes: int | None
    lasts: Span | None
    standing: Standing


def plan(
    session: Session, spec: JobSpec, *, user: str, limits: Mapping[str, Limit], now: datetime
) -> Plan:
    """Submits nothing. CannotFit and InvalidInput as a submission."""
    jobs.check(session, spec)
    resources = spec.resources
    shape = (resources.num_workers, resources.cpus_per_worker, resources.gpus_per_worker)
    counts = jobs.counts_of(spec)
    lasts = Estimates(session).whole(
        shape=jobs.shape_of(spec),
        work=jobs.work_of(spec),
        resources=shape,
        iterations=spec.recipe.iterations,
    )
    outlook = Outlook(session, limits=limits, now=now)
    name = "~"  # behind all ids
    needed = scenes.needed(
        outlook.scene.whole,
        num_workers=resources.num_workers,
        cpus_per_worker=resources.cpus_per_worker,
        gpus_per_worker=resources.gpus_per_worker,
    )
    outlook = outlook.with_job(
        Waiting(
            job_id=name,
            place=moves.place(created_at=now, priority=spec.priority),
            priority=spec.priority,
            needed=needed,
            num_workers=resources.num_workers,
            user=user,
            tags=spec.tags,
            lasts=lasts,
        )
    )
    return Plan(
        spec=spec,
        counts=counts,
        memory_bytes=None if counts is None else _memory_bytes(spec, counts),
        lasts=lasts,
        standing=outlook.of_new(name, priority=spec.priority),
    )


def _memory_bytes(spec: JobSpec, counts: Counts) -> int:
    """A convolution's output is kept twice: for its normalisation, and normalised for the next."""
    images = spec.recipe.batch_size // spec.resources.num_workers
    return _BYTES_PER_VALUE * (3 * counts.parameters + 2 * counts.activations * images)


def _told(pool: Pool) -> str:
    gpus = f" and {pool.gpus:g} GPUs" if pool.gpus else ""
    return f"{pool.cpus} CPUs{gpus}"


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"  # noqa: PLR2004
