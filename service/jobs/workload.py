"""What a spec costs to train, as far as it is known before the first step."""

from service.catalog import model_stats
from service.catalog.datasets import Dataset, find_dataset
from service.catalog.model_stats import ModelStats
from service.specs import dataset_fit
from service.specs.job_spec import JobSpec

# Of an image folder whose classes are not counted: the classifier's share of the multiply-adds is
# far below the precision of an estimate.
_ASSUMED_CLASSES = 1_000


def make_timing_key(spec: JobSpec) -> str:
    """Jobs with the same key take equally long per iteration with as many such workers."""
    resources = spec.resources
    gpus = "any" if resources.gpus_per_worker is None else f"{resources.gpus_per_worker:g}"
    analysis = "" if spec.analysis is None else f"{spec.analysis.model_dump_json()}/"
    return (
        f"{analysis}{spec.family}/{spec.network}/{spec.dataset}/batch={spec.recipe.batch_size}"
        f"/cpus={resources.cpus_per_worker}/gpus={gpus}"
    )


def max_seconds_of(spec: JobSpec) -> float | None:
    """After which the training ends; None without such a limit, and for analyses."""
    return spec.recipe.max_seconds if spec.analysis is None else None


def count_iterations(spec: JobSpec) -> int:
    """An analysis counts as one iteration: what it does inside differs by its kind."""
    return spec.recipe.iterations if spec.analysis is None else 1


def count_macs_per_iteration(spec: JobSpec) -> float | None:
    """Multiply-adds of one iteration's forward pass; None for an analysis."""
    if spec.analysis is not None:
        return None
    dataset = find_dataset(spec.dataset)
    assert dataset is not None, "validated"
    stats = _compute_model_stats(spec, dataset, classes=dataset.classes or _ASSUMED_CLASSES)
    return float(stats.multiply_adds * spec.recipe.batch_size)


def model_stats_of(spec: JobSpec, dataset: Dataset) -> ModelStats | None:
    """None where the dataset's classes are not counted."""
    if dataset.classes is None:
        return None
    return _compute_model_stats(spec, dataset, classes=dataset.classes)


def _compute_model_stats(spec: JobSpec, dataset: Dataset, *, classes: int) -> ModelStats:
    size = dataset_fit.get_input_size(spec.recipe, dataset, spec.architecture)
    return model_stats.compute_model_stats(
        spec.architecture, classes=classes, height=size, width=size
    )
