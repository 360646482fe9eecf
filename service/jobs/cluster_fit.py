"""Whether the cluster can ever run a job, if nothing else runs and an autoscaler adds its nodes."""

from sqlalchemy.orm import Session

from service.errors import CannotFit, FieldError
from service.resources import ResourceBundle, count_workers_that_fit
from service.specs.job_spec import JobSpec
from service.storage.tables import ClusterRow
from service.text import count_of, plural


def require_fit(session: Session, spec: JobSpec) -> None:
    """CannotFit where the cluster is too small; no check before its size is known.

    An elastic job needs the fewest workers that it may have.
    """
    cluster = session.get(ClusterRow, 1)
    # A session forgets rows to which nothing refers, and a batch asks for each of its jobs.
    session.info["cluster"] = cluster
    message = None if cluster is None else _describe_misfit(cluster, spec)
    if message is not None:
        raise CannotFit(
            "the cluster can never run this job",
            field_errors=(FieldError(pointer="/resources", message=message),),
        )


def _describe_misfit(cluster: ClusterRow, spec: JobSpec) -> str | None:
    """What the cluster lacks; None: nothing. With an autoscaler: the cluster at its largest."""
    has_autoscaler = bool(cluster.scalable_nodes)
    nodes = [
        ResourceBundle(cpus=cpus, gpus=gpus)
        for cpus, gpus in cluster.scalable_nodes or cluster.nodes
    ]
    cpus, gpus = cluster.cpus, cluster.gpus
    if has_autoscaler:
        cpus, gpus = sum(node.cpus for node in nodes), sum(int(node.gpus) for node in nodes)
    resources, workers = spec.resources, spec.worker_counts[0]
    worker = ResourceBundle(cpus=resources.cpus_per_worker, gpus=resources.gpus_per_worker or 0)
    for noun, needed, available in (
        ("CPU", workers * worker.cpus, cpus),
        ("GPU", workers * worker.gpus, gpus),
    ):
        if needed > available:
            return (
                f"{count_of(workers, 'worker')} {plural(workers, 'needs', 'need')} "
                f"{count_of(needed, noun)}; "
                f"the cluster {'can have' if has_autoscaler else 'has'} {available:,}"
            )
    fitting = count_workers_that_fit(nodes, worker) if nodes else workers
    if fitting >= workers:
        return None
    share = count_of(worker.cpus, "CPU")
    if worker.gpus:
        share += f" and {count_of(worker.gpus, 'GPU')}"
    if fitting == 0:
        return f"each worker needs one node with {share}; no node has that"
    return (
        f"each worker needs one node with {share}; "
        f"only {fitting:,} of the {count_of(workers, 'worker')} {plural(fitting, 'fits', 'fit')}"
    )
