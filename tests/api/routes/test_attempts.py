"""Calls of training processes: configuration, reports, parts of checkpoints, the finish."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.catalog.dataset_archive import unpack_archive
from service.jobs import lifecycle
from service.specs.protocol import AttemptConfig
from service.states import AttemptState, CheckpointPart, Reason
from tests.service.catalog.test_uploads import SPLIT, zipped
from tests.support.api import Api, serving_new
from tests.support.core import START, Taken, content, job_id_of, make_point, note, workers

MANIFEST = note(10).model_dump(mode="json")


def _refused(answer: httpx.Response, status: int, code: str) -> str:
    """Asserts the refusal, and returns its detail."""
    assert (answer.status_code, answer.json().get("code")) == (status, code), answer.text
    detail: str = answer.json()["detail"]
    return detail


def _loss(iteration: int, value: float) -> dict[str, Any]:
    return make_point("train/loss", iteration, value).model_dump(mode="json")


def _line(message: str) -> dict[str, Any]:
    return {"at": START.isoformat(), "level": "info", "message": message}


def _series_of(api: Api, claimed: Taken) -> tuple[dict[str, Any], list[str]]:
    """The values of the job's series, and its log."""
    path = f"/v1/jobs/{job_id_of(claimed)}"
    series = api.get(f"{path}/metrics").json()["series"]
    lines = api.get(f"{path}/logs").json()["lines"]
    values = {name: points["values"] for name, points in series.items()}
    return values, [line["message"] for line in lines]


@pytest.fixture
def stale(api: Api) -> Taken:
    """An attempt that was ended as silent; its job runs another attempt."""
    claimed = api.core.run()
    api.core.end(claimed, Reason.HEARTBEAT_TIMEOUT)
    api.core.retry()
    return claimed


def test_the_config_has_all_that_is_needed_to_begin(api: Api) -> None:
    claimed = api.core.start(resources=workers(2, cpus_per_worker=3), seed=7)
    answer = api.attempt(claimed)
    assert answer.status_code == 200
    config = AttemptConfig.model_validate_json(answer.content)
    assert (config.attempt_id, config.job_id) == (claimed.attempt_id, job_id_of(claimed))
    assert (config.number, config.last_sequence, config.resume) == (1, 0, None)
    assert (config.num_workers, config.cpus_per_worker, config.gpus_per_worker) == (2, 3, 0)
    assert config.spec.seed == 7


def test_the_config_has_the_last_stored_sequence(api: Api) -> None:
    claimed = api.core.run()
    api.report(claimed, 2)
    assert api.attempt(claimed).json()["last_sequence"] == 2


def test_the_first_report_makes_the_job_running(api: Api) -> None:
    claimed = api.core.start()
    answer = api.report(claimed, 1)
    assert (answer.status_code, answer.json()) == (200, {"last_sequence": 1, "stop_reason": None})
    assert api.get(f"/v1/jobs/{job_id_of(claimed)}").json()["state"] == "running"


def test_a_repeated_report_changes_nothing_and_answers_the_same(any_api: Api) -> None:
    claimed = any_api.core.run()
    first = any_api.report(claimed, 2, metrics=[_loss(1, 0.5)], logs=[_line("once")])
    before = _series_of(any_api, claimed)
    again = any_api.report(claimed, 2, metrics=[_loss(1, 0.7)], logs=[_line("once")])
    assert (again.status_code, again.json()) == (first.status_code, first.json())
    assert _series_of(any_api, claimed) == before
    assert before == ({"train/loss": [0.5]}, ["once"])


def test_a_report_before_its_predecessor_is_refused_and_leaves_no_trace(api: Api) -> None:
    claimed = api.core.run()
    answer = api.report(claimed, 3, metrics=[_loss(1, 0.5)], logs=[_line("early")])
    assert "the next is 2" in _refused(answer, 409, "sequence-gap")
    assert _series_of(api, claimed) == ({}, [])
    assert api.report(claimed, 2).json()["last_sequence"] == 2


def test_each_attempt_counts_its_reports_from_one(api: Api) -> None:
    first = api.core.run()
    api.report(first, 2, metrics=[_loss(1, 1.0), _loss(2, 0.9)], logs=[_line("a")])
    api.core.end(first, Reason.WORKER_DIED)
    api.core.clock.advance(60.0)
    second = api.core.start_next()
    answer = api.report(second, 1, metrics=[_loss(2, 0.8)], logs=[_line("b")])
    assert answer.json()["last_sequence"] == 1
    assert _series_of(api, second) == ({"train/loss": [1.0, 0.8]}, ["a", "b"])


