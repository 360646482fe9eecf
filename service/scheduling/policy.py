"""Which waiting job starts now, pure: priorities with aging, limits, backfill and preemption.

Jobs stand in the order of their place. The first that could run but does not fit is the head: it
has a reservation at the time when enough of what runs will have ended, and jobs behind it start
only where they do not touch it: beside it, or if they are expected to end before it begins. A job
that overstays such a promise is asked to make way (with its checkpoint, to go on later), so a
wrong estimate costs the head one step and no more.
"""

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite

from service.resources import ResourceBundle
from service.settings import ConcurrencyLimit


@dataclass(frozen=True)
class DurationEstimate:
    """A duration in seconds, as expected and as nine of ten are."""

    p50: float
    p90: float


@dataclass(frozen=True)
class WaitingJob:
    """A job in the queue; `lasts` None where nothing like it was measured yet."""

    job_id: str
    sort_key: float
    priority: int
    needed: ResourceBundle
    num_workers: int
    user: str
    tags: tuple[str, ...] = ()
    lasts: DurationEstimate | None = None


@dataclass(frozen=True)
class RunningJob:
    """An attempt that occupies the cluster.

    `ends_in`: seconds from now. `is_stopping`: it was asked to stop. `is_overdue_backfill`: it was
    backfilled ahead of larger jobs and is past the deadline it promised.
    """

    job_id: str
    sort_key: float
    priority: int
    held: ResourceBundle
    num_workers: int
    user: str
    ends_in: DurationEstimate
    tags: tuple[str, ...] = ()
    is_preemptible: bool = False
    is_stopping: bool = False
    is_overdue_backfill: bool = False


@dataclass(frozen=True)
class SchedulerSnapshot:
    """All that a decision needs. `waiting` in the order of their places."""

    whole: ResourceBundle
    running: Sequence[RunningJob]
    waiting: Sequence[WaitingJob]
    limits: Mapping[str, ConcurrencyLimit]

    @property
    def free(self) -> ResourceBundle:
        """Less than nothing where the cluster has shrunk under what runs."""
        return _subtract(self.whole, (one.held for one in self.running))


@dataclass(frozen=True)
class StartJob:
    """`backfill_seconds`: a backfilled job should end within this time; None: not backfilled."""

    job_id: str
    backfill_seconds: float | None = None


@dataclass(frozen=True)
class PreemptJobs:
    """The jobs that shall make way for `job_id`."""

    job_id: str
    victims: tuple[str, ...]


@dataclass(frozen=True)
class Reservation:
    """When the head starts at the latest, in seconds, and what is free beside it from then on."""

    starts_in: float
    spare: ResourceBundle


def decide(scene: SchedulerSnapshot) -> StartJob | PreemptJobs | None:
    """What to do next; None where everybody must wait."""
    free = scene.free
    usage = compute_usage(scene.running)
    reservation: Reservation | None = None
    for job in scene.waiting:
        if not scene.whole.holds(job.needed) or find_exceeded_limit(job, usage, scene.limits):
            continue
        if reservation is None:
            if free.holds(job.needed):
                return StartJob(job.job_id)
            if victims := _select_victims(job, scene.running, free):
                return PreemptJobs(job.job_id, victims)
            reservation = reserve(job, scene.running, free)
            continue
        if not free.holds(job.needed):
            continue
        if reservation.spare.holds(job.needed):
            return StartJob(job.job_id)
        if job.lasts is not None and job.lasts.p90 <= reservation.starts_in:
            return StartJob(job.job_id, backfill_seconds=reservation.starts_in)
    return None


def reserve(head: WaitingJob, running: Sequence[RunningJob], free: ResourceBundle) -> Reservation:
    """The earliest time at which enough has ended, as far as is expected."""
    starts_in = 0.0
    for one in sorted(running, key=lambda one: one.ends_in.p50):
        if free.holds(head.needed):
            break
        free = free.plus(one.held)
        starts_in = one.ends_in.p50
    return Reservation(starts_in=starts_in, spare=free.minus(head.needed))


Usage = Counter[tuple[str, str]]


