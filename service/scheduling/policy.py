"""Which queued job starts next, as a pure function: order, limits, backfill, preemption.

Jobs are considered in the order of their sort key. The first that may run but does not fit is the
head. It gets a reservation: the time at which enough running jobs are expected to have ended. A
job behind the head starts only if it does not delay the head: it fits beside the reservation, or
it is expected to end before it. A job that exceeds such a deadline is preempted with a checkpoint,
so a wrong estimate delays the head by about one training step.
"""

import heapq
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from math import inf, isfinite

from service.resources import ResourceBundle, ResourceHours
from service.specs.quota import ExceededQuota, Quota, find_full, find_quota, find_used_up, list_keys


class EstimateBasis(StrEnum):
    """What an estimate of a duration rests on."""

    SAME = "same"  # earlier attempts of jobs that take equally long
    OTHER_NETWORKS = "other-networks"  # earlier attempts of others, by their multiply-adds
    PROGRESS = "progress"  # the progress of the attempt itself
    MAX_SECONDS = "max-seconds"  # nothing is measured: its recipe's limit
    TIME_LIMIT = "time-limit"  # nothing is measured: the job's own limit


@dataclass(frozen=True)
class DurationEstimate:
    """Seconds: the median, and what nine of ten do not exceed.

    `basis`: None where it is known, such as that of a job that is stopping. `samples`: measured
    attempts that it rests on.
    """

    p50: float
    p90: float
    basis: EstimateBasis | None = field(default=None, compare=False)
    samples: int = field(default=0, compare=False)


@dataclass(frozen=True)
class WorkerOption:
    """A number of workers that an elastic job may have; `resources`: of all of them."""

    num_workers: int
    resources: ResourceBundle


@dataclass(frozen=True)
class WaitingJob:
    """A job in the queue.

    `resources`: what it would occupy, of an elastic job with the fewest workers; `larger`: the
    other numbers of workers that the cluster can hold, ascending. `has_checkpoint`: it would
    resume from one; `duration`: with the fewest workers, None where nothing like it was measured.
    """

    job_id: str
    sort_key: float
    priority: int
    resources: ResourceBundle
    num_workers: int
    user: str
    group: str | None = None
    tags: tuple[str, ...] = ()
    has_checkpoint: bool = False
    duration: DurationEstimate | None = None
    is_elastic: bool = False
    larger: tuple[WorkerOption, ...] = ()


@dataclass(frozen=True)
class RunningJob:
    """A job whose attempt occupies resources.

    `remaining`: until they are free. `is_stopping`: it was asked to stop, or has ended.
    `is_overdue_backfill`: it was backfilled and has exceeded its deadline.
    """

    job_id: str
    sort_key: float
    priority: int
    resources: ResourceBundle
    num_workers: int
    user: str
    remaining: DurationEstimate
    group: str | None = None
    tags: tuple[str, ...] = ()
    is_preemptible: bool = False
    is_stopping: bool = False
    is_overdue_backfill: bool = False


@dataclass(frozen=True)
class SchedulerSnapshot:
    """All that a decision depends on. `capacity`: of the cluster; `waiting`: by sort key.

    `used`: the hours of the last week, and `stored`: bytes, by key of a quota that limits them.
    """

    capacity: ResourceBundle
    running: Sequence[RunningJob]
    waiting: Sequence[WaitingJob]
    quotas: dict[str, Quota]
    used: Mapping[str, ResourceHours] = field(default_factory=dict)
    stored: Mapping[str, int] = field(default_factory=dict)

    @property
    def free(self) -> ResourceBundle:
        """Below zero where the cluster has shrunk below what is occupied."""
        free = self.capacity
        for job in self.running:
            free -= job.resources
        return free


@dataclass(frozen=True)
class StartJob:
    """`backfill_seconds`: a backfilled job must end within this time; None: not backfilled.

    `num_workers`: of an elastic job; None: the only number that it may have.
    """

    job_id: str
    backfill_seconds: float | None = None
    num_workers: int | None = None


@dataclass(frozen=True)
class PreemptJobs:
    """`victims`: the jobs to stop so that `job_id` can start."""

    job_id: str
    victims: tuple[str, ...]


