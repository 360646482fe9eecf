"""A full disk, here a small tmpfs: of a worker, of the artifact store, of SQLite."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.states import Blame, CheckpointPart, LogLevel, Reason
from tests.support.api import Api, serving_new
from tests.support.core import note, written
from tests.support.fake_api import digits_config, fake_api, settings_of
from tests.support.training import expected_points, points_by_series
from workers.cluster.attempt_outcome import AttemptOutcome
from workers.cluster.attempt_process import run_in_process
from workers.reporting.reporter import Reporter

# Space for the checkpoints that are being uploaded and for the last one.
_DISK_SIZE = "8m"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system; only root can mount one."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_SIZE}", "tmpfs", str(path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a tmpfs is not permitted")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def _fill(disk: Path) -> Path:
    """Fills the disk with a file, and returns it; to free the space, unlink it."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            with pytest.raises(OSError, match="No space left"):
                while True:
                    file.write(b"x" * size)
    return ballast


def test_a_workers_full_disk_loses_checkpoints_but_no_training(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = digits_config(iterations=50)
    (disk / "work" / "attempts").mkdir(parents=True)
    ballast = _fill(disk)

    on_log = Reporter.on_log

    def free_space_after_a_warning(reporter: Reporter, level: LogLevel, message: str) -> None:
        on_log(reporter, level, message)
        if "cannot be written" in message:
            ballast.unlink(missing_ok=True)

    monkeypatch.setattr(Reporter, "on_log", free_space_after_a_warning)
    with fake_api(config) as api:
        assert run_in_process(settings_of(api, disk)) is AttemptOutcome.FINISHED

    [finish] = api.finishes
    assert finish.reason is Reason.COMPLETED
    assert points_by_series(api.points) == expected_points(config.spec)
    levels = {line.level for line in api.lines if "cannot be written" in line.message}
    assert levels == {LogLevel.WARNING}
    assert api.checkpoints[-1].iteration == 50
    assert api.violations == []


def test_an_attempt_without_disk_space_is_retried_as_an_infrastructure_failure(
    disk: Path,
) -> None:
    config = digits_config(iterations=20)
    (disk / "work" / "attempts").mkdir(parents=True)
    _fill(disk)
    with fake_api(config) as api:
        run_in_process(settings_of(api, disk))

    [finish] = api.finishes
    assert (finish.reason, finish.reason.blame) == (Reason.DELIVERY_FAILED, Blame.INFRASTRUCTURE)
    assert finish.reason.is_retryable
    assert "No space left" in finish.message
    assert points_by_series(api.points) == expected_points(config.spec)


@pytest.fixture
def api(disk: Path) -> Iterator[Api]:
    """Its SQLite file and its artifacts are on the small disk."""
    with serving_new(f"sqlite:///{disk / 'resnetd.db'}", disk) as running:
        yield running


def test_an_upload_that_finds_no_space_can_be_repeated_and_leaves_no_partial_file(
    api: Api, disk: Path
) -> None:
    claimed = api.core.run()
    (digest, *_) = note(40).parts
    ballast = _fill(disk)
    response = api.upload(claimed, 40, CheckpointPart(digest.part))
    assert (response.status_code, response.json()["code"]) == (503, "unavailable")
    assert [path for path in (disk / "artifacts").rglob("*") if path.is_file()] == []
    ballast.unlink()
    assert api.upload(claimed, 40, CheckpointPart(digest.part)).status_code == 201


def test_a_database_without_disk_space_loses_no_confirmed_job(api: Api, disk: Path) -> None:
    before = api.post("/v1/jobs", written()).json()["id"]
    ballast = _fill(disk)
    responses = [api.post("/v1/jobs", written(name="x" * 120)) for _ in range(20)]
    assert 503 in {response.status_code for response in responses}
    ballast.unlink()
    after = api.post("/v1/jobs", written()).json()["id"]
    confirmed = {response.json()["id"] for response in responses if response.status_code == 201}
    listed = {job["id"] for job in api.get("/v1/jobs").json()["jobs"]}
    assert listed == confirmed | {before, after}
