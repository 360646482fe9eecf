"""Recipes: the paper's numbers, and what a name with other fields becomes."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from service import recipes
from service.networks import Family
from service.recipes import Recipe


def _recipe(depth: int = 20, **fields: Any) -> Recipe:
    written = {"name": "paper-cifar"} | fields
    return Recipe.model_validate(recipes.resolve(written, family=Family.CIFAR, depth=depth))


def test_the_papers_schedule_divides_by_ten_at_32k_and_48k() -> None:
    recipe = _recipe()
    rates = [recipe.learning_rate_at(i, is_warm=True) for i in (0, 31_999, 32_000, 47_999, 48_000)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001])


def test_from_110_layers_on_the_paper_warms_up_with_a_hundredth() -> None:
    assert _recipe(104).warmup_learning_rate is None
    assert _recipe(110).learning_rate_at(0, is_warm=False) == pytest.approx(0.01)
    assert _recipe(110).learning_rate_at(0, is_warm=True) == pytest.approx(0.1)


def test_the_imagenet_shape_does_not_warm_up() -> None:
    fields = recipes.resolve("paper-cifar", family=Family.IMAGENET, depth=152)
    assert fields["warmup_learning_rate"] is None


def test_milestones_keep_their_share_of_a_shorter_run() -> None:
    assert _recipe(iterations=640).milestones == (320, 480)


def test_milestones_that_are_given_stay() -> None:
    assert _recipe(iterations=640, milestones=[10]).milestones == (10,)


@given(iterations=st.integers(1, 10_000_000))
def test_a_run_of_any_length_has_a_valid_recipe(iterations: int) -> None:
    recipe = _recipe(iterations=iterations)
    assert all(1 <= milestone <= iterations for milestone in recipe.milestones)


@given(
    milestones=st.lists(st.integers(1, 1000), unique=True, max_size=5).map(sorted),
    first=st.integers(0, 2000),
    second=st.integers(0, 2000),
)
def test_the_learning_rate_never_rises(milestones: list[int], first: int, second: int) -> None:
    recipe = _recipe(milestones=milestones)
    earlier, later = sorted([first, second])
    assert recipe.learning_rate_at(later, is_warm=True) <= recipe.learning_rate_at(
        earlier, is_warm=True
    )


def test_an_unknown_recipe_is_told_the_known_ones() -> None:
    with pytest.raises(ValueError, match="no recipe 'slow'; there are paper-cifar, quick"):
        recipes.resolve("slow", family=Family.CIFAR, depth=20)


@pytest.mark.parametrize(
    "fields",
    [
        {"milestones": [5, 3]},
        {"milestones": [3, 3]},
        {"warmup_learning_rate": 0.01},
        {"warmup_until_error": 80},
        {"learning_rate": float("nan")},
        {"batch_size": 0},
        {"iterations": 10**400},
        {"iterations": -1},
        {"momentum": 1},
        {"optimizer": "adam"},
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        _recipe(**fields)
