"""Advice about a spec that can be trained, but hardly as its user wants."""

from pathlib import Path

from service.catalog import dataset_folders, recipes
from service.catalog.datasets import Dataset, DatasetOrigin
from service.catalog.recipes import Recipe
from service.specs.job_spec import JobSpec
from service.text import count_of, format_duration

SHORT_RECIPE = "fine-tune"
# The papers train for at most 182 epochs (section 4.2: 64,000 iterations on 45,000 images).
_MANY_EPOCHS = 500


def compute_epochs(spec: JobSpec, dataset: Dataset) -> float | None:
    """How often each training image is seen; None for an analysis, or where none are counted."""
    return None if spec.analysis is not None else _compute_epochs(spec.recipe, dataset)


def find_data_warning(dataset: Dataset, data_dir: Path) -> str | None:
    """Where this machine cannot say whether the images exist; None where it can."""
    if not dataset_folders.is_uncertain(dataset, data_dir):
        return None
    return (
        f"the API does not see the data directory of the nodes that train: whether they have "
        f"{dataset.name} shows when the job starts"
    )


def describe_worker_counts(spec: JobSpec, *, num_workers: int) -> str | None:
    """Of an elastic job; `num_workers`: with which its time was estimated."""
    counts = spec.worker_counts
    if len(counts) == 1:
        return None
    listed = f"{', '.join(map(str, counts[:-1]))} or {counts[-1]}"
    return (
        f"number of workers: {listed}, which share batches of {spec.recipe.batch_size} equally; "
        f"the memory is that with {counts[0]}, the run time that with {num_workers}"
    )


def list_notes(spec: JobSpec, dataset: Dataset, *, seconds: float | None) -> list[str]:
    """Sentences; none for a usual training. `seconds`: how long it is expected to take."""
    epochs = compute_epochs(spec, dataset)
    if epochs is None or epochs <= _MANY_EPOCHS or dataset.origin is not DatasetOrigin.FOLDER:
        return []
    short = recipes.build_recipe(SHORT_RECIPE, family=spec.family, depth=spec.depth)
    time = "" if seconds is None else f" and takes about {format_duration(seconds)}"
    images = count_of(dataset.train_images or 0, "training image")
    short_epochs = _compute_epochs(short, dataset) or 0
    note = (
        f"recipe {spec.recipe.name} sees each of {images} {epochs:,.0f} times{time}; recipe "
        f"{SHORT_RECIPE} sees each {short_epochs:,.0f} times, best with start_from in mode "
        "fine-tune, or set recipe.iterations"
    )
    return [note]


def _compute_epochs(recipe: Recipe, dataset: Dataset) -> float | None:
    if dataset.train_images is None:
        return None
    return recipe.iterations * recipe.batch_size / (dataset.train_images - recipe.validation_images)
