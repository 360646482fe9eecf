"""What goes together in a search's spec, and what each refusal says."""

from typing import Any

import pytest

from service.errors import InvalidInput
from service.specs import search_spec
from service.specs.search_spec import Algorithm, Scheduler
from tests.support.core import written
from tests.support.searching import search_body

GRID = {"shortcut": {"grid": ["A", "B", "C"]}}


def _fault(**fields: Any) -> tuple[str, str]:
    with pytest.raises(InvalidInput) as refused:
        search_spec.parse_search_spec(search_body(**fields))
    (fault,) = refused.value.field_errors
    return fault.pointer, fault.message


def _spec(**fields: Any) -> search_spec.SearchSpec:
    return search_spec.parse_search_spec(search_body(**fields))


def test_a_saved_spec_reads_the_same() -> None:
    spec = _spec(metric=["test/error", "parameters"])
    assert search_spec.parse_search_spec(spec.model_dump(mode="json")) == spec


def test_job_and_space_are_enough() -> None:
    spec = search_spec.parse_search_spec(
        {"job": written(), "space": {"depth": {"choice": [8, 14]}}}
    )
    assert spec.algorithm is Algorithm.TPE
    assert spec.scheduler.name is Scheduler.FIFO
    assert spec.trials == 10


def test_a_space_with_a_grid_is_not_tpes() -> None:
    spec = search_spec.parse_search_spec({"job": written(), "space": GRID})
    assert (spec.algorithm, spec.trials) == (Algorithm.RANDOM, 3)


@pytest.mark.parametrize(
    ("fields", "pointer", "words"),
    [
        ({"algorithm": "grid"}, "/algorithm", "algorithm random takes both"),
        (
            {"algorithm": "tpe", "space": GRID, "budget": {"trials": 3}},
            "/algorithm",
            "write choice for shortcut",
        ),
        (
            {"metric": ["test/error", "seconds"], "scheduler": "asha"},
            "/scheduler",
            "several go with fifo",
        ),
        ({"metric": "parameters", "scheduler": "median"}, "/scheduler", "that goes with fifo"),
        ({"metric": ["test/error", "test/error"]}, "/metric", "different"),
        ({"metric": "validation/error"}, "/metric", "nothing is held out"),
        ({"space": GRID, "budget": {"trials": 4}}, "/budget", "3 or 6"),
        (
            {"space": GRID, "algorithm": "grid", "budget": {"trials": 6}},
            "/budget",
            "the grid has 3 points",
        ),
        ({"metric": "seconds", "budget": {"target_error": 5}}, "/budget", "is of an error"),
        ({"scheduler": "hyperband"}, "/scheduler/name", "'fifo', 'asha' or 'median'"),
        ({"algorithm": "pbt"}, "/algorithm", "'random', 'grid' or 'tpe'"),
        ({"job": written(hold=True)}, "/job", "no after, no hold"),
    ],
)
def test_what_does_not_go_together_is_told_what_does(
    fields: dict[str, Any], pointer: str, words: str
) -> None:
    where, message = _fault(**fields)
    assert where == pointer
    assert words in message


def test_a_schedulers_name_stands_for_its_defaults() -> None:
    assert _spec(scheduler="asha").scheduler == _spec(scheduler={"name": "asha"}).scheduler


def test_the_longest_trial_counts_the_iterations_that_the_space_gives() -> None:
    spec = _spec(space={"recipe.iterations": {"choice": [20, 40]}})
    assert spec.iterations == 40