def compute_usage(running: Iterable[RunningJob]) -> Usage:
    """By limit's key, `jobs` and `workers` that run."""
    usage: Usage = Counter()
    for one in running:
        for key in _limit_keys(one):
            usage[key, "jobs"] += 1
            usage[key, "workers"] += one.num_workers
    return usage


@dataclass(frozen=True)
class ExceededLimit:
    """`key` as user:NAME or tag:NAME; `kind` is jobs or workers."""

    key: str
    kind: str
    used: int
    limit: int


def find_exceeded_limit(
    job: WaitingJob, usage: Usage, limits: Mapping[str, ConcurrencyLimit]
) -> ExceededLimit | None:
    """The first limit that would be exceeded if the job started."""
    for key in _limit_keys(job):
        limit = limits.get(key) or limits.get(f"{key.partition(':')[0]}:*")
        if limit is None:
            continue
        for kind, allowed, more in (
            ("jobs", limit.jobs, 1),
            ("workers", limit.workers, job.num_workers),
        ):
            used = usage[key, kind]
            if allowed is not None and used + more > allowed:
                return ExceededLimit(key=key, kind=kind, used=used, limit=allowed)
    return None


def forecast_starts(scene: SchedulerSnapshot) -> dict[str, DurationEstimate | None]:
    """In how many seconds each waiting job starts, if all start in their order.

    A job that backfills starts earlier. None behind a job of which nothing is known, for a job
    that a limit keeps, and for one that the cluster cannot hold.
    """
    expected = _simulate_starts(
        scene, {one.job_id: one.ends_in.p50 for one in scene.running}, is_late=False
    )
    late = _simulate_starts(
        scene, {one.job_id: one.ends_in.p90 for one in scene.running}, is_late=True
    )
    return {
        job.job_id: DurationEstimate(p50=expected[job.job_id], p90=late[job.job_id])
        if isfinite(late.get(job.job_id, inf))
        else None
        for job in scene.waiting
    }


def _simulate_starts(
    scene: SchedulerSnapshot, ends: Mapping[str, float], *, is_late: bool
) -> dict[str, float]:
    usage = compute_usage(scene.running)
    free, now = scene.free, 0.0
    coming = [(ends[one.job_id], at, one.held) for at, one in enumerate(scene.running)]
    heapq.heapify(coming)
    starts: dict[str, float] = {}
    for number, job in enumerate(scene.waiting, start=len(coming)):
        if not scene.whole.holds(job.needed) or find_exceeded_limit(job, usage, scene.limits):
            continue
        while coming and not free.holds(job.needed):
            end, _, held = heapq.heappop(coming)
            now, free = max(now, end), free.plus(held)
        starts[job.job_id] = now
        free = free.minus(job.needed)
        lasts = inf if job.lasts is None else job.lasts.p90 if is_late else job.lasts.p50
        heapq.heappush(coming, (now + lasts, number, job.needed))
    return starts


def _select_victims(
    head: WaitingJob, running: Sequence[RunningJob], free: ResourceBundle
) -> tuple[str, ...]:
    """The fewest and least urgent whose workers are enough; none where that is not so.

    Only jobs that stand behind the head: any other would be back before it.
    """
    for one in running:
        if one.is_stopping:
            free = free.plus(one.held)
    if free.holds(head.needed):
        return ()
    may_be_stopped = [
        one
        for one in running
        if not one.is_stopping
        and one.sort_key > head.sort_key
        and (one.is_overdue_backfill or (one.is_preemptible and one.priority < head.priority))
    ]
    chosen: list[RunningJob] = []
    for one in sorted(may_be_stopped, key=lambda one: (not one.is_overdue_backfill, -one.sort_key)):
        if free.holds(head.needed):
            break
        chosen.append(one)
        free = free.plus(one.held)
    if not free.holds(head.needed):
        return ()
    for one in tuple(chosen):
        if free.minus(one.held).holds(head.needed):
            chosen.remove(one)
            free = free.minus(one.held)
    return tuple(sorted(one.job_id for one in chosen))


def _limit_keys(one: WaitingJob | RunningJob) -> list[str]:
    return [f"user:{one.user}", *(f"tag:{tag}" for tag in one.tags)]


def _subtract(whole: ResourceBundle, held: Iterable[ResourceBundle]) -> ResourceBundle:
    for one in held:
        whole = whole.minus(one)
    return whole
