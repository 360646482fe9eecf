"""Downloads are complete and verified, or leave nothing."""

from pathlib import Path

import pytest

import resnetd
from service.states import CheckpointPart
from tests.client import faults
from tests.client.conftest import QUICK
from tests.client.service import Service
from tests.support.core import content

WEIGHTS = content(CheckpointPart.WEIGHTS, 10)


@pytest.fixture
def job_id(service: Service) -> str:
    """A job with a checkpoint."""
    training = service.run()
    parts = (CheckpointPart.WEIGHTS, CheckpointPart.STATE, CheckpointPart.PT)
    training.save(10, test_error=5.0, parts=parts)
    return training.job_id


def test_weights_are_saved_under_the_suggested_name(client: resnetd.Client, job_id: str) -> None:
    path = client.jobs.download(job_id)
    assert path == Path(f"resnet-8-A-digits-{job_id}-10.safetensors")
    assert path.read_bytes() == WEIGHTS


def test_weights_go_into_a_folder_or_replace_a_file(
    client: resnetd.Client, job_id: str, tmp_path: Path
) -> None:
    assert client.jobs.download(job_id, path=tmp_path).parent == tmp_path
    path = tmp_path / "mine.pt"
    path.write_text("older")
    assert client.jobs.download(job_id, "newest", format="pt", path=str(path)) == path
    assert path.read_bytes() == content(CheckpointPart.PT, 10)


@pytest.mark.parametrize("format", ["pt", "onnx", "pt2-image", "card"])
def test_formats_of_the_last_checkpoint_are_taken_from_it(
    service: Service,
    client: resnetd.Client,
    format: str,  # noqa: A002 - the client's name
) -> None:
    training = service.run()
    training.save(10, test_error=5.0)
    parts = (CheckpointPart.WEIGHTS, CheckpointPart.STATE, CheckpointPart(format))
    training.save(20, test_error=6.0, parts=parts)
    path = client.jobs.download(training.job_id, format=format)
    assert path.read_bytes() == content(CheckpointPart(format), 20)
    with pytest.raises(resnetd.NotFound, match="of iteration 20 has it"):
        client.jobs.download(training.job_id, "best", format=format)


def test_progress_is_reported_in_bytes(client: resnetd.Client, job_id: str) -> None:
    reported: list[tuple[int, int | None]] = []
    client.jobs.download(job_id, on_progress=lambda *done: reported.append(done))
    assert reported[-1] == (len(WEIGHTS), len(WEIGHTS))


def test_bytes_that_do_not_match_their_checksum_are_refused(
    service: Service, client: resnetd.Client, job_id: str, tmp_path: Path
) -> None:
    path = tmp_path / "weights"
    path.write_text("older")
    service.inject(faults.change_download(content=b"x" + WEIGHTS[1:]))
    with pytest.raises(resnetd.CorruptDownload, match="SHA-256"):
        client.jobs.download(job_id, path=path)
    assert path.read_text() == "older"
    assert _files(tmp_path) == {"weights"}


def test_a_download_that_breaks_continues_where_it_broke(
    service: Service, client: resnetd.Client, job_id: str, tmp_path: Path
) -> None:
    service.inject(*[faults.break_download] * 2)
    path = client.jobs.download(job_id, path=tmp_path)
    assert path.read_bytes() == WEIGHTS
    assert _files(tmp_path) == {path.name}
    half = len(WEIGHTS) // 2
    quarter = half + (len(WEIGHTS) - half) // 2
    ranges = [request.headers.get("Range") for request in service.transport.requests[-3:]]
    assert ranges == [None, f"bytes={half}-", f"bytes={quarter}-"]


def test_a_download_begins_again_if_the_file_has_changed(
    service: Service, client: resnetd.Client, job_id: str, tmp_path: Path
) -> None:
    service.inject(faults.break_download, faults.set_headers(If_Range='"another"'))
    path = client.jobs.download(job_id, path=tmp_path)
    assert path.read_bytes() == WEIGHTS


def test_a_download_that_keeps_breaking_leaves_nothing(
    service: Service, client: resnetd.Client, job_id: str, tmp_path: Path
) -> None:
    service.inject(*[faults.break_download] * QUICK.attempts)
    with pytest.raises(resnetd.CannotConnect):
        client.jobs.download(job_id, path=tmp_path)
    assert _files(tmp_path) == set()


def test_an_interrupted_download_leaves_nothing(
    client: resnetd.Client, job_id: str, tmp_path: Path
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client.jobs.download(job_id, path=tmp_path, on_progress=interrupt)
    assert _files(tmp_path) == set()


def test_weights_without_a_checksum_are_refused(
    service: Service, client: resnetd.Client, job_id: str, tmp_path: Path
) -> None:
    service.inject(faults.change_download(ETag=""))
    with pytest.raises(resnetd.UnexpectedResponse, match="without a checksum"):
        client.jobs.download(job_id, path=tmp_path)
    assert _files(tmp_path) == set()


@pytest.mark.parametrize(
    ("suggested", "name"),
    [
        ("../../elsewhere.pt", "elsewhere.pt"),
        ("/elsewhere.pt", "elsewhere.pt"),
        ("..\\elsewhere.pt", "elsewhere.pt"),
        ("..", "{job_id}-best.safetensors"),
    ],
)
def test_a_suggested_name_cannot_lead_out_of_the_folder(
    service: Service, client: resnetd.Client, job_id: str, tmp_path: Path, suggested: str, name: str
) -> None:
    header = f'attachment; filename="{suggested}"'
    service.inject(faults.change_download(Content_Disposition=header))
    path = client.jobs.download(job_id, path=tmp_path)
    assert path == tmp_path / name.format(job_id=job_id)


def test_an_unknown_checkpoint_is_not_found(
    client: resnetd.Client, job_id: str, tmp_path: Path
) -> None:
    with pytest.raises(resnetd.NotFound):
        client.jobs.download(job_id, "0f3k000000000009", path=tmp_path)
    assert _files(tmp_path) == set()


def _files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"working"}
