"""What a spec costs to train, as far as it is known before the first step."""

from service.catalog import model_stats
from service.catalog.datasets import find_dataset
from service.catalog.model_stats import ModelStats
from service.specs.job_spec import JobSpec


def timing_key(spec: JobSpec) -> str:
    """Jobs with the same key take equally long per iteration on the same machines."""
    resources = spec.resources
    gpus = "any" if resources.gpus_per_worker is None else f"{resources.gpus_per_worker:g}"
    return (
        f"{spec.family}/{spec.network}/{spec.dataset}/batch={spec.recipe.batch_size}"
        f"/workers={resources.num_workers}/cpus={resources.cpus_per_worker}/gpus={gpus}"
    )


def macs_per_iteration(spec: JobSpec) -> float | None:
    """Multiply-adds of one iteration's forward pass; None as for `model_stats_of`."""
    stats = model_stats_of(spec)
    return None if stats is None else float(stats.multiply_adds * spec.recipe.batch_size)


def model_stats_of(spec: JobSpec) -> ModelStats | None:
    """None where classes and image size are known only from the images of a folder."""
    dataset = find_dataset(spec.dataset)
    assert dataset is not None, "validated"
    if dataset.classes is None or dataset.size is None:
        return None
    return model_stats.compute_model_stats(
        spec.architecture, classes=dataset.classes, height=dataset.size, width=dataset.size
    )
