"""Search spaces: the values of each distribution, and specs that they make invalid."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidInput
from service.specs import search_space, search_spec
from service.specs.search_space import Dimension
from tests.support.searching import search_body


def _errors(**space: Any) -> list[tuple[str, str]]:
    with pytest.raises(InvalidInput) as caught:
        search_spec.parse_search_spec(search_body(space=space))
    return [(error.pointer, error.message) for error in caught.value.field_errors]


@pytest.mark.parametrize(
    ("written", "extremes"),
    [
        ({"choice": ["A", "B"]}, ["A", "B"]),
        ({"grid": [1, 2.5, None, True]}, [1, 2.5, None, True]),
        ({"uniform": [0, 1]}, [0, 1]),
        ({"loguniform": [0.001, 1]}, [0.001, 1]),
        ({"quniform": [0.1, 0.3, 0.1]}, [0.1, 0.3]),
        ({"randint": [1, 5]}, [1, 4]),
        ({"lograndint": [1, 5]}, [1, 4]),
        ({"qrandint": [8, 20, 4]}, [8, 20]),
    ],
)
def test_extremes_are_the_values_or_the_least_and_the_greatest(
    written: dict[str, Any], extremes: list[Any]
) -> None:
    assert Dimension.model_validate(written).list_extremes() == extremes


@given(low=st.integers(1, 50), more=st.integers(2, 50))
def test_extremes_and_inner_values_are_all_integers_of_a_range(low: int, more: int) -> None:
    dimension = Dimension(randint=(low, low + more))
    found = {*dimension.list_extremes(), *dimension.list_inner_values()}
    assert found == set(range(low, low + more))


def test_a_dimension_is_serialized_as_written() -> None:
    written = {"loguniform": [0.001, 1.0]}
    assert Dimension.model_validate(written).model_dump(mode="json") == written


@pytest.mark.parametrize(
    "written",
    [
        {},
        {"choice": ["A"], "grid": ["B"]},
        {"choice": ["A", "A"]},
        {"choice": [[1, 2]]},
        {"uniform": [1, 0]},
        {"loguniform": [0, 1]},
        {"quniform": [0, 1, 2]},
        {"quniform": [0.05, 1, 0.1]},
        {"qrandint": [8, 32, 6]},
        {"randint": [1, 1]},
    ],
)
def test_an_invalid_distribution_is_refused(written: dict[str, Any]) -> None:
    assert _errors(depth=written)


@pytest.mark.parametrize(
    ("path", "distribution", "received"),
    [
        ("depth", {"choice": [8, 20, 33]}, "33"),
        ("recipe.learning_rate", {"loguniform": [0.001, 1000.0]}, "1000.0"),
        ("recipe.learning_rate", {"uniform": [0, 1]}, "0.0"),
        ("depth", {"qrandint": [8, 20, 2]}, "10"),
        ("recipe.momentums", {"choice": [0.5]}, "is not a known field"),
    ],
)
def test_a_value_that_makes_a_spec_invalid_is_named(
    path: str, distribution: dict[str, Any], received: str
) -> None:
    ((pointer, message),) = _errors(**{path: distribution})
    assert pointer == f"/space/{path}/{next(iter(distribution))}"
    assert received in message


@pytest.mark.parametrize("distribution", ["uniform", "loguniform"])
@pytest.mark.parametrize(
    "path", ["recipe.iterations", "recipe.micro_batch_size", "seed", "resources.num_workers"]
)
def test_an_integer_is_not_drawn_from_real_numbers(path: str, distribution: str) -> None:
    ((pointer, message),) = _errors(**{path: {distribution: [1, 2]}})
    assert pointer == f"/space/{path}/{distribution}"
    assert f"{path} is an integer: use randint, lograndint, qrandint or choice" in message


@pytest.mark.parametrize(
    ("path", "distribution"),
    [
        ("resources.gpus_per_worker", {"uniform": [0, 1]}),
        ("resources.gpus_per_worker", {"loguniform": [0.25, 1]}),
        ("recipe.nesterov", {"uniform": [0, 1]}),
        ("recipe.iterations", {"quniform": [1, 3, 0.5]}),
    ],
)
def test_values_between_the_bounds_are_tried(path: str, distribution: dict[str, Any]) -> None:
    ((pointer, message),) = _errors(**{path: distribution})
    assert pointer == f"/space/{path}/{next(iter(distribution))}"
    assert "makes the spec invalid" in message


def test_a_bound_of_an_elastic_trial_needs_the_other() -> None:
    base = search_body()["job"] | {"resources": {"num_workers": 2}}
    space = {"resources.num_workers.max": Dimension(choice=(2,))}
    with pytest.raises(InvalidInput) as caught:
        search_space.check_space(base, space, search_space.accept_trial)
    assert "/resources/num_workers/min: is required" in caught.value.field_errors[0].message


def test_an_invalid_value_inside_a_range_is_found() -> None:
    ((_, message),) = _errors(depth={"randint": [8, 15]})
    assert "the value 9 makes the spec invalid" in message


def test_an_invalid_combination_is_named() -> None:
    space = {"shortcut": {"choice": ["A", "none"]}, "zero_init_residual": {"choice": [False, True]}}
    ((pointer, message),) = _errors(**space)
    assert pointer == "/space"
    assert "shortcut none, zero_init_residual True" in message


def test_a_field_that_all_trials_share_cannot_be_searched() -> None:
    assert _errors(name={"choice": ["a"]})[0][0] == "/space/name"


def test_a_field_and_its_parent_cannot_both_be_searched() -> None:
    space = {
        "recipe": {"choice": ["quick", "paper-cifar"]},
        "recipe.momentum": {"uniform": [0.5, 0.9]},
    }
    ((pointer, message),) = _errors(**space)
    assert pointer == "/space/recipe.momentum"
    assert "is part of recipe" in message


def test_a_parameter_can_modify_a_recipe_that_is_a_name() -> None:
    spec = search_space.make_trial_spec(
        {"depth": 8, "shortcut": "A", "dataset": "digits", "recipe": "quick"},
        {"recipe.learning_rate": 0.25},
    )
    assert (spec.recipe.name, spec.recipe.learning_rate) == ("quick", 0.25)


def test_each_shortcut_form_of_a_search_has_its_own_parameters() -> None:
    job = {"depth": 8, "shortcut": "A", "dataset": "digits", "shortcut_form": "dropout"}
    forms = ("identity", "constant-scaling", "exclusive-gating", "dropout")
    specs = [search_space.make_trial_spec(job, {"shortcut_form": form}) for form in forms]
    assert [spec.gate_bias for spec in specs] == [None, None, -6.0, None]
    assert [spec.dropout_rate for spec in specs] == [None, None, None, 0.5]
