"""What a training run reports, and waiting for a job."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime

import resnetd
from service.catalog.recipes import Recipe
from service.specs.job_spec import JobSpec
from service.specs.protocol import MetricPoint
from service.specs.series import StepSeries
from tests.support.fake_api import eventually
from workers.training import trainer
from workers.training.observers import StepTime


def make_step(iteration: int) -> StepTime:
    return StepTime(iteration, seconds=float(iteration), at=datetime.now(UTC))


def expected_points(spec: JobSpec) -> dict[str, list[int]]:
    """The iterations at which each series has a point, for an uninterrupted run.

    Without those of the machine, which follow the time.
    """
    recipe = spec.recipe
    evaluated = _marks(recipe, recipe.evaluate_every)
    reported = sorted({*_marks(recipe, trainer.report_every(recipe)), *evaluated})
    return {
        "train/loss": reported,
        "train/error": reported,
        "train/top5_error": reported,
        "gradient_norm": reported,
        "learning_rate": reported,
        "images_per_second": reported,
        **dict.fromkeys(StepSeries, reported),
        "test/loss": evaluated,
        "test/error": evaluated,
        "test/top5_error": evaluated,
    }


def points_of_job(client: resnetd.Client, job_id: str) -> dict[str, list[int]]:
    """The iterations at which each series of the job has a point, without the machine's."""
    found = client.jobs.metrics(job_id)
    return without_machine({name: list(series.iterations) for name, series in found.items()})


def points_by_series(points: Iterable[MetricPoint]) -> dict[str, list[int]]:
    """The iterations of `points` in their order, by series, without the machine's."""
    iterations: dict[str, list[int]] = {}
    for point in points:
        iterations.setdefault(point.series, []).append(point.iteration)
    return without_machine(iterations)


def without_machine(iterations: dict[str, list[int]]) -> dict[str, list[int]]:
    """How often the machine is sampled depends on the time."""
    return {name: at for name, at in iterations.items() if not name.startswith("machine/")}


def wait_for_job(
    client: resnetd.Client,
    job_id: str,
    condition: Callable[[resnetd.Job], bool],
    *,
    within_seconds: float,
) -> resnetd.Job:
    """The job, once the condition holds. Fails at once when the job ends before that."""
    job = client.jobs.get(job_id)

    def holds() -> bool:
        nonlocal job
        job = client.jobs.get(job_id)
        assert condition(job) or not job.is_final, f"the job has ended: {job.message}"
        return condition(job)

    # Each look is a request: more of them would take the processors from the training.
    eventually(holds, within_seconds=within_seconds, poll_seconds=0.2)
    return job


def has_reached(iteration: int) -> Callable[[resnetd.Job], bool]:
    return lambda job: job.progress is not None and job.progress.iteration >= iteration


def _marks(recipe: Recipe, every: int) -> list[int]:
    return sorted({*range(every, recipe.iterations + 1, every), recipe.iterations})
