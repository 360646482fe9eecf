from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.resources import ResourceBundle
from service.storage.tables import AttemptRow, ClusterRow

_CLUSTER_ID = 1
# How old the cluster's row may be: a commit a round would wake everybody each round.
_SEEN_SECONDS = 10.0


def record_cluster(
    session: Session, pool: ResourceBundle, *, nodes: Sequence[ResourceBundle] = (), now: datetime
) -> None:
    """What the cluster holds in all, for admission and for refusing what never fits.

    `nodes`: what each of them has; none: one has it all.
    """
    cluster = session.get(ClusterRow, _CLUSTER_ID)
    seen = {
        "cpus": pool.cpus,
        "gpus": pool.gpus,
        "nodes": sorted([node.cpus, node.gpus] for node in nodes),
    }
    if cluster is None:
        # Another dispatcher that sees the cluster for the first time may be first.
        with suppress(IntegrityError), session.begin_nested():
            session.add(ClusterRow(id=_CLUSTER_ID, seen_at=now, **seen))
        return
    is_stale = now > cluster.seen_at + timedelta(seconds=_SEEN_SECONDS)
    if is_stale or any(getattr(cluster, name) != value for name, value in seen.items()):
        for name, value in seen.items():
            setattr(cluster, name, value)
        cluster.seen_at = now


def read_cluster(session: Session) -> tuple[ResourceBundle, datetime] | None:
    """The whole pool and when it was seen; None before any dispatcher has seen it."""
    row = session.get(ClusterRow, _CLUSTER_ID)
    return None if row is None else (ResourceBundle(cpus=row.cpus, gpus=row.gpus), row.seen_at)


def sum_reserved(session: Session) -> ResourceBundle:
    """What attempts occupy that were not released yet, ended or not."""
    cpus, gpus = session.execute(
        select(
            func.coalesce(func.sum(AttemptRow.num_workers * AttemptRow.cpus_per_worker), 0),
            func.coalesce(func.sum(AttemptRow.num_workers * AttemptRow.gpus_per_worker), 0),
        ).where(AttemptRow.released_at.is_(None))
    ).one()
    return ResourceBundle(cpus=cpus, gpus=gpus)


def lock_cluster(session: Session) -> ResourceBundle | None:
    """The whole pool, this transaction's alone; None before any dispatcher has seen it."""
    row = session.get(ClusterRow, _CLUSTER_ID, with_for_update=True, populate_existing=True)
    return None if row is None else ResourceBundle(cpus=row.cpus, gpus=row.gpus)
