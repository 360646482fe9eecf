"""Jobs over HTTP: submit, find, follow, cancel."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.api import RFC_3339, Api
from tests.support.core import START, cancelled, job_id_of, workers, written


def _ids(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [job["id"] for job in answer.json()["jobs"]]


def test_depth_shortcut_and_data_set_are_enough_for_a_job(api: Api) -> None:
    answer = api.post("/v1/jobs", written())
    assert answer.status_code == 201
    job = answer.json()
    assert answer.headers["Location"] == f"/v1/jobs/{job['id']}"
    assert "Idempotency-Replayed" not in answer.headers
    assert (job["state"], job["attempts"], job["restarts"]) == ("queued", 0, 0)
    assert job["network"] == "resnet-8-A"
    assert job["name"] == "resnet-8-A on digits"
    assert job["created_at"] == START.strftime(RFC_3339)
    assert job["stop_requested"] is None
    unknown = ("reason", "message", "started_at", "finished_at", "progress", "parameters", "result")
    assert [job[name] for name in unknown] == [None] * len(unknown)


def test_a_job_is_answered_with_its_whole_spec(api: Api) -> None:
    spec = api.post("/v1/jobs", written(seed=7, tags=["mine"])).json()["spec"]
    assert {"depth": 8, "shortcut": "A", "dataset": "digits", "seed": 7}.items() <= spec.items()
    assert spec["family"] == "cifar"
    assert spec["recipe"]["name"] == "quick"
    assert spec["resources"] == {
        "num_workers": 1,
        "cpus_per_worker": 1,
        "gpus_per_worker": None,
    }
    again = api.post("/v1/jobs", spec).json()["spec"]
    assert again == spec


def test_a_submitted_job_is_found_where_its_location_says(api: Api) -> None:
    answer = api.post("/v1/jobs", written())
    found = api.get(answer.headers["Location"]).json()
    assert found | {"waiting": None} == answer.json()


def test_a_repeated_key_answers_the_first_job(api: Api) -> None:
    key = {"Idempotency-Key": "once"}
    first = api.post("/v1/jobs", written(), headers=key)
    again = api.post("/v1/jobs", written(), headers=key)
    assert again.status_code == 201
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.headers["Location"] == first.headers["Location"]
    assert again.json() == first.json()
    assert len(_ids(api.get("/v1/jobs"))) == 1


def test_a_replay_answers_the_job_as_it_is_now(api: Api) -> None:
    key = {"Idempotency-Key": "once"}
    job_id = api.post("/v1/jobs", written(), headers=key).json()["id"]
    api.core.cancel(job_id)
    assert api.post("/v1/jobs", written(), headers=key).json()["state"] == "cancelled"


def test_a_key_counts_for_the_spec_and_not_for_how_it_is_written(api: Api) -> None:
    key = {"Idempotency-Key": "once"}
    first = api.post("/v1/jobs", written(), headers=key).json()
    again = api.post("/v1/jobs", written(seed=0, priority=50), headers=key)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.json()["id"] == first["id"]


def test_a_key_with_another_body_is_refused(api: Api) -> None:
    key = {"Idempotency-Key": "once"}
    first = api.post("/v1/jobs", written(), headers=key).json()
    answer = api.post("/v1/jobs", written(seed=1), headers=key)
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency-mismatch")
    assert first["id"] in answer.json()["detail"]
    assert len(_ids(api.get("/v1/jobs"))) == 1


def test_what_was_refused_uses_no_key_up(api: Api) -> None:
    key = {"Idempotency-Key": "once"}
    assert api.post("/v1/jobs", written(depth=9), headers=key).status_code == 422
    answer = api.post("/v1/jobs", written(), headers=key)
    assert answer.status_code == 201
    assert "Idempotency-Replayed" not in answer.headers


@pytest.mark.parametrize("key", ["", "k" * 201, b"caf\xe9"])
def test_a_key_that_cannot_be_kept_is_refused(api: Api, key: str | bytes) -> None:
    answer = api.post("/v1/jobs", written(), headers={b"Idempotency-Key": key})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/idempotency-key"


def test_jobs_are_listed_newest_first(api: Api) -> None:
    ids = [api.core.submit() for _ in range(3)]
    answer = api.get("/v1/jobs")
    assert _ids(answer) == ids[::-1]
    assert answer.json()["next_page_token"] is None
    shown = api.get(f"/v1/jobs/{ids[2]}").json()
    assert answer.json()["jobs"][0] == shown | {"waiting": None}


def _pages(api: Api, **query: Any) -> Iterator[list[str]]:
    token: str | None = None
    while True:
        params = query | ({"page_token": token} if token is not None else {})
        answer = api.get("/v1/jobs", params=params)
        yield _ids(answer)
        token = answer.json()["next_page_token"]
        if token is None:
            return


def test_pages_hold_every_job_once(any_api: Api) -> None:
    ids = [any_api.core.submit() for _ in range(5)]
    assert list(_pages(any_api, limit=2)) == [[ids[4], ids[3]], [ids[2], ids[1]], [ids[0]]]


def test_a_full_last_page_has_none_behind_it(api: Api) -> None:
    ids = [api.core.submit() for _ in range(4)]
    assert list(_pages(api, limit=2)) == [[ids[3], ids[2]], [ids[1], ids[0]]]


def test_jobs_that_come_while_pages_are_turned_shift_nothing(api: Api) -> None:
    ids = [api.core.submit() for _ in range(4)]
    pages = _pages(api, limit=2)
    assert next(pages) == [ids[3], ids[2]]
    api.core.submit()
    assert next(pages) == [ids[1], ids[0]]


def test_the_filter_holds_on_every_page(api: Api) -> None:
    ids = []
    for _ in range(3):
        ids.append(api.core.submit(tags=["mine"]))
        api.core.submit()
    assert list(_pages(api, limit=2, tag="mine")) == [[ids[2], ids[1]], [ids[0]]]


@pytest.fixture
def shelf(api: Api) -> dict[str, str]:
    """Ids of jobs that differ in what can be asked for."""
    api.core.record_cluster(cpus=64)
    return {
        "running": job_id_of(api.core.run(name="first 100%", tags=["a", "b"])),
        "cancelled": cancelled(api.core, name="second", tags=["a"]),
        "queued": api.core.submit(name="third", dataset="fake"),
    }


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("state=running", ["running"]),
        ("state=queued&state=cancelled", ["queued", "cancelled"]),
        ("state=failed", []),
        ("dataset=fake", ["queued"]),
        ("dataset=folder:none", []),
        ("tag=a", ["cancelled", "running"]),
        ("tag=a&tag=b", ["running"]),
        ("name=ir", ["queued", "running"]),
        ("name=100%25", ["running"]),
        ("name=%25", ["running"]),
        ("name=_", []),
        ("tag=a&state=cancelled&dataset=digits&name=sec", ["cancelled"]),
        ("tag=a&dataset=fake", []),
    ],
)
def test_jobs_that_match_all_that_is_asked_for_are_found(
    api: Api, shelf: dict[str, str], query: str, names: list[str]
) -> None:
    assert _ids(api.get(f"/v1/jobs?{query}")) == [shelf[name] for name in names]


def test_a_job_is_found_by_the_beginning_of_its_id(api: Api, shelf: dict[str, str]) -> None:
    assert _ids(api.get(f"/v1/jobs?id_prefix={shelf['queued'][:14]}")) == [shelf["queued"]]
    assert len(_ids(api.get(f"/v1/jobs?id_prefix={shelf['queued'][:2]}"))) == 3


def test_a_waiting_job_is_cancelled_at_once(api: Api) -> None:
    job_id = api.core.submit()
    answer = api.post(f"/v1/jobs/{job_id}/cancel")
    assert answer.status_code == 202
    job = answer.json()
    assert (job["state"], job["reason"]) == ("cancelled", "cancelled")
    assert job["finished_at"] == api.core.clock.now.strftime(RFC_3339)
    assert api.get(f"/v1/jobs/{job_id}").json() == job


def test_cancelling_a_running_job_requests_a_stop(api: Api) -> None:
    claimed = api.core.run()
    answer = api.post(f"/v1/jobs/{job_id_of(claimed)}/cancel")
    assert answer.status_code == 202
    assert (answer.json()["state"], answer.json()["stop_requested"]) == ("running", "cancel")
    assert api.report(claimed, 2).json() == {"last_sequence": 2, "stop_reason": "cancel"}


def test_a_repeated_cancel_changes_nothing(api: Api) -> None:
    job_id = api.core.submit()
    first = api.post(f"/v1/jobs/{job_id}/cancel").json()
    api.core.clock.advance(5.0)
    answer = api.post(f"/v1/jobs/{job_id}/cancel")
    assert (answer.status_code, answer.json()) == (202, first)


def test_a_job_that_has_ended_cannot_be_cancelled(api: Api) -> None:
    claimed = api.core.run()
    api.core.finish(claimed.attempt_id)
    answer = api.post(f"/v1/jobs/{job_id_of(claimed)}/cancel")
    assert (answer.status_code, answer.json()["code"]) == (409, "illegal-transition")


def test_a_job_that_nobody_has_cannot_be_cancelled(api: Api) -> None:
    assert api.post(f"/v1/jobs/{'0' * 16}/cancel").status_code == 404


def test_a_job_of_several_workers_says_what_it_occupies(api: Api) -> None:
    claimed = api.core.start(resources=workers(2, cpus_per_worker=3))
    (attempt,) = api.get(f"/v1/jobs/{job_id_of(claimed)}/attempts").json()["attempts"]
    assert (attempt["num_workers"], attempt["cpus_per_worker"]) == (2, 3)
