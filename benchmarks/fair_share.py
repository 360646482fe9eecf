"""`make bench-fair_share`: how long light and heavy users wait, by the order of the queue.

Simulates two weeks of a cluster with the scheduling policy itself, in seconds, without a
database. Two heavy users submit a batch each morning, ten light ones a few jobs a day.
"""

import heapq
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table

from service.jobs.queue_order import make_sort_key
from service.resources import ResourceBundle, ResourceHours
from service.scheduling import policy
from service.scheduling.policy import (
    DurationEstimate,
    RunningJob,
    SchedulerSnapshot,
    StartJob,
    WaitingJob,
)
from service.specs.fair_share import FairShare, accumulate, decay

CAPACITY = ResourceBundle(cpus=16, gpus=0)
DAYS = 14
# Without the first week, in which usage builds up.
WARM_UP_DAYS = 7
HEAVY = ("heavy-1", "heavy-2")
LIGHT = tuple(f"light-{number}" for number in range(1, 11))
SEEDS = range(3)
_DAY, _HOUR = 86_400.0, 3600.0


@dataclass(frozen=True)
class Job:
    job_id: str
    user: str
    created_at: float
    cpus: int
    seconds: float
    priority: int = 50


def main() -> None:
    fair, off = FairShare(), FairShare(weight=0)
    table = Table("order of the queue", title="hours of waiting")
    for kind in ("light", "heavy"):
        for column in ("mean", "p90", "max"):
            table.add_column(f"{kind} {column}", justify="right")
    for name, fair_share, heavy_priority in (
        ("FIFO", off, 50),
        ("plain priority, heavy users choose 100", off, 100),
        ("fair share", fair, 50),
        ("fair share, heavy users choose 100", fair, 100),
    ):
        waits: dict[str, list[float]] = {"light": [], "heavy": []}
        for seed in SEEDS:
            jobs = [
                replace(job, priority=heavy_priority) if job.user in HEAVY else job
                for job in make_jobs(seed)
            ]
            for job, start in simulate(jobs, fair_share).items():
                if job.created_at >= WARM_UP_DAYS * _DAY:
                    kind = "heavy" if job.user in HEAVY else "light"
                    waits[kind].append((start - job.created_at) / _HOUR)
        columns = (number for found in waits.values() for number in _describe(found))
        table.add_row(name, *(f"{number:.1f}" for number in columns))
    Console(width=120).print(table)


def make_jobs(seed: int) -> list[Job]:
    """In the order of their submission. About nine tenths of what the cluster can do."""
    chosen = random.Random(seed)  # noqa: S311
    jobs: list[Job] = []
    for day in range(DAYS):
        submitted = [(user, day * _DAY + 9 * _HOUR) for user in HEAVY for _ in range(40)]
        submitted += [
            (user, day * _DAY + chosen.uniform(8, 20) * _HOUR)
            for user in LIGHT
            for _ in range(chosen.randint(0, 4))
        ]
        for user, at in submitted:
            jobs.append(
                Job(
                    job_id=f"{len(jobs):06}",
                    user=user,
                    created_at=at + chosen.uniform(0, 60),
                    cpus=chosen.choice((1, 1, 2, 4)),
                    seconds=min(12 * _HOUR, chosen.lognormvariate(0.3, 0.7) * _HOUR),
                )
            )
    return sorted(jobs, key=lambda job: job.created_at)


def simulate(jobs: Sequence[Job], fair_share: FairShare) -> dict[Job, float]:
    """When each job starts, in seconds since the beginning."""
    arriving, by_id = list(jobs), {job.job_id: job for job in jobs}
    waiting: dict[str, Job] = {}
    running: list[tuple[float, str]] = []
    starts: dict[Job, float] = {}
    used: dict[str, ResourceHours] = {}
    used_at = 0.0
    next_arrival = 0
    while next_arrival < len(arriving) or running:
        arrival = arriving[next_arrival].created_at if next_arrival < len(arriving) else None
        is_end = bool(running) and (arrival is None or running[0][0] <= arrival)
        now = running[0][0] if is_end else arrival
        assert now is not None
        # Usage accrues until each event with what ran until then.
        for user, hours in used.items():
            used[user] = decay(hours, now - used_at, fair_share.half_life_days)
        for _, job_id in running:
            job = by_id[job_id]
            key = f"user:{job.user}"
            added = accumulate(job.cpus, 0, now - used_at, fair_share.half_life_days)
            used[key] = used.get(key, ResourceHours()) + added
        used_at = now
        if is_end:
            heapq.heappop(running)
        else:
            job = arriving[next_arrival]
            waiting[job.job_id] = job
            next_arrival += 1
        points = policy.compute_fair_share(used, {}, CAPACITY, weight=fair_share.weight).points
        while isinstance(decision := _decide(waiting, running, by_id, points, now), StartJob):
            job = waiting.pop(decision.job_id)
            starts[job] = now
            heapq.heappush(running, (now + job.seconds, job.job_id))
    return starts


def _decide(
    waiting: dict[str, Job],
    running: list[tuple[float, str]],
    by_id: dict[str, Job],
    points: dict[str, float],
    now: float,
) -> object:
    if len(running) >= CAPACITY.cpus:
        return None
    described = [
        WaitingJob(
            job_id=job.job_id,
            sort_key=make_sort_key(
                created_at=datetime.fromtimestamp(job.created_at, UTC),
                priority=job.priority,
                points=round(points.get(job.user, 0.0)),
            ),
            priority=job.priority,
            resources=ResourceBundle(cpus=job.cpus, gpus=0),
            num_workers=job.cpus,
            user=job.user,
            duration=DurationEstimate(p50=job.seconds, p90=job.seconds),
        )
        for job in waiting.values()
    ]
    return policy.decide(
        SchedulerSnapshot(
            capacity=CAPACITY,
            running=[
                RunningJob(
                    job_id=job_id,
                    sort_key=0.0,
                    priority=by_id[job_id].priority,
                    resources=ResourceBundle(cpus=by_id[job_id].cpus, gpus=0),
                    num_workers=by_id[job_id].cpus,
                    user=by_id[job_id].user,
                    remaining=DurationEstimate(p50=ends - now, p90=ends - now),
                )
                for ends, job_id in running
            ],
            waiting=sorted(described, key=lambda job: (job.sort_key, job.job_id)),
            quotas={},
        )
    )


def _describe(waits: Sequence[float]) -> tuple[float, float, float]:
    p90 = statistics.quantiles(waits, n=10, method="inclusive")[-1]
    return statistics.fmean(waits), p90, max(waits)


if __name__ == "__main__":
    main()
