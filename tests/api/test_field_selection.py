"""`fields=` of the lists: only the members that are named, equal to those of the complete view."""

from typing import Any

import pytest

from api.field_selection import list_paths
from api.search_views import SearchView
from api.views import JobView, View
from service.specs.protocol import Progress
from tests.support.api import Api
from tests.support.core import cancelled, job_id_of, make_point, note
from tests.support.searching import Searching


@pytest.fixture
def job_id(api: Api) -> str:
    """A job with a source, a result and metrics."""
    source = api.core.run()
    api.checkpoint(source, 2, note(20, test_error=5.0))
    api.core.finish(source.attempt_id)
    api.core.release(source)
    start = {"job": job_id_of(source), "mode": "weights"}
    running = api.core.run(start_from=start, tags=["mine"])
    progress = Progress(iteration=30, iterations=600, images_per_second=900.0)
    points = [make_point("train/loss", 30, 2.0)]
    api.core.report(running.attempt_id, 2, metrics=points, progress=progress)
    return job_id_of(running)


def _first(api: Api, kind: str, **query: Any) -> dict[str, Any]:
    answer = api.get(f"/v1/{kind}", params={"limit": 1} | query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()[kind][0]
    return found


def test_a_job_has_only_the_members_that_are_named(api: Api, job_id: str) -> None:
    fields = (
        "id, name,state,result.test_error,spec.recipe.name,spec.seed,progress.metrics.train/loss"
    )
    assert _first(api, "jobs", fields=fields) == {
        "id": job_id,
        "name": "resnet-8-A on digits",
        "state": "running",
        "result": None,
        "spec": {"recipe": {"name": "quick"}, "seed": 0},
        "progress": {"metrics": {"train/loss": 2.0}},
    }


def test_a_search_has_only_the_members_that_are_named(api: Api) -> None:
    search_id = Searching(api.core).submit(name="rates")
    fields = "id,name,spec.budget.trials,spec.space.recipe.learning_rate,used.trials"
    assert _first(api, "searches", fields=fields) == {
        "id": search_id,
        "name": "rates",
        "spec": {
            "budget": {"trials": 4},
            "space": {"recipe.learning_rate": {"loguniform": [0.001, 1.0]}},
        },
        "used": None,
    }


@pytest.mark.usefixtures("job_id")
@pytest.mark.parametrize(("kind", "view"), [("jobs", JobView), ("searches", SearchView)])
def test_each_member_is_that_of_the_complete_view(api: Api, kind: str, view: type[View]) -> None:
    Searching(api.core).submit()
    complete = _first(api, kind)
    names = list(view.model_fields)
    assert _first(api, kind, fields=",".join(names)) == complete
    for path in list_paths(view):
        expected: Any = complete
        found: Any = _first(api, kind, fields=path)
        for step in path.split("."):
            if not isinstance(expected, dict):
                break
            assert list(found or {}) == [step], path
            expected, found = expected[step], found[step]
        assert found == expected, path


def test_a_member_with_all_below_it_includes_those_that_are_named_below_it(
    api: Api, job_id: str
) -> None:
    for fields in ("spec,spec.seed", "spec.seed,spec"):
        assert _first(api, "jobs", fields=fields) == {
            "spec": api.get(f"/v1/jobs/{job_id}").json()["spec"]
        }


def test_pages_filters_and_orders_work_as_without(api: Api) -> None:
    for name in ("b", "a", "c"):
        cancelled(api.core, name=name)
    query = {"fields": "name", "sort": "name", "limit": "2"}
    page = api.get("/v1/jobs", params=query).json()
    assert page["jobs"] == [{"name": "a"}, {"name": "b"}]
    after = api.get("/v1/jobs", params=query | {"page_token": page["next_page_token"]}).json()
    assert after == {"jobs": [{"name": "c"}], "next_page_token": None}


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("jobs", "id,stat", "jobs have no field 'stat'; nearest: state,"),
        ("jobs", "test_error", "jobs have no field 'test_error'; nearest: result.test_error,"),
        ("jobs", "recipe.batch_size", "nearest: spec.recipe.batch_size,"),
        ("jobs", "name.first", "jobs have no field 'name.first'"),
        ("jobs", "", "jobs have no field ''"),
        (
            "searches",
            "spec.metrics",
            "searches have no field 'spec.metrics'; nearest: spec.metric,",
        ),
        ("searches", "best.number", "searches have no field 'best.number'"),
    ],
)
def test_an_unknown_field_is_named_with_the_nearest(
    api: Api, kind: str, fields: str, message: str
) -> None:
    answer = api.get(f"/v1/{kind}", params={"fields": fields})
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["pointer"] == "/fields"
    assert message in error["message"]
