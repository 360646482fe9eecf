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

from service.pools import Pool
from service.settings import Limit


@dataclass(frozen=True)
class Span:
    """A duration in seconds, as expected and as nine of ten are."""

    p50: float
    p90: float


@dataclass(frozen=True)
class Waiting:
    """A job in the queue; `lasts` None where nothing like it was measured yet."""

    job_id: str
    place: float
    priority: int
    needed: Pool
    num_workers: int
    user: str
    tags: tuple[str, ...] = ()
    lasts: Span | None = None


@dataclass(frozen=True)
class Running:
    """An attempt that occupies the cluster.

    `ends_in`: seconds from now. `is_stopping`: it was asked to stop. `must_yield`: it overtook
    larger jobs for a time that is over.
    """

    job_id: str
    place: float
    priority: int
    held: Pool
    num_workers: int
    user: str
    ends_in: Span
    tags: tuple[str, ...] = ()
    is_preemptible: bool = False
    is_stopping: bool = False
    must_yield: bool = False


@dataclass(frozen=True)
class Scene:
    """All that a decision needs. `waiting` in the order of their places."""

    whole: Pool
    running: Sequence[Running]
    waiting: Sequence[Waiting]
    limits: Mapping[str, Limit]

    @property
    def free(self) -> Pool:
        """Less than nothing where the cluster has shrunk under what runs."""
        return _less(self.whole, (one.held for one in self.running))


@dataclass(frozen=True)
class Start:
    """`yields_in`: seconds in which it should end, for its workers are reserved; None: its own."""

    job_id: str
    yields_in: float | None = None


@dataclass(frozen=True)
class Preempt:
    """The jobs that shall make way for `job_id`."""

    job_id: str
    victims: tuple[str, ...]


@dataclass(frozen=True)
class Reservation:
    """When the head starts at the latest, in seconds, and what is free beside it from then on."""

    starts_in: float
    spare: Pool


def decide(scene: Scene) -> Start | Preempt | None:
    """What to do next; None where everybody must wait."""
    free = scene.free
    usage = usage_of(scene.running)
    reservation: Reservation | None = None
    for job in scene.waiting:
        if not scene.whole.holds(job.needed) or exceeded(job, usage, scene.limits):
            continue
        if reservation is None:
            if free.holds(job.needed):
                return Start(job.job_id)
            if victims := _victims(job, scene.running, free):
                return Preempt(job.job_id, victims)
            reservation = reserve(job, scene.running, free)
            continue
        if not free.holds(job.needed):
            continue
        if reservation.spare.holds(job.needed):
            return Start(job.job_id)
        if job.lasts is not None and job.lasts.p90 <= reservation.starts_in:
            return Start(job.job_id, yields_in=reservation.starts_in)
    return None


def reserve(head: Waiting, running: Sequence[Running], free: Pool) -> Reservation:
    """The earliest time at which enough has ended, as far as is expected."""
    starts_in = 0.0
    for one in sorted(running, key=lambda one: one.ends_in.p50):
        if free.holds(head.needed):
            break
        free = free.plus(one.held)
        starts_in = one.ends_in.p50
    return Reservation(starts_in=starts_in, spare=free.minus(head.needed))


Usage = Counter[tuple[str, str]]


def usage_of(running: Iterable[Running]) -> Usage:
    """By limit's key, `jobs` and `workers` that run."""
    usage: Usage = Counter()
    for one in running:
        for key in _keys(one):
            usage[key, "jobs"] += 1
            usage[key, "workers"] += one.num_workers
    return usage


@dataclass(frozen=True)
class Exceeded:
    """`key` as user:NAME or tag:NAME; `kind` is jobs or workers."""

    key: str
    kind: str
    used: int
    limit: int


def exceeded(job: Waiting, usage: Usage, limits: Mapping[str, Limit]) -> Exceeded | None:
    """The first limit that would be exceeded if the job started."""
    for key in _keys(job):
        limit = limits.get(key) or limits.get(f"{key.partition(':')[0]}:*")
        if limit is None:
            continue
        for kind, allowed, more in (
            ("jobs", limit.jobs, 1),
            ("workers", limit.workers, job.num_workers),
        ):
            used = usage[key, kind]
            if allowed is not None and used + more > allowed:
                return Exceeded(key=key, kind=kind, used=used, limit=allowed)
    return None


def forecast(scene: Scene) -> dict[str, Span | None]:
    """In how many seconds each waiting job starts, if all start in their order.

    A job that backfills starts earlier. None behind a job of which nothing is known, for a job
    that a limit keeps, and for one that the cluster cannot hold.
    """
    expected = _starts(scene, {one.job_id: one.ends_in.p50 for one in scene.running}, is_late=False)
    late = _starts(scene, {one.job_id: one.ends_in.p90 for one in scene.running}, is_late=True)
    return {
        job.job_id: Span(p50=expected[job.job_id], p90=late[job.job_id])
        if isfinite(late.get(job.job_id, inf))
        else None
        for job in scene.waiting
    }


def _starts(scene: Scene, ends: Mapping[str, float], *, is_late: bool) -> dict[str, float]:
    usage = usage_of(scene.running)
    free, now = scene.free, 0.0
    coming = [(ends[one.job_id], at, one.held) for at, one in enumerate(scene.running)]
    heapq.heapify(coming)
    starts: dict[str, float] = {}
    for number, job in enumerate(scene.waiting, start=len(coming)):
        if not scene.whole.holds(job.needed) or exceeded(job, usage, scene.limits):
            continue
        while coming and not free.holds(job.needed):
            end, _, held = heapq.heappop(coming)
            now, free = max(now, end), free.plus(held)
        starts[job.job_id] = now
        free = free.minus(job.needed)
        lasts = inf if job.lasts is None else job.lasts.p90 if is_late else job.lasts.p50
        heapq.heappush(coming, (now + lasts, number, job.needed))
    return starts


def _victims(head: Waiting, running: Sequence[Running], free: Pool) -> tuple[str, ...]:
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
        and one.place > head.place
        and (one.must_yield or (one.is_preemptible and one.priority < head.priority))
    ]
    chosen: list[Running] = []
    for one in sorted(may_be_stopped, key=lambda one: (not one.must_yield, -one.place)):
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


def _keys(one: Waiting | Running) -> list[str]:
    return [f"user:{one.user}", *(f"tag:{tag}" for tag in one.tags)]


def _less(whole: Pool, held: Iterable[Pool]) -> Pool:
    for one in held:
        whole = whole.minus(one)
    return whole
