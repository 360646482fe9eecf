"""CPUs and GPUs: what the cluster has, what an attempt requires, what is free."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class ResourceBundle:
    """A number of CPUs and GPUs; below zero where more is occupied than the cluster still has."""

    cpus: int
    gpus: float

    def contains(self, other: "ResourceBundle") -> bool:
        return other.cpus <= self.cpus and other.gpus <= self.gpus

    def __add__(self, other: "ResourceBundle") -> "ResourceBundle":
        return ResourceBundle(cpus=self.cpus + other.cpus, gpus=self.gpus + other.gpus)

    def __sub__(self, other: "ResourceBundle") -> "ResourceBundle":
        return ResourceBundle(cpus=self.cpus - other.cpus, gpus=self.gpus - other.gpus)


@dataclass(frozen=True)
class ResourceHours:
    """What was used over a time, in hours of one CPU and of one GPU."""

    core_hours: float = 0.0
    gpu_hours: float = 0.0

    def __add__(self, other: "ResourceHours") -> "ResourceHours":
        return ResourceHours(
            core_hours=self.core_hours + other.core_hours,
            gpu_hours=self.gpu_hours + other.gpu_hours,
        )


@dataclass(frozen=True)
class WorkerGroup:
    """The workers of an attempt, and what each of them occupies."""

    num_workers: int
    cpus_per_worker: int
    gpus_per_worker: float

    @property
    def resources(self) -> ResourceBundle:
        """Of all workers."""
        return ResourceBundle(
            cpus=self.num_workers * self.cpus_per_worker,
            gpus=self.num_workers * self.gpus_per_worker,
        )


def count_workers_that_fit(nodes: Iterable[ResourceBundle], worker: ResourceBundle) -> int:
    """How many such workers the nodes take when nothing else runs, each on one node.

    `worker`: at least one CPU and at most one GPU.
    """
    return sum(_count_on_node(node, worker) for node in nodes)


def _count_on_node(node: ResourceBundle, worker: ResourceBundle) -> int:
    by_cpus = node.cpus // worker.cpus
    return min(by_cpus, int(1 / worker.gpus) * int(node.gpus)) if worker.gpus else by_cpus
