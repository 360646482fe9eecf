"""The worker groups that a job may have on the cluster: one, or several of an elastic job."""

from collections.abc import Sequence
from typing import Any, Protocol

from sqlalchemy import Row

from service.resources import ResourceBundle, WorkerGroup, count_workers_that_fit


class RequestedWorker(Protocol):
    """A worker as a job's spec, its row or a row of `select_eligible` has it."""

    @property
    def cpus_per_worker(self) -> int: ...
    @property
    def gpus_per_worker(self) -> float | None: ...


class WorkerGroups:
    """`capacity`: all that the cluster has; `nodes`: on which nodes, empty where not known."""

    def __init__(self, capacity: ResourceBundle, nodes: Sequence[ResourceBundle] = ()) -> None:
        self.capacity = capacity
        self._nodes = nodes
        self._fitting: dict[ResourceBundle, int] = {}

    def list(
        self, counts: Sequence[int], requested: RequestedWorker | Row[tuple[Any, ...]]
    ) -> list[WorkerGroup]:
        """Ascending: that with the fewest workers, and the larger ones that the cluster can hold.

        `counts`: of workers, ascending. Where no GPUs are requested or declined, each worker has
        one if the cluster has as many as the fewest workers need.
        """
        smallest, *larger = counts
        gpus_per_worker = requested.gpus_per_worker
        if gpus_per_worker is None:
            gpus_per_worker = 1 if self.capacity.gpus >= smallest else 0
        groups = [WorkerGroup(smallest, requested.cpus_per_worker, gpus_per_worker)]
        if larger:
            worker = ResourceBundle(cpus=requested.cpus_per_worker, gpus=gpus_per_worker)
            limit = self._count_fitting(worker)
            groups += [
                WorkerGroup(count, requested.cpus_per_worker, gpus_per_worker)
                for count in larger
                if count <= limit
            ]
        return groups

    def _count_fitting(self, worker: ResourceBundle) -> int:
        if worker not in self._fitting:
            limits = [self.capacity.cpus // worker.cpus]
            if worker.gpus:
                limits.append(int(self.capacity.gpus / worker.gpus))
            if self._nodes:
                limits.append(count_workers_that_fit(self._nodes, worker))
            self._fitting[worker] = min(limits)
        return self._fitting[worker]
