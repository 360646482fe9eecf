"""Weights arrive whole and checked, or not at all."""

from pathlib import Path

import pytest

import resnetd
from tests.client.conftest import QUICK
from tests.client.fake_service import FakeService
from tests.client.misbehaviour import WEIGHTS, break_weights_in_the_middle


def test_weights_are_saved_under_the_name_that_the_service_suggests(
    service: FakeService, client: resnetd.Client
) -> None:
    path = client.download(service.add_job())
    assert path == Path("resnet-20-A.safetensors")
    assert path.read_bytes() == WEIGHTS
    assert service.requests[-1].path.endswith("/checkpoints/best/weights")


def test_weights_go_into_a_folder_or_replace_a_file(
    service: FakeService, client: resnetd.Client, tmp_path: Path
) -> None:
    job_id = service.add_job()
    assert client.download(job_id, path=tmp_path) == tmp_path / "resnet-20-A.safetensors"
    file = tmp_path / "mine.pt"
    file.write_text("older")
    assert client.download(job_id, "newest", format="pt", path=str(file)) == file
    assert file.read_bytes() == WEIGHTS
    assert service.requests[-1].query == {"format": ["pt"]}


def test_progress_is_told_in_bytes(service: FakeService, client: resnetd.Client) -> None:
    told: list[tuple[int, int | None]] = []
    client.download(service.add_job(), on_progress=lambda *done: told.append(done))
    assert told[-1] == (len(WEIGHTS), len(WEIGHTS))


def test_bytes_that_differ_from_their_checksum_are_refused(
    service: FakeService, client: resnetd.Client, tmp_path: Path
) -> None:
    file = tmp_path / "kept"
    file.write_text("older")
    service.sent_weights = b"x" + WEIGHTS[1:]
    with pytest.raises(resnetd.DownloadCorrupt, match="SHA-256"):
        client.download(service.add_job(), path=file)
    assert file.read_text() == "older"
    assert _files(tmp_path) == {"kept"}


def test_a_download_that_breaks_is_begun_again(
    service: FakeService, client: resnetd.Client, tmp_path: Path
) -> None:
    service.misbehaviour = [break_weights_in_the_middle] * 2
    path = client.download(service.add_job(), path=tmp_path)
    assert path.read_bytes() == WEIGHTS
    assert _files(tmp_path) == {path.name}


def test_a_download_that_keeps_breaking_leaves_nothing(
    service: FakeService, client: resnetd.Client, tmp_path: Path
) -> None:
    service.misbehaviour = [break_weights_in_the_middle] * QUICK.attempts
    with pytest.raises(resnetd.CannotConnect):
        client.download(service.add_job(), path=tmp_path)
    assert _files(tmp_path) == set()


def test_an_interrupted_download_leaves_nothing(
    service: FakeService, client: resnetd.Client, tmp_path: Path
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client.download(service.add_job(), path=tmp_path, on_progress=interrupt)
    assert _files(tmp_path) == set()


def test_weights_without_a_checksum_are_not_taken(
    service: FakeService, client: resnetd.Client, tmp_path: Path
) -> None:
    service.misbehaviour = [lambda handler: handler.send_bytes(WEIGHTS, "application/octet-stream")]
    with pytest.raises(resnetd.UnexpectedAnswer, match="no checksum"):
        client.download(service.add_job(), path=tmp_path)
    assert _files(tmp_path) == set()


@pytest.mark.parametrize(
    "suggested",
    ["../../elsewhere.safetensors", "/elsewhere.safetensors", "..\\elsewhere.safetensors"],
)
def test_a_suggested_name_cannot_lead_out_of_the_folder(
    service: FakeService, client: resnetd.Client, tmp_path: Path, suggested: str
) -> None:
    service.suggested_name = suggested
    path = client.download(service.add_job(), path=tmp_path)
    assert path == tmp_path / "elsewhere.safetensors"


def test_a_suggestion_that_is_no_name_gives_way_to_the_jobs_id(
    service: FakeService, client: resnetd.Client, tmp_path: Path
) -> None:
    service.suggested_name = ".."
    path = client.download(service.add_job(), path=tmp_path)
    assert path == tmp_path / "0f3k000000000001-best.safetensors"


def test_a_checkpoint_that_is_not_there_is_not_found(
    service: FakeService, client: resnetd.Client, tmp_path: Path
) -> None:
    with pytest.raises(resnetd.NotFound, match="no checkpoint"):
        client.download(service.add_job(), "c000000000000009", path=tmp_path)
    assert _files(tmp_path) == set()


def _files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"here"}
