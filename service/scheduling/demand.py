"""The demand for workers where an autoscaler can add nodes: what runs, and what would start."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from sqlalchemy.orm import Session

from service.access import quotas
from service.resources import ResourceBundle
from service.scheduling import cluster_state, policy, snapshot
from service.scheduling.policy import RunningJob, SchedulerSnapshot, WaitingJob

# Workers by what each of them occupies on one node.
Demand = dict[ResourceBundle, int]


def read_demand(session: Session, *, data_dir: Path, now: datetime) -> Demand:
    """Of the first jobs of the queue; empty without an autoscaler."""
    cluster = cluster_state.find_cluster(session)
    if cluster is None or not cluster.scalable_nodes:
        return {}
    found = snapshot.read_snapshot(
        session,
        cluster.make_worker_groups(),
        quotas=quotas.read_quotas(session),
        data_dir=data_dir,
        now=now,
    )
    return count_workers(found, cluster.scalable_nodes)


def count_workers(found: SchedulerSnapshot, nodes: Sequence[ResourceBundle]) -> Demand:
    """The workers of all jobs that run, then those that fit on what remains of the nodes.

    Of an elastic job that waits the fewest that it may have.

    Ray's autoscaler ignores a demand that its nodes cannot hold, instead of adding all of them. So
    each worker gets a place here, and a job that exceeds a quota gets none.
    """
    free = sorted(nodes, key=lambda node: (node.gpus, node.cpus))
    usage = policy.compute_usage(found.running)
    demand: Counter[ResourceBundle] = Counter()
    for running in found.running:
        if (placed := _place(running, free)) is not None:
            free = placed
            demand[_worker_of(running)] += running.num_workers
    for waiting in found.waiting:
        if policy.find_exceeded_quota(waiting, usage, found) is not None:
            continue
        if (placed := _place(waiting, free)) is not None:
            free = placed
            demand[_worker_of(waiting)] += waiting.num_workers
            for key, amount in policy.compute_usage([waiting]).items():
                usage[key] += amount
    return dict(demand)


def _worker_of(job: RunningJob | WaitingJob) -> ResourceBundle:
    return ResourceBundle(
        cpus=job.resources.cpus // job.num_workers, gpus=job.resources.gpus / job.num_workers
    )


def _place(
    job: RunningJob | WaitingJob, free: Sequence[ResourceBundle]
) -> list[ResourceBundle] | None:
    """What remains of the nodes; None where not all workers fit."""
    remaining = list(free)
    worker = _worker_of(job)
    at = 0
    for _ in range(job.num_workers):
        while at < len(remaining) and not remaining[at].contains(worker):
            at += 1
        if at == len(remaining):
            return None
        remaining[at] -= worker
    return remaining
