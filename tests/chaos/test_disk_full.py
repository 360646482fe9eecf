"""A disk that is full, here a small tmpfs: a worker's, the artifacts', SQLite's."""

import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.states import Blame, CheckpointPart, LogLevel, Reason
from tests.support.api import Api, serving_new
from tests.support.core import note, written
from tests.support.fake_api import FakeApi, digits_brief, eventually, fake_api, settings_of
from tests.support.training import expected_points
from workers.cluster.attempt_outcome import AttemptOutcome
from workers.cluster.attempt_process import run_in_process

# Room for the checkpoints that are on their way to the API, and for the last.
_DISK = "8m"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own; only root may have one."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_DISK}", "tmpfs", str(path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a tmpfs is not allowed here")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def _fill(disk: Path) -> Path:
    """What takes the room that was left; unlink it to give the room back."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            with pytest.raises(OSError, match="No space left"):
                while True:
                    file.write(b"x" * size)
    return ballast


def _points_of(api: FakeApi) -> dict[str, list[int]]:
    told: dict[str, list[int]] = {}
    for point in api.points:
        told.setdefault(point.series, []).append(point.iteration)
    return told


def test_a_workers_full_disk_costs_checkpoints_and_no_training(disk: Path) -> None:
    brief = digits_brief(iterations=2_000)  # still under way when somebody has made room
    (disk / "work" / "attempts").mkdir(parents=True)
    ballast = _fill(disk)

    def make_room(told: FakeApi) -> None:
        eventually(lambda: any("cannot be saved" in line.message for line in told.lines))
        ballast.unlink()

    with fake_api(brief) as listening:
        somebody = threading.Thread(target=make_room, args=(listening,))
        somebody.start()
        assert run_in_process(settings_of(listening, disk)) is AttemptOutcome.FINISHED
        somebody.join()

    [finish] = listening.finishes
    assert finish.reason is Reason.COMPLETED
    assert _points_of(listening) == expected_points(brief.spec)
    levels = {line.level for line in listening.lines if "cannot be saved" in line.message}
    assert levels == {LogLevel.WARNING}
    assert listening.checkpoints[-1].iteration == 2_000
    assert listening.complaints == []


def test_without_room_to_the_end_the_attempt_is_tried_again_as_nobodys_mistake(
    disk: Path,
) -> None:
    brief = digits_brief(iterations=20)
    (disk / "work" / "attempts").mkdir(parents=True)
    _fill(disk)
    with fake_api(brief) as api:
        run_in_process(settings_of(api, disk))

    [finish] = api.finishes
    assert (finish.reason, finish.reason.blame) == (Reason.DELIVERY_FAILED, Blame.INFRASTRUCTURE)
    assert finish.reason.is_retryable
    assert "No space left" in finish.message
    assert _points_of(api) == expected_points(brief.spec)


@pytest.fixture
def api(disk: Path) -> Iterator[Api]:
    """Its SQLite file and its artifacts lie on the small disk."""
    with serving_new(f"sqlite:///{disk / 'resnetd.db'}", disk) as served:
        yield served


def test_artifacts_that_find_no_room_are_sent_again_and_leave_nothing_half(
    api: Api, disk: Path
) -> None:
    claimed = api.core.run()
    (digest, *_) = note(40).parts
    ballast = _fill(disk)
    answer = api.upload(claimed, 40, CheckpointPart(digest.part))
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert [path for path in (disk / "artifacts").rglob("*") if path.is_file()] == []
    ballast.unlink()
    assert api.upload(claimed, 40, CheckpointPart(digest.part)).status_code == 201


def test_a_database_that_finds_no_room_loses_nothing_that_it_confirmed(
    api: Api, disk: Path
) -> None:
    before = api.post("/v1/jobs", written()).json()["id"]
    ballast = _fill(disk)
    answers = [api.post("/v1/jobs", written(name="x" * 120)) for _ in range(20)]
    assert 503 in {answer.status_code for answer in answers}
    ballast.unlink()
    after = api.post("/v1/jobs", written()).json()["id"]
    confirmed = {answer.json()["id"] for answer in answers if answer.status_code == 201}
    listed = {job["id"] for job in api.get("/v1/jobs").json()["jobs"]}
    assert listed == confirmed | {before, after}