def decide(snapshot: SchedulerSnapshot) -> StartJob | PreemptJobs | None:
    """The next action; None where all jobs must wait."""
    free = snapshot.free
    usage = compute_usage(snapshot.running)
    held = {job.job_id: job.resources for job in snapshot.running}
    reservation: Reservation | None = None
    for job in snapshot.waiting:
        if not snapshot.capacity.contains(job.resources):
            continue
        if find_exceeded_quota(job, usage, snapshot) is not None:
            continue
        # With what its last attempt still holds, an elastic job may soon have more workers.
        is_releasing = job.is_elastic and job.job_id in held
        fitting = iter(()) if is_releasing else list_fitting(job, free, usage, snapshot)
        if reservation is not None:
            if (backfilled := _backfill(job, fitting, reservation)) is not None:
                return backfilled
        elif (largest := next(fitting, None)) is not None:
            return _start(largest)
        elif victims := _select_victims(job, snapshot.running, free):
            return PreemptJobs(job.job_id, victims)
        else:
            running = snapshot.running
            if is_releasing:
                running = [other for other in running if other.job_id != job.job_id]
            soon_free = free + held[job.job_id] if is_releasing else free
            head = next(list_fitting(job, soon_free, usage, snapshot), job)
            reservation = make_reservation(head, running, soon_free)
    return None


def list_fitting(
    job: WaitingJob, free: ResourceBundle, usage: "Usage", snapshot: SchedulerSnapshot
) -> Iterator[WaitingJob]:
    """The job with each number of workers that fits and exceeds no quota, the most first.

    The caller has checked the quotas of the fewest.
    """
    for option in reversed(job.larger):
        larger = replace(job, num_workers=option.num_workers, resources=option.resources)
        fits = free.contains(larger.resources)
        if fits and find_exceeded_quota(larger, usage, snapshot) is None:
            yield larger
    if free.contains(job.resources):
        yield job


def _backfill(
    job: WaitingJob, fitting: Iterable[WaitingJob], reservation: "Reservation"
) -> StartJob | None:
    """Starts the job where that does not delay the reservation. `fitting`: the most workers first.

    An elastic job takes no longer with more workers than with the fewest.
    """
    for candidate in fitting:
        if reservation.spare.contains(candidate.resources):
            return _start(candidate)
        if job.duration is not None and job.duration.p90 <= reservation.starts_in:
            return _start(candidate, backfill_seconds=reservation.starts_in)
    return None


def _start(job: WaitingJob, *, backfill_seconds: float | None = None) -> StartJob:
    num_workers = job.num_workers if job.is_elastic else None
    return StartJob(job.job_id, backfill_seconds=backfill_seconds, num_workers=num_workers)


@dataclass(frozen=True)
class Reservation:
    """`starts_in`: seconds until the head starts at the latest; `spare`: then free beside it."""

    starts_in: float
    spare: ResourceBundle


def make_reservation(
    head: WaitingJob, running: Sequence[RunningJob], free: ResourceBundle
) -> Reservation:
    """For the earliest time at which enough running jobs are expected to have ended."""
    starts_in = 0.0
    for job in sorted(running, key=lambda job: job.remaining.p50):
        if free.contains(head.resources):
            break
        free += job.resources
        starts_in = job.remaining.p50
    return Reservation(starts_in=starts_in, spare=free - head.resources)


Usage = defaultdict[tuple[str, str], float]


def compute_usage(running: Iterable[RunningJob | WaitingJob]) -> Usage:
    """How many `jobs`, `workers` and `gpus` run, by key of a quota."""
    usage: Usage = defaultdict(float)
    for job in running:
        for key in list_keys(job.user, job.group, job.tags):
            usage[key, "jobs"] += 1
            usage[key, "workers"] += job.num_workers
            usage[key, "gpus"] += job.resources.gpus
    return usage


def find_exceeded_quota(
    job: WaitingJob, usage: Usage, snapshot: SchedulerSnapshot
) -> ExceededQuota | None:
    """The first quota that would be exceeded if the job started.

    One of stored bytes concerns jobs that have stored nothing: others hold what they would free.
    """
    quotas = snapshot.quotas
    if not quotas:
        return None
    keys = list_keys(job.user, job.group, job.tags)
    used_up = find_used_up(quotas, keys, snapshot.used, uses_gpus=job.resources.gpus > 0)
    if used_up is not None:
        return used_up
    full = None if job.has_checkpoint else find_full(quotas, keys, snapshot.stored)
    if full is not None:
        return full
    for key in keys:
        quota = find_quota(quotas, key)
        if quota is None:
            continue
        for kind, allowed, added in (
            ("jobs", quota.jobs, 1),
            ("workers", quota.workers, job.num_workers),
            ("gpus", quota.gpus, job.resources.gpus),
        ):
            used = usage[key, kind]
            if allowed is not None and used + added > allowed:
                return ExceededQuota(key=key, kind=kind, used=used, limit=allowed)
    return None


@dataclass(frozen=True)
class FairShareUse:
    """`relative`: use of each person, or group, to that of who has used most, from 0 to 1.

    `points`: of priority that the jobs of each person lose.
    """

    relative: dict[str, float]
    points: dict[str, float]


