"""CPUs and GPUs: what the cluster has, what an attempt needs, what is left."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class ResourceBundle:
    """CPUs, counted as whole ones, and GPUs."""

    cpus: int
    gpus: float

    def holds(self, other: "ResourceBundle") -> bool:
        return other.cpus <= self.cpus and other.gpus <= self.gpus

    def plus(self, other: "ResourceBundle") -> "ResourceBundle":
        return ResourceBundle(cpus=self.cpus + other.cpus, gpus=self.gpus + other.gpus)

    def minus(self, other: "ResourceBundle") -> "ResourceBundle":
        return ResourceBundle(cpus=self.cpus - other.cpus, gpus=self.gpus - other.gpus)

    def times(self, part: "ResourceBundle") -> int:
        """How often it holds a part that has at least one CPU and at most one GPU."""
        by_cpus = self.cpus // part.cpus
        return min(by_cpus, int(1 / part.gpus) * int(self.gpus)) if part.gpus else by_cpus


@dataclass(frozen=True)
class WorkerGroup:
    """The workers of an attempt, and what each of them occupies."""

    num_workers: int
    cpus_per_worker: int
    gpus_per_worker: float

    @property
    def pool(self) -> ResourceBundle:
        return ResourceBundle(
            cpus=self.num_workers * self.cpus_per_worker,
            gpus=self.num_workers * self.gpus_per_worker,
        )


def count_workers_that_fit(nodes: Iterable[ResourceBundle], worker: ResourceBundle) -> int:
    """How many such workers the nodes hold when nothing else runs: each lies on one of them."""
    return sum(node.times(worker) for node in nodes)
