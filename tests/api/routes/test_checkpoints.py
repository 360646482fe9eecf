"""Routes of checkpoints and downloads."""

import hashlib
from typing import Any

import pytest

from service.jobs import checkpoints
from service.states import CheckpointPart, Reason
from service.storage.artifacts import ArtifactStore
from tests.support.api import Api
from tests.support.core import Taken, content, job_id_of, note
from tests.support.fake_api import eventually

ALL_PARTS = (CheckpointPart.WEIGHTS, CheckpointPart.STATE, CheckpointPart.PT)


def _keep(api: Api, claimed: Taken, sequence: int, iteration: int, **fields: Any) -> None:
    assert api.checkpoint(claimed, sequence, note(iteration, **fields)).status_code == 200


def _path(claimed: Taken) -> str:
    return f"/v1/jobs/{job_id_of(claimed)}/checkpoints"


def _listed(api: Api, claimed: Taken) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = api.get(_path(claimed)).json()["checkpoints"]
    return found


@pytest.fixture
def kept(api: Api) -> Taken:
    """An attempt whose checkpoint of iteration 2 is the best, that of iteration 3 the newest."""
    claimed = api.core.run()
    _keep(api, claimed, 2, 2, test_error=1.0, parts=ALL_PARTS)
    _keep(api, claimed, 3, 3, test_error=5.0)
    return claimed


def test_a_job_without_checkpoints_has_an_empty_list(api: Api) -> None:
    claimed = api.core.run()
    assert _listed(api, claimed) == []
    assert api.get(f"{_path(claimed)}/newest/weights").status_code == 404


def test_checkpoints_are_listed_newest_first_with_their_parts(api: Api, kept: Taken) -> None:
    newest, best = _listed(api, kept)
    assert (newest["iteration"], best["iteration"]) == (3, 2)
    assert (best["job_id"], best["attempt"], best["test_error"]) == (job_id_of(kept), 1, 1.0)
    assert best["parts"] == {
        part.value: {
            "sha256": hashlib.sha256(content(part, 2)).hexdigest(),
            "size_bytes": len(content(part, 2)),
        }
        for part in ALL_PARTS
    }
    assert best["size_bytes"] == sum(len(content(part, 2)) for part in ALL_PARTS)


def test_a_checkpoint_counts_only_once_it_was_reported(api: Api) -> None:
    claimed = api.core.run()
    api.upload(claimed, 2, CheckpointPart.WEIGHTS)
    api.upload(claimed, 2, CheckpointPart.STATE)
    assert _listed(api, claimed) == []


@pytest.mark.parametrize(("selector", "iteration"), [("newest", 3), ("best", 2)])
def test_newest_and_best_are_downloaded_by_name(
    api: Api, kept: Taken, selector: str, iteration: int
) -> None:
    answer = api.get(f"{_path(kept)}/{selector}/weights")
    assert answer.status_code == 200
    assert answer.content == content(CheckpointPart.WEIGHTS, iteration)


def test_a_checkpoint_is_downloaded_by_its_id(api: Api, kept: Taken) -> None:
    best = _listed(api, kept)[1]
    answer = api.get(f"{_path(kept)}/{best['id']}/weights")
    assert answer.content == content(CheckpointPart.WEIGHTS, 2)


def test_a_download_has_a_file_name_a_length_and_a_checksum(api: Api, kept: Taken) -> None:
    answer = api.get(f"{_path(kept)}/best/weights")
    sha256 = hashlib.sha256(answer.content).hexdigest()
    assert answer.headers["ETag"] == f'"{sha256}"'
    assert answer.headers["Content-Length"] == str(len(answer.content))
    assert answer.headers["Content-Type"] == "application/octet-stream"
    name = f"resnet-8-A-digits-{job_id_of(kept)}-2.safetensors"
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{name}"'


def test_weights_are_downloaded_as_pt(api: Api, kept: Taken) -> None:
    answer = api.get(f"{_path(kept)}/best/weights?format=pt")
    assert answer.content == content(CheckpointPart.PT, 2)
    assert answer.headers["ETag"].strip('"') == hashlib.sha256(answer.content).hexdigest()
    assert answer.headers["Content-Disposition"].endswith('-2.pt"')


def test_a_format_that_was_not_stored_is_not_found(api: Api, kept: Taken) -> None:
    answer = api.get(f"{_path(kept)}/newest/weights?format=pt")
    assert (answer.status_code, answer.json()["code"]) == (404, "not-found")
    assert "state, weights" in answer.json()["detail"]
    best = _listed(api, kept)[1]["id"]
    assert f"checkpoint {best} of iteration 2 has it" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("part", "suffix"),
    [("card", "md"), ("onnx", "onnx"), ("onnx-image", "image.onnx"), ("pt2-image", "image.pt2")],
)
def test_a_format_has_the_name_of_its_part(api: Api, part: str, suffix: str) -> None:
    claimed = api.core.run()
    _keep(api, claimed, 2, 2, parts=(*ALL_PARTS, CheckpointPart(part)))
    answer = api.get(f"{_path(claimed)}/newest/weights?format={part}")
    assert answer.content == content(CheckpointPart(part), 2)
    assert answer.headers["Content-Disposition"].endswith(f'-2.{suffix}"')
    media_type = "text/markdown; charset=utf-8" if part == "card" else "application/octet-stream"
    assert answer.headers["Content-Type"] == media_type


