"""The cluster's row: what the cluster has, as last seen; its lock serializes admission."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.resources import ResourceBundle
from service.scheduling.worker_groups import WorkerGroups
from service.storage.tables import AttemptRow, ClusterRow

_CLUSTER_ID = 1
# Dispatchers record every ten seconds that they see the cluster.
_DISPATCHER_TIMEOUT = timedelta(seconds=60)
# An unchanged cluster is recorded no more often: a commit each second would wake every listener.
_RECORD_SECONDS = 10.0


def record_cluster(
    session: Session,
    capacity: ResourceBundle,
    *,
    nodes: Sequence[ResourceBundle] = (),
    scalable_nodes: Sequence[ResourceBundle] = (),
    now: datetime,
) -> None:
    """Stores what may be given to attempts, in total and by node; no `nodes`: one has it all.

    `scalable_nodes`: all that an autoscaler can have; none: there is no autoscaler.
    """
    cluster = session.get(ClusterRow, _CLUSTER_ID)
    seen = {
        "cpus": capacity.cpus,
        "gpus": capacity.gpus,
        "nodes": sorted([node.cpus, node.gpus] for node in nodes),
        "scalable_nodes": sorted([node.cpus, node.gpus] for node in scalable_nodes),
    }
    if cluster is None:
        # Another dispatcher may insert the row at the same moment.
        with suppress(IntegrityError), session.begin_nested():
            session.add(ClusterRow(id=_CLUSTER_ID, seen_at=now, **seen))
        return
    is_stale = now > cluster.seen_at + timedelta(seconds=_RECORD_SECONDS)
    if is_stale or any(getattr(cluster, name) != value for name, value in seen.items()):
        for name, value in seen.items():
            setattr(cluster, name, value)
        cluster.seen_at = now


@dataclass(frozen=True)
class ClusterState:
    """`seen_at`: when a dispatcher last recorded it, at most ten seconds late.

    `nodes`: the smallest first; empty where only the total is known. `scalable_nodes`: all that an
    autoscaler can have, empty without one.
    """

    capacity: ResourceBundle
    nodes: list[ResourceBundle]
    scalable_nodes: list[ResourceBundle]
    seen_at: datetime

    def has_dispatcher(self, now: datetime) -> bool:
        """Whether one has seen the cluster in the last minute."""
        return now <= self.seen_at + _DISPATCHER_TIMEOUT

    def make_worker_groups(self) -> WorkerGroups:
        return WorkerGroups(self.capacity, self.nodes)


def find_cluster(session: Session) -> ClusterState | None:
    """None before any dispatcher has seen the cluster."""
    row = session.get(ClusterRow, _CLUSTER_ID)
    if row is None:
        return None
    return ClusterState(
        capacity=ResourceBundle(cpus=row.cpus, gpus=row.gpus),
        nodes=[ResourceBundle(cpus=cpus, gpus=gpus) for cpus, gpus in row.nodes],
        scalable_nodes=[ResourceBundle(cpus=cpus, gpus=gpus) for cpus, gpus in row.scalable_nodes],
        seen_at=row.seen_at,
    )


def find_nodes(session: Session) -> list[ResourceBundle]:
    """The smallest first; empty where only the total is known."""
    cluster = find_cluster(session)
    return [] if cluster is None else cluster.nodes


def lock_cluster(session: Session) -> ResourceBundle | None:
    """The capacity; no other transaction decides what fits until this one ends.

    None before any dispatcher has seen the cluster.
    """
    row = session.get(ClusterRow, _CLUSTER_ID, with_for_update=True, populate_existing=True)
    return None if row is None else ResourceBundle(cpus=row.cpus, gpus=row.gpus)


def list_holding_jobs(session: Session) -> set[str]:
    """Ids of the jobs with an attempt, ended or not, whose resources were not released yet."""
    return set(session.scalars(select(AttemptRow.job_id).where(AttemptRow.released_at.is_(None))))


def has_shrunk(session: Session) -> bool:
    """Whether attempts occupy more than the cluster has."""
    cluster = find_cluster(session)
    return cluster is not None and not cluster.capacity.contains(sum_reserved(session))


def sum_reserved(session: Session) -> ResourceBundle:
    """What attempts occupy that were not released yet, ended or not."""
    cpus, gpus = session.execute(
        select(
            func.coalesce(func.sum(AttemptRow.num_workers * AttemptRow.cpus_per_worker), 0),
            func.coalesce(func.sum(AttemptRow.num_workers * AttemptRow.gpus_per_worker), 0),
        ).where(AttemptRow.released_at.is_(None))
    ).one()
    return ResourceBundle(cpus=cpus, gpus=gpus)