def test_an_invalid_report_leaves_no_trace(api: Api) -> None:
    claimed = api.core.run()
    wrong = _loss(2, 0.4) | {"series": "Loss"}
    answer = api.report(claimed, 2, metrics=[_loss(1, 0.5), wrong], logs=[_line("x")])
    _refused(answer, 422, "invalid-input")
    assert answer.json()["errors"][0]["pointer"] == "/metrics/1/series"
    assert _series_of(api, claimed) == ({}, [])
    assert api.attempt(claimed).json()["last_sequence"] == 1


def test_an_attempt_over_its_time_limit_is_asked_to_stop(api: Api) -> None:
    claimed = api.core.start(time_limit_minutes=1)
    api.report(claimed, 1)
    api.core.clock.advance(61.0)
    assert api.report(claimed, 2).json()["stop_reason"] == "time-limit"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("POST", "/reports"),
        ("PUT", "/checkpoints/1/weights"),
        ("GET", "/resume/weights"),
        ("GET", "/dataset"),
        ("GET", "/dataset/archive"),
        ("POST", "/finish"),
    ],
)
def test_a_replaced_attempt_is_refused_as_stale(
    api: Api, stale: Taken, method: str, path: str
) -> None:
    bodies: dict[str, dict[str, Any]] = {
        "/reports": {"json": {"sequence": 2, "metrics": [_loss(1, 9.0)]}},
        "/finish": {"json": {"reason": "completed"}},
        "/checkpoints/1/weights": {"content": b"x", "headers": {"X-Content-SHA256": "0" * 64}},
    }
    before = api.get(f"/v1/jobs/{job_id_of(stale)}").json()
    answer = api.attempt(stale, method, path, **bodies.get(path, {}))
    assert "heartbeat-timeout" in _refused(answer, 409, "stale-attempt")
    assert api.get(f"/v1/jobs/{job_id_of(stale)}").json() == before
    assert _series_of(api, stale) == ({}, [])


def test_a_replaced_attempt_uploads_nothing(api: Api, stale: Taken) -> None:
    _refused(api.upload(stale, 1, CheckpointPart.WEIGHTS), 409, "stale-attempt")
    assert not _stored(api, stale)


def _stored(api: Api, claimed: Taken) -> list[bytes]:
    """The stored parts of the attempt, half-written files included."""
    folder = api.settings.var_dir / "artifacts" / "checkpoints" / claimed.attempt_id
    if not folder.exists():
        return []
    return [path.read_bytes() for path in sorted(folder.iterdir())]


def test_an_uploaded_part_is_stored_and_its_digest_returned(api: Api) -> None:
    claimed = api.core.run()
    answer = api.upload(claimed, 4, CheckpointPart.WEIGHTS)
    assert answer.status_code == 201
    assert answer.json() == note(4).parts[0].model_dump(mode="json")
    assert _stored(api, claimed) == [content(CheckpointPart.WEIGHTS, 4)]


def test_reads_do_not_wait_for_a_transaction_that_writes(any_api: Api) -> None:
    claimed = any_api.core.run()
    with any_api.core.database.transaction() as session:
        lifecycle.lock_job(session, job_id_of(claimed))
        assert any_api.attempt(claimed).status_code == 200
        assert any_api.upload(claimed, 4, CheckpointPart.STATE).status_code == 201


def test_a_part_that_differs_from_its_digest_is_not_stored(api: Api) -> None:
    claimed = api.core.run()
    answer = api.upload(claimed, 4, CheckpointPart.WEIGHTS, sha256="0" * 64)
    assert "0" * 64 in _refused(answer, 422, "corrupt-artifact")
    assert _stored(api, claimed) == []


def test_a_repeated_upload_replaces_the_earlier_one(api: Api) -> None:
    claimed = api.core.run()
    for _ in range(2):
        assert api.upload(claimed, 4, CheckpointPart.WEIGHTS).status_code == 201
    assert _stored(api, claimed) == [content(CheckpointPart.WEIGHTS, 4)]


@pytest.mark.parametrize(
    ("path", "sha256", "pointer"),
    [
        ("/checkpoints/4/weights", None, "/x-content-sha256"),
        ("/checkpoints/4/weights", "abc", "/x-content-sha256"),
        ("/checkpoints/4/picture", "0" * 64, "/part"),
        ("/checkpoints/-1/weights", "0" * 64, "/iteration"),
        (f"/checkpoints/{2**31}/weights", "0" * 64, "/iteration"),
    ],
)
def test_an_upload_without_a_valid_digest_is_refused(
    api: Api, path: str, sha256: str | None, pointer: str
) -> None:
    headers = {} if sha256 is None else {"X-Content-SHA256": sha256}
    answer = api.attempt(api.core.run(), "PUT", path, content=b"x", headers=headers)
    _refused(answer, 422, "invalid-input")
    assert answer.json()["errors"][0]["pointer"] == pointer