def test_a_download_whose_artifact_was_lost_is_not_found(api: Api, kept: Taken) -> None:
    ArtifactStore(api.settings.artifacts_url).delete_prefix(f"{checkpoints.ARTIFACT_PREFIX}/")
    answer = api.get(f"{_path(kept)}/best/weights")
    assert (answer.status_code, answer.json()["code"]) == (404, "not-found")


def test_an_unknown_format_is_refused(api: Api, kept: Taken) -> None:
    answer = api.get(f"{_path(kept)}/best/weights?format=gguf")
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/format")


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=2-3", 2, 4),
        ("bytes=5-", 5, None),
        ("bytes=-4", -4, None),
        ("bytes=0-99999", 0, None),
    ],
)
def test_a_range_of_a_download_can_be_requested(
    api: Api, kept: Taken, asked: str, start: int, stop: int | None
) -> None:
    answer = api.get(f"{_path(kept)}/best/weights", headers={"Range": asked})
    complete = content(CheckpointPart.WEIGHTS, 2)
    first, last = range(len(complete))[start], range(len(complete))[slice(start, stop)][-1]
    assert answer.status_code == 206
    assert answer.headers["Content-Range"] == f"bytes {first}-{last}/{len(complete)}"
    assert answer.content == complete[start:stop]


@pytest.mark.parametrize(
    "headers",
    [
        {"Range": "bytes=1-2,4-5"},
        {"Range": "bytes=3-2"},
        {"Range": "letters=1-2"},
        {"Range": "bytes=1-2", "If-Range": '"another"'},
    ],
)
def test_a_range_that_does_not_apply_is_ignored(
    api: Api, kept: Taken, headers: dict[str, str]
) -> None:
    answer = api.get(f"{_path(kept)}/best/weights", headers=headers)
    assert answer.status_code == 200
    assert answer.content == content(CheckpointPart.WEIGHTS, 2)


def test_a_range_behind_the_end_is_refused(api: Api, kept: Taken) -> None:
    answer = api.get(f"{_path(kept)}/best/weights", headers={"Range": "bytes=99999-"})
    size = len(content(CheckpointPart.WEIGHTS, 2))
    assert (answer.status_code, answer.headers["Content-Range"]) == (416, f"bytes */{size}")


def test_head_answers_the_headers_of_a_download(api: Api, kept: Taken) -> None:
    path = f"{_path(kept)}/best/weights"
    head, answer = api.call("HEAD", path), api.get(path)
    assert head.status_code == 200
    assert head.content == b""
    for name in ("ETag", "Content-Length", "Content-Disposition", "Accept-Ranges"):
        assert head.headers[name] == answer.headers[name]


def test_the_file_name_of_a_download_is_plain_ascii(api: Api) -> None:
    claimed = api.core.run(depth=18, dataset="folder:a..b-ü")
    _keep(api, claimed, 2, 2)
    header = api.get(f"{_path(claimed)}/newest/weights").headers["Content-Disposition"]
    assert header.startswith('attachment; filename="resnet-18-A-folder-a-b-')
    assert header.isascii()


def test_of_one_iteration_the_weights_of_the_later_attempt_are_the_newest(api: Api) -> None:
    first = api.core.run()
    _keep(api, first, 2, 2)
    api.core.end(first, Reason.WORKER_DIED)
    second = api.core.retry()
    _keep(api, second, 2, 2)
    assert _listed(api, first)[0]["attempt"] == 2
    assert api.get(f"{_path(first)}/newest/weights").status_code == 200


def test_a_superseded_checkpoint_is_deleted_with_its_artifacts(api: Api, kept: Taken) -> None:
    folder = api.settings.var_dir / "artifacts" / "checkpoints" / kept.attempt_id
    superseded = _listed(api, kept)[0]
    _keep(api, kept, 4, 4, test_error=3.0)
    assert [checkpoint["iteration"] for checkpoint in _listed(api, kept)] == [4, 2]
    assert api.get(f"{_path(kept)}/{superseded['id']}/weights").status_code == 404
    # Artifacts are deleted after the response to the report.
    eventually(lambda: {int(path.name.partition("-")[0]) for path in folder.iterdir()} == {2, 4})


def test_a_checkpoint_of_another_job_is_not_found(api: Api, kept: Taken) -> None:
    other = api.core.run()
    checkpoint = _listed(api, kept)[0]
    assert api.get(f"{_path(other)}/{checkpoint['id']}/weights").status_code == 404


def test_weights_are_downloaded_after_the_job_has_ended(api: Api, kept: Taken) -> None:
    api.core.finish(kept.attempt_id)
    assert api.get(f"{_path(kept)}/newest/weights").content == content(CheckpointPart.WEIGHTS, 3)
