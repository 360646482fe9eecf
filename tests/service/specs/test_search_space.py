"""Spaces: what each draw can give, and that all of it makes legal jobs."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidInput
from service.specs import search_space, search_spec
from service.specs.search_space import Dimension
from tests.support.searching import search_body


def _faults(**space: Any) -> list[tuple[str, str]]:
    with pytest.raises(InvalidInput) as refused:
        search_spec.parse_search_spec(search_body(space=space))
    return [(fault.pointer, fault.message) for fault in refused.value.field_errors]


@pytest.mark.parametrize(
    ("written", "probes"),
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
def test_probes_are_the_values_or_the_ends_that_a_draw_can_give(
    written: dict[str, Any], probes: list[Any]
) -> None:
    assert Dimension.model_validate(written).probes() == probes


@given(low=st.integers(1, 50), more=st.integers(2, 50))
def test_the_values_of_a_range_of_integers_are_its_probes_and_those_between(
    low: int, more: int
) -> None:
    dimension = Dimension(randint=(low, low + more))
    found = {*dimension.probes(), *dimension.between()}
    assert found == set(range(low, low + more))


def test_a_dimension_reads_back_as_it_was_written() -> None:
    written = {"loguniform": [0.001, 1.0]}
    assert Dimension.model_validate(written).model_dump(mode="json") == written


@pytest.mark.parametrize(
    "wrong",
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
def test_a_draw_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    assert _faults(depth=wrong)


@pytest.mark.parametrize(
    ("path", "draw", "received"),
    [
        ("depth", {"choice": [8, 20, 33]}, "33"),
        ("recipe.learning_rate", {"loguniform": [0.001, 1000.0]}, "1000.0"),
        ("recipe.learning_rate", {"uniform": [0, 1]}, "0.0"),
        ("depth", {"qrandint": [8, 20, 2]}, "10"),
        ("recipe.momentums", {"choice": [0.5]}, "not a field"),
    ],
)
def test_a_value_that_makes_no_legal_job_is_named_with_its_place(
    path: str, draw: dict[str, Any], received: str
) -> None:
    ((pointer, message),) = _faults(**{path: draw})
    assert pointer == f"/space/{path}/{next(iter(draw))}"
    assert received in message


def test_a_hole_between_the_ends_of_a_range_is_found() -> None:
    ((_, message),) = _faults(depth={"randint": [8, 15]})
    assert "the value 9 makes no legal spec" in message


def test_values_that_do_not_go_together_are_named_together() -> None:
    space = {"shortcut": {"choice": ["A", "none"]}, "zero_init_residual": {"choice": [False, True]}}
    ((pointer, message),) = _faults(**space)
    assert pointer == "/space"
    assert "shortcut none, zero_init_residual True" in message


def test_what_is_the_same_for_all_trials_cannot_be_searched() -> None:
    assert _faults(name={"choice": ["a"]})[0][0] == "/space/name"


def test_a_part_of_what_varies_cannot_vary_by_itself() -> None:
    space = {
        "recipe": {"choice": ["quick", "paper-cifar"]},
        "recipe.momentum": {"uniform": [0.5, 0.9]},
    }
    ((pointer, message),) = _faults(**space)
    assert pointer == "/space/recipe.momentum"
    assert "a part of recipe" in message


def test_a_recipe_that_is_only_named_takes_a_value() -> None:
    spec = search_space.make_trial_spec(
        {"depth": 8, "shortcut": "A", "dataset": "digits", "recipe": "quick"},
        {"recipe.learning_rate": 0.25},
    )
    assert (spec.recipe.name, spec.recipe.learning_rate) == ("quick", 0.25)