def compute_fair_share(
    used: Mapping[str, ResourceHours],
    groups: Mapping[str, str],
    capacity: ResourceBundle,
    *,
    weight: float,
) -> FairShareUse:
    """The heaviest user loses `weight` points, half of them as a group; others in proportion.

    A person without a group is a group of one. `groups`: by person. All GPUs of the cluster count
    as much as all its CPUs. Usage decays by the same factor for all, so time alone changes nothing.
    """
    cores_per_gpu = capacity.cpus / capacity.gpus if capacity.gpus else 0.0
    cores = {key: hours.core_hours + hours.gpu_hours * cores_per_gpu for key, hours in used.items()}
    users = {key.removeprefix("user:") for key in cores if key.startswith("user:")} | groups.keys()
    group_of = {user: f"group:{groups[user]}" for user in users & groups.keys()}
    group_of |= {user: f"user:{user}" for user in users - groups.keys()}
    group_keys = {key for key in cores if key.startswith("group:")}.union(group_of.values())
    most_user = max((cores.get(f"user:{user}", 0.0) for user in users), default=0.0)
    most_group = max((cores.get(key, 0.0) for key in group_keys), default=0.0)
    if not most_user or not most_group:
        return FairShareUse(relative=dict.fromkeys(cores, 0.0), points={})
    relative = {
        key: amount / (most_user if key.startswith("user:") else most_group)
        for key, amount in cores.items()
    }
    points = {
        user: weight
        * (cores.get(f"user:{user}", 0.0) / most_user + cores.get(group_of[user], 0.0) / most_group)
        / 2
        for user in users
    }
    return FairShareUse(relative, points)


def forecast_starts(snapshot: SchedulerSnapshot) -> dict[str, DurationEstimate | None]:
    """In how many seconds each waiting job starts, if all start in their order.

    A job that is backfilled starts earlier. None behind a job of unknown duration, for a job that
    exceeds a quota, and for a job that the cluster cannot hold.
    """
    expected = _simulate_starts(
        snapshot, {job.job_id: job.remaining.p50 for job in snapshot.running}, is_late=False
    )
    late = _simulate_starts(
        snapshot, {job.job_id: job.remaining.p90 for job in snapshot.running}, is_late=True
    )
    return {
        job.job_id: DurationEstimate(p50=expected[job.job_id], p90=late[job.job_id])
        if isfinite(late.get(job.job_id, inf))
        else None
        for job in snapshot.waiting
    }


def _select_victims(
    head: WaitingJob, running: Sequence[RunningJob], free: ResourceBundle
) -> tuple[str, ...]:
    """The fewest and least urgent jobs that free enough; empty where none do.

    Only jobs with a larger sort key than the head's: any other would start before the head again.
    """
    for job in running:
        if job.is_stopping:
            free += job.resources
    if free.contains(head.resources):
        return ()
    candidates = [
        job
        for job in running
        if not job.is_stopping
        and job.sort_key > head.sort_key
        and (job.is_overdue_backfill or (job.is_preemptible and job.priority < head.priority))
    ]
    victims: list[RunningJob] = []
    for job in sorted(candidates, key=lambda job: (not job.is_overdue_backfill, -job.sort_key)):
        if free.contains(head.resources):
            break
        victims.append(job)
        free += job.resources
    if not free.contains(head.resources):
        return ()
    for job in tuple(victims):
        if (free - job.resources).contains(head.resources):
            victims.remove(job)
            free -= job.resources
    return tuple(sorted(job.job_id for job in victims))


def _simulate_starts(
    snapshot: SchedulerSnapshot, ends: Mapping[str, float], *, is_late: bool
) -> dict[str, float]:
    usage = compute_usage(snapshot.running)
    free, now = snapshot.free, 0.0
    # The index breaks ties: resources have no order.
    ending = [(ends[job.job_id], at, job.resources) for at, job in enumerate(snapshot.running)]
    heapq.heapify(ending)
    starts: dict[str, float] = {}
    for at, job in enumerate(snapshot.waiting, start=len(ending)):
        if not snapshot.capacity.contains(job.resources):
            continue
        if find_exceeded_quota(job, usage, snapshot) is not None:
            continue
        while ending and not free.contains(job.resources):
            end, _, released = heapq.heappop(ending)
            now, free = max(now, end), free + released
        starts[job.job_id] = now
        free -= job.resources
        duration = job.duration or DurationEstimate(p50=inf, p90=inf)
        seconds = duration.p90 if is_late else duration.p50
        heapq.heappush(ending, (now + seconds, at, job.resources))
    return starts
