"""What a training run must have told by its end."""

from collections.abc import Callable

import resnetd
from service.catalog.recipes import Recipe
from service.specs.job_spec import JobSpec
from tests.support.fake_api import eventually
from workers.training import train_hooks


def expected_points(spec: JobSpec) -> dict[str, list[int]]:
    """The iterations at which each series has a point, for a run from beginning to end."""
    recipe = spec.recipe
    evaluated = _marks(recipe, recipe.evaluate_every)
    reported = sorted({*_marks(recipe, train_hooks.report_every(recipe)), *evaluated})
    return {
        "train/loss": reported,
        "train/error": reported,
        "learning_rate": reported,
        "images_per_second": reported,
        "test/loss": evaluated,
        "test/error": evaluated,
    }


def told_points(client: resnetd.Client, job_id: str) -> dict[str, list[int]]:
    return {name: list(one.iterations) for name, one in client.metrics(job_id).items()}


def wait_until(
    client: resnetd.Client, job_id: str, is_so: Callable[[resnetd.Job], bool], *, seconds: float
) -> resnetd.Job:
    """The job, once that holds of it. Fails at once where the job ends before."""
    last: list[resnetd.Job] = []

    def look() -> bool:
        last[:] = [client.job(job_id)]
        holds = is_so(last[0])
        assert holds or not last[0].is_final, f"the job ended: {last[0].message}"
        return holds

    eventually(look, within_seconds=seconds)
    return last[0]


def is_past(iteration: int) -> Callable[[resnetd.Job], bool]:
    return lambda job: job.progress is not None and job.progress.iteration >= iteration


def _marks(recipe: Recipe, every: int) -> list[int]:
    return sorted({*range(every, recipe.iterations + 1, every), recipe.iterations})
