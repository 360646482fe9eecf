"""Search specs: defaults, and errors for incompatible fields."""

from typing import Any

import pytest

from service.errors import InvalidInput
from service.specs import search_spec
from service.specs.search_spec import Algorithm, Metric, Scheduler
from tests.support.core import written
from tests.support.searching import search_body

LEARNING_RATE = {"recipe.learning_rate": {"loguniform": [0.001, 1.0]}}
GRID = {"shortcut": {"grid": ["A", "B", "C"]}}


def _error(**fields: Any) -> tuple[str, str]:
    with pytest.raises(InvalidInput) as caught:
        search_spec.parse_search_spec(search_body(**fields))
    (error,) = caught.value.field_errors
    return error.pointer, error.message


def _spec(**fields: Any) -> search_spec.SearchSpec:
    return search_spec.parse_search_spec(search_body(**fields))


def test_a_stored_spec_is_parsed_to_the_same_spec() -> None:
    spec = _spec(metric=["test/error", "parameters"])
    assert search_spec.parse_search_spec(spec.model_dump(mode="json")) == spec


def test_job_and_space_are_sufficient() -> None:
    spec = search_spec.parse_search_spec(
        {"job": written(), "space": {"depth": {"choice": [8, 14]}}}
    )
    assert spec.algorithm is Algorithm.TPE
    assert spec.scheduler.name is Scheduler.FIFO
    assert spec.trials == 10


@pytest.mark.parametrize("recipe", [None, "quick", {"name": "quick", "iterations": 50}])
def test_a_search_without_a_metric_holds_out_a_tenth_of_the_training_images(
    recipe: Any,
) -> None:
    spec = search_spec.parse_search_spec({"job": written(recipe=recipe), "space": LEARNING_RATE})
    assert spec.metric == (Metric.VALIDATION_ERROR,)
    assert spec.make_example().recipe.validation_images == 143
    assert spec.make_example().recipe.name == "quick"


def test_a_search_without_a_metric_keeps_the_number_of_held_out_images() -> None:
    job = written(recipe={"name": "quick", "validation_images": 37})
    spec = search_spec.parse_search_spec({"job": job, "space": LEARNING_RATE})
    assert spec.make_example().recipe.validation_images == 37


def test_a_search_that_selects_on_test_images_says_so() -> None:
    job = written(dataset="folder:photos", family="imagenet", depth=18)
    error = _error(job=job, metric=None)
    assert error[0] == "/metric"
    assert "test/error would select on the images" in error[1]
    spec = search_spec.parse_search_spec(
        {"job": written(), "space": LEARNING_RATE, "metric": "test/error"}
    )
    assert spec.make_example().recipe.validation_images == 0


def test_a_grid_defaults_to_algorithm_random() -> None:
    spec = search_spec.parse_search_spec({"job": written(), "space": GRID})
    assert (spec.algorithm, spec.trials) == (Algorithm.RANDOM, 3)


@pytest.mark.parametrize(
    ("fields", "pointer", "expected"),
    [
        ({"algorithm": "grid"}, "/algorithm", "algorithm random accepts both"),
        (
            {"algorithm": "tpe", "space": GRID, "budget": {"trials": 3}},
            "/algorithm",
            "use choice for shortcut",
        ),
        (
            {"metric": ["test/error", "seconds"], "scheduler": "asha"},
            "/scheduler",
            "use fifo with several",
        ),
        ({"metric": "parameters", "scheduler": "median"}, "/scheduler", "use fifo with parameters"),
        ({"metric": ["test/error", "test/error"]}, "/metric", "different"),
        ({"metric": "validation/error"}, "/metric", "needs held-out images"),
        ({"space": GRID, "budget": {"trials": 4}}, "/budget", "3 or 6"),
        (
            {"space": GRID, "algorithm": "grid", "budget": {"trials": 6}},
            "/budget",
            "the grid has 3 points: set trials to 3",
        ),
        (
            {"metric": "seconds", "budget": {"target_error": 5}},
            "/budget",
            "needs an error as",
        ),
        ({"scheduler": "hyperband"}, "/scheduler/name", "'fifo', 'asha' or 'median'"),
        ({"algorithm": "pbt"}, "/algorithm", "'random', 'grid' or 'tpe'"),
        ({"job": written(hold=True)}, "/job", "after and hold are not allowed"),
        ({"repeats": 3, "scheduler": "asha"}, "/scheduler", "use fifo with repeats"),
        (
            {"repeats": 3, "budget": {"target_error": 5}, "metric": "test/error"},
            "/budget",
            "omit it with repeats",
        ),
        (
            {"repeats": 20, "budget": {"trials": 501}},
            "/budget",
            "must be at most 10,000, received 10,020",
        ),
        (
            {"repeats": 2, "space": {"seed": {"randint": [0, 9]}}},
            "/space/seed",
            "seed cannot vary with repeats",
        ),
        ({"repeats": 2, "job": written(seed=2**31 - 1)}, "/job/seed", "exceed 2147483647"),
    ],
)
def test_incompatible_fields_are_refused_with_a_remedy(
    fields: dict[str, Any], pointer: str, expected: str
) -> None:
    found, message = _error(**fields)
    assert found == pointer
    assert expected in message


def test_a_schedulers_name_selects_its_defaults() -> None:
    assert _spec(scheduler="asha").scheduler == _spec(scheduler={"name": "asha"}).scheduler


def test_max_iterations_are_those_of_the_longest_trial() -> None:
    spec = _spec(space={"recipe.iterations": {"choice": [20, 40]}})
    assert spec.max_iterations == 40
