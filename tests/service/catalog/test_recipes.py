"""The hyperparameters of named recipes, and recipes with changed fields."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from service.catalog import recipes
from service.catalog.architectures import Family
from service.catalog.recipes import LrSchedule, Recipe


def _recipe(depth: int = 20, **fields: Any) -> Recipe:
    written = {"name": "paper-cifar"} | fields
    return recipes.build_recipe(written, family=Family.CIFAR, depth=depth)


def test_the_paper_divides_the_learning_rate_by_ten_at_32k_and_48k() -> None:
    recipe = _recipe()
    rates = [recipe.learning_rate_at(i, is_warm=True) for i in (0, 31_999, 32_000, 47_999, 48_000)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001])


def test_from_110_layers_on_the_paper_warms_up_with_0_01() -> None:
    assert _recipe(104).warmup_learning_rate is None
    assert _recipe(110).learning_rate_at(0, is_warm=False) == pytest.approx(0.01)
    assert _recipe(110).learning_rate_at(0, is_warm=True) == pytest.approx(0.1)


def test_the_imagenet_family_does_not_warm_up() -> None:
    fields = recipes.resolve_recipe("paper-cifar", family=Family.IMAGENET, depth=152)
    assert fields["warmup_learning_rate"] is None


def test_milestones_are_rescaled_for_a_shorter_run() -> None:
    assert _recipe(iterations=640).milestones == (320, 480)


def test_given_milestones_are_kept() -> None:
    assert _recipe(iterations=640, milestones=[10]).milestones == (10,)


@given(iterations=st.integers(1, 10_000_000))
def test_a_recipe_of_any_length_is_valid(iterations: int) -> None:
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


def test_an_unknown_recipe_is_refused_with_the_known_names() -> None:
    with pytest.raises(
        ValueError, match=r"unknown recipe 'slow'; known are .*paper-cifar, .*quick"
    ):
        recipes.resolve_recipe("slow", family=Family.CIFAR, depth=20)


@pytest.mark.parametrize("name", recipes.RECIPES)
@given(iterations=st.integers(1, 10_000_000), depth=st.sampled_from([20, 110, 1202]))
def test_every_recipe_can_be_rescaled_to_any_length(name: str, iterations: int, depth: int) -> None:
    fields = recipes.resolve_recipe(
        {"name": name, "iterations": iterations}, family=Family.CIFAR, depth=depth
    )
    recipe = Recipe.model_validate(fields)
    assert (recipe.warmup_iterations or 0) < iterations
    assert 0 < recipe.learning_rate_at(iterations - 1, is_warm=True) <= recipe.learning_rate


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_recipe_has_a_source_and_every_field(name: str) -> None:
    assert recipes.RECIPES[name].__doc__
    fields = recipes.build_recipe(name, family=Family.CIFAR, depth=20).model_dump()
    assert fields.keys() == Recipe.model_fields.keys()
    assert Recipe.model_validate(fields) == recipes.build_recipe(
        name, family=Family.CIFAR, depth=20
    )


@given(
    schedule=st.sampled_from([LrSchedule.LINEAR, LrSchedule.COSINE]),
    warmup=st.integers(1, 400),
    iterations=st.integers(401, 600),
)
def test_linear_and_cosine_rise_to_the_learning_rate_and_decay_to_zero(
    schedule: LrSchedule, warmup: int, iterations: int
) -> None:
    recipe = _recipe(
        schedule=schedule,
        iterations=iterations,
        warmup_learning_rate=0.01,
        warmup_iterations=warmup,
        milestones=[],
    )
    rates = [recipe.learning_rate_at(iteration) for iteration in range(iterations + 1)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[warmup] == pytest.approx(0.1)
    assert rates[: warmup + 1] == sorted(rates[: warmup + 1])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
    assert rates[-1] == pytest.approx(0)


@given(iteration=st.integers(0, 64_000))
def test_the_second_paper_warms_up_for_400_iterations(
    iteration: int,
) -> None:
    recipe = recipes.build_recipe("identity-mappings", family=Family.CIFAR, depth=164)
    drops = (iteration >= 32_000) + (iteration >= 48_000)
    expected = 0.01 if iteration < 400 else 0.1 / 10**drops
    assert recipe.learning_rate_at(iteration) == pytest.approx(expected)


@given(drops=st.integers(0, 10), iteration=st.integers(0, 600_000))
def test_a_plateau_schedule_depends_on_drops_only(drops: int, iteration: int) -> None:
    fields = recipes.resolve_recipe("paper-imagenet", family=Family.IMAGENET, depth=50)
    recipe = Recipe.model_validate(fields)
    assert recipe.learning_rate_at(iteration, drops=drops) == pytest.approx(0.1 / 10**drops)


@given(iteration=st.integers(0, 64_000))
def test_after_its_warm_up_a_deep_network_has_the_schedule_of_a_shallow_one(
    iteration: int,
) -> None:
    deep, shallow = _recipe(110), _recipe(20)
    assert deep.learning_rate_at(iteration, is_warm=False) == pytest.approx(0.01)
    assert deep.learning_rate_at(iteration, is_warm=True) == shallow.learning_rate_at(iteration)


def test_the_warm_up_can_be_disabled() -> None:
    assert _recipe(110, warmup_learning_rate=None).learning_rate_at(0) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("batch_size", "micro_batch_size"), [(16, 16), (48, 24), (256, 32), (1, 1), (31, 31)]
)
def test_the_micro_batch_of_a_recipe_follows_the_batch_size(
    batch_size: int, micro_batch_size: int
) -> None:
    written = {"name": "paper-imagenet", "batch_size": batch_size}
    recipe = recipes.build_recipe(written, family=Family.IMAGENET, depth=18)
    assert recipe.micro_batch_size == micro_batch_size


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"schedule": "cosine"}, (0.01, None, 400)),
        ({"schedule": "linear", "iterations": 640}, (0.01, None, 4)),
        ({"schedule": "linear", "iterations": 20}, (None, None, None)),
        ({"warmup_iterations": 9}, (0.01, None, 9)),
        ({"schedule": "cosine", "warmup_iterations": 9}, (0.01, None, 9)),
        ({"schedule": "plateau", "select_by": "test"}, (0.01, 80.0, None)),
    ],
)
def test_the_end_of_a_warm_up_follows_the_written_fields(
    fields: dict[str, Any], expected: tuple[float | None, ...]
) -> None:
    recipe = _recipe(110, **fields)
    ends = (recipe.warmup_learning_rate, recipe.warmup_until_error, recipe.warmup_iterations)
    assert ends == expected


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
        {"warmup_learning_rate": 0.01, "warmup_until_error": 80, "warmup_iterations": 9},
        {"warmup_learning_rate": 0.01, "warmup_iterations": 64_000},
        {"schedule": "cosine", "warmup_learning_rate": 0.01, "warmup_until_error": 80},
        {"nesterov": True},
        {"schedule": ["cosine"]},
        {"batch_size": "many"},
        {"precision": "int8"},
    ],
)
def test_an_inconsistent_recipe_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        _recipe(**fields)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("paper-cifar", "last"),
        ({"name": "paper-cifar", "validation_images": 5000}, "validation"),
        ({"name": "paper-cifar", "select_by": "test"}, "test"),
        ("paper-imagenet", "test"),
        ({"name": "paper-imagenet", "validation_images": 50_000}, "validation"),
        ({"name": "paper-imagenet", "schedule": "cosine"}, "last"),
    ],
)
def test_a_recipe_selects_on_test_images_only_where_it_says_so(fields: Any, expected: str) -> None:
    recipe = recipes.build_recipe(fields, family=Family.IMAGENET, depth=18)
    assert recipe.select_by == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"schedule": "plateau"}, "needs an error to watch"),
        ({"target_error": 10}, "needs an error to watch"),
        ({"select_by": "validation"}, "needs held-out images"),
    ],
)
def test_a_recipe_cannot_select_by_an_error_that_is_not_measured(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        recipes.build_recipe({"name": "quick"} | fields, family=Family.CIFAR, depth=20)