def test_a_part_may_be_larger_than_any_other_body(api: Api) -> None:
    claimed = api.core.run()
    content = b"w" * (17 * 2**20)
    headers = {"X-Content-SHA256": "0" * 64}
    answer = api.attempt(claimed, "PUT", "/checkpoints/4/state", content=content, headers=headers)
    _refused(answer, 422, "corrupt-artifact")


def test_a_part_that_is_larger_than_the_settings_allow_is_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'api.db'}"
    with serving_new(url, tmp_path, max_upload_bytes=3) as api:
        claimed = api.core.run()
        answer = api.upload(claimed, 4, CheckpointPart.WEIGHTS)
        assert "exceeds the limit of 3 bytes" in _refused(answer, 422, "invalid-input")
        assert _stored(api, claimed) == []


def test_a_checkpoint_whose_parts_are_not_stored_does_not_count(api: Api) -> None:
    claimed = api.core.run()
    api.upload(claimed, 4, CheckpointPart.WEIGHTS)
    answer = api.report(claimed, 2, checkpoints=[note(4).model_dump(mode="json")])
    assert "state of iteration 4" in _refused(answer, 422, "corrupt-artifact")
    path = f"/v1/jobs/{job_id_of(claimed)}/checkpoints"
    assert api.get(path).json() == {"checkpoints": []}
    assert api.checkpoint(claimed, 2, note(4)).status_code == 200
    assert len(api.get(path).json()["checkpoints"]) == 1


def test_a_report_of_a_checkpoint_may_be_repeated_after_its_parts_were_deleted(api: Api) -> None:
    claimed = api.core.run()
    for sequence, iteration in ((2, 1), (3, 2), (4, 3)):
        api.checkpoint(claimed, sequence, note(iteration))
    again = api.report(claimed, 2, checkpoints=[note(1).model_dump(mode="json")])
    assert (again.status_code, again.json()["last_sequence"]) == (200, 4)


def test_a_checkpoint_without_a_required_part_is_refused(api: Api) -> None:
    claimed = api.core.run()
    answer = api.checkpoint(claimed, 2, note(4, parts=[CheckpointPart.WEIGHTS]))
    _refused(answer, 422, "invalid-input")
    assert api.attempt(claimed).json()["last_sequence"] == 1


def test_a_new_attempt_downloads_the_checkpoint_of_the_last_one(api: Api) -> None:
    first = api.core.run()
    api.checkpoint(first, 2, note(4))
    api.core.end(first, Reason.WORKER_DIED)
    second = api.core.retry()
    resume = api.attempt(second).json()["resume"]
    assert resume["iteration"] == 4
    assert resume["parts"] == [digest.model_dump(mode="json") for digest in note(4).parts]
    for digest in note(4).parts:
        answer = api.attempt(second, "GET", f"/resume/{digest.part}")
        assert answer.content == content(digest.part, 4)
        assert answer.headers["ETag"] == f'"{digest.sha256}"'
        assert answer.headers["Content-Length"] == str(digest.size_bytes)


def test_an_attempt_without_a_checkpoint_has_nothing_to_resume(api: Api) -> None:
    _refused(api.attempt(api.core.run(), "GET", "/resume/weights"), 404, "not-found")


def test_a_part_that_the_last_attempt_did_not_store_is_not_found(api: Api) -> None:
    first = api.core.run()
    api.checkpoint(first, 2, note(4))
    api.core.end(first, Reason.WORKER_DIED)
    _refused(api.attempt(api.core.retry(), "GET", "/resume/pt"), 404, "not-found")


@pytest.mark.parametrize(
    ("reason", "state"),
    [("completed", "succeeded"), ("diverged", "failed"), ("training-error", "queued")],
)
def test_a_finished_attempt_changes_the_state_of_the_job(api: Api, reason: str, state: str) -> None:
    claimed = api.core.run()
    answer = api.attempt(
        claimed, "POST", "/finish", json={"reason": reason, "message": "by itself"}
    )
    assert (answer.status_code, answer.json()) == (200, {"job_state": state})
    job = api.get(f"/v1/jobs/{job_id_of(claimed)}").json()
    assert (job["state"], job["reason"], job["message"]) == (state, reason, "by itself")


def test_a_repeated_finish_changes_nothing_and_answers_the_same(api: Api) -> None:
    claimed = api.core.run()
    first = api.attempt(claimed, "POST", "/finish", json={"reason": "completed"})
    events = len(api.core.events(job_id_of(claimed)))
    again = api.attempt(claimed, "POST", "/finish", json={"reason": "completed"})
    assert (again.status_code, again.json()) == (200, first.json())
    assert len(api.core.events(job_id_of(claimed))) == events


