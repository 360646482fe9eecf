"""How a search becomes a Ray Tune run: samples within the space, schedulers, known points."""

from typing import Any

import pytest
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule
from ray.tune.search.optuna import OptunaSearch

from service.specs import search_spec
from service.specs.protocol import SearchDriverConfig
from service.specs.search_space import Dimension
from tests.support.searching import search_body
from workers.cluster import search_driver

DRAWS: list[dict[str, Any]] = [
    {"choice": ["A", None, 1, True]},
    {"uniform": [0.25, 0.75]},
    {"loguniform": [0.001, 1.0]},
    {"quniform": [0.1, 0.5, 0.1]},
    {"randint": [3, 6]},
    {"lograndint": [2, 64]},
    {"qrandint": [4, 12, 4]},
]


def _config(known: list[dict[str, Any]] | None = None, **fields: Any) -> SearchDriverConfig:
    spec = search_spec.parse_search_spec(search_body(**fields))
    return SearchDriverConfig(
        search_id="s", spec=spec, max_iterations=100, evaluate_every=10, known_params=known or []
    )


def _is_in(dimension: Dimension, value: Any) -> bool:
    if dimension.distribution == "choice":
        return value in dimension.arguments
    probes, between = dimension.list_extremes(), dimension.list_inner_values()
    tolerance = 1e-9 if isinstance(value, float) else 0
    is_within = probes[0] - tolerance <= value <= probes[1] + tolerance
    return is_within and (not isinstance(value, int) or value in {*probes, *between})


@pytest.mark.parametrize("written", DRAWS, ids=lambda draw: next(iter(draw)))
def test_ray_tune_draws_only_values_of_the_space(written: dict[str, Any]) -> None:
    dimension = Dimension.model_validate(written)
    domain = search_driver.make_domain(dimension)
    assert all(_is_in(dimension, domain.sample()) for _ in range(300))


@pytest.mark.parametrize("written", DRAWS, ids=lambda draw: next(iter(draw)))
def test_optuna_draws_only_values_of_the_space(written: dict[str, Any]) -> None:
    dimension = Dimension.model_validate(written)
    searcher = OptunaSearch(
        OptunaSearch.convert_search_space({"x": search_driver.make_domain(dimension)}),
        metric="test_error",
        mode="min",
        seed=0,
    )
    for number in range(40):
        suggested = searcher.suggest(f"t{number}")
        assert suggested is not None
        assert _is_in(dimension, suggested["x"])


def test_known_points_are_proposed_first_in_order() -> None:
    known = [{"recipe.learning_rate": rate} for rate in (0.123456789012345, 0.5, 0.5)]
    config = _config(known, algorithm="tpe")
    searcher = search_driver.make_searcher(config)
    assert isinstance(searcher, OptunaSearch)
    assert [searcher.suggest(name) for name in "abc"] == known
    fresh = searcher.suggest("d")
    assert fresh is not None
    assert fresh not in known


def test_a_grid_is_a_grid_search() -> None:
    assert search_driver.make_domain(Dimension(grid=("A", "B"))) == tune.grid_search(["A", "B"])
    config = _config(space={"shortcut": {"grid": ["A", "B"]}}, budget={"trials": 6})
    assert search_driver.count_samples(config.spec) == 3


@pytest.mark.parametrize(
    ("written", "kind"),
    [("fifo", FIFOScheduler), ("asha", AsyncHyperBandScheduler), ("median", MedianStoppingRule)],
)
def test_schedulers_map_to_ray_tunes(written: str, kind: type) -> None:
    assert type(search_driver.make_scheduler(_config(scheduler=written))) is kind