def test_an_attempt_cannot_finish_for_two_reasons(api: Api) -> None:
    claimed = api.core.run()
    api.attempt(claimed, "POST", "/finish", json={"reason": "completed"})
    answer = api.attempt(claimed, "POST", "/finish", json={"reason": "diverged"})
    _refused(answer, 409, "stale-attempt")
    assert api.get(f"/v1/jobs/{job_id_of(claimed)}").json()["state"] == "succeeded"


def test_an_attempt_that_has_ended_reports_no_more(api: Api) -> None:
    claimed = api.core.run()
    api.attempt(claimed, "POST", "/finish", json={"reason": "completed"})
    _refused(api.report(claimed, 2, metrics=[_loss(1, 9.0)]), 409, "stale-attempt")
    assert _series_of(api, claimed) == ({}, [])


def test_an_attempt_may_finish_before_its_first_report(api: Api) -> None:
    claimed = api.core.start()
    api.attempt(claimed, "POST", "/finish", json={"reason": "dataset-missing"})
    assert api.core.attempt(claimed.attempt_id).state is AttemptState.ENDED
    assert api.get(f"/v1/jobs/{job_id_of(claimed)}").json()["state"] == "failed"


def test_a_new_token_of_an_attempt_ends_the_old_one(api: Api) -> None:
    first = api.core.start()
    again = api.core.take(first)
    _refused(api.attempt(first), 401, "unauthorized")
    assert api.attempt(again).status_code == 200


def test_100_reports_at_once_do_not_wait_for_each_others_threads(any_api: Api) -> None:
    """More than there are threads: each holds a lock that others wait for."""
    any_api.core.record_cluster(cpus=64)
    running = [any_api.core.run() for _ in range(4)]
    with ThreadPoolExecutor(100) as pool:
        # The same sequence: each locks the job of its attempt, and changes little.
        sent = [pool.submit(any_api.report, running[number % 4], 2) for number in range(100)]
        assert {response.result().status_code for response in sent} == {200}


def test_fields_of_a_newer_worker_are_ignored(api: Api) -> None:
    claimed = api.core.run()
    progress = {"iteration": 1, "iterations": 20, "images_per_second": 1.0, "new": 1}
    assert api.report(claimed, 2, progress=progress, new={"a": 1}).status_code == 200
    assert api.get(f"/v1/jobs/{job_id_of(claimed)}").json()["progress"]["iteration"] == 1


@pytest.mark.parametrize(
    ("sequence", "fields", "status", "code"),
    [
        (4, {}, 409, "sequence-gap"),
        (2, {"progress": {"iteration": -1}}, 422, "invalid-input"),
        (2, {"checkpoints": [{**MANIFEST, "parts": []}]}, 422, "invalid-input"),
        (2, {"checkpoints": [MANIFEST]}, 422, "corrupt-artifact"),
    ],
)
def test_a_report_that_can_never_be_stored_has_a_4xx_with_a_code(
    api: Api, sequence: int, fields: dict[str, Any], status: int, code: str
) -> None:
    """A 4xx is an answer, which the worker does not ask for again; a 5xx is none."""
    claimed = api.core.run()
    response = api.report(claimed, sequence, **fields)
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert api.report(claimed, 2).status_code == 200, "the attempt continues"


def test_a_node_receives_the_images_of_an_upload(api: Api, tmp_path: Path) -> None:
    body = zipped(tmp_path / "birds.zip", SPLIT).read_bytes()
    assert api.call("POST", "/v1/datasets?name=birds", content=body).status_code == 201
    try:
        claimed = api.core.run(dataset="folder:birds", depth=18, shortcut="B")
        upload = api.attempt(claimed, "GET", "/dataset").json()["upload"]
        archive = api.attempt(claimed, "GET", "/dataset/archive")
    finally:
        shutil.rmtree(api.settings.data_dir / "birds")
    assert (archive.status_code, archive.headers["Content-Type"]) == (200, "application/x-tar")
    unpack_archive([archive.content], tmp_path / "received", sha256=upload["sha256"])
    images = [path.read_bytes() for path in (tmp_path / "received").rglob("*.png")]
    assert sorted(images) == sorted(SPLIT.values())
    assert upload["stored_bytes"] == sum(map(len, images))


def test_a_dataset_that_was_not_uploaded_is_not_sent(api: Api) -> None:
    claimed = api.core.run()
    assert api.attempt(claimed, "GET", "/dataset").json() == {"upload": None}
    answer = api.attempt(claimed, "GET", "/dataset/archive")
    assert _refused(answer, 404, "not-found") == "digits was not uploaded"
