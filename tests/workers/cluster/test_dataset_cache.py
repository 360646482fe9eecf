"""A node fetches an uploaded dataset once, and keeps what its jobs use."""

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import pytest

from service.errors import ApiUnavailable, CorruptArtifact
from service.specs.job_spec import JobSpec, parse_job_spec
from service.states import LogLevel
from tests.service.catalog.test_uploads import SPLIT, png, register, zipped
from tests.support.fake_api import (
    FakeApi,
    Fault,
    config_of,
    digits_config,
    fake_api,
    settings_of,
)
from workers.cluster.attempt_process import run_in_process
from workers.cluster.dataset_cache import provide_dataset
from workers.cluster.process_settings import AttemptSettings
from workers.training import trainer
from workers.training.errors import TrainingDiverged
from workers.training.observers import ignore_log


@pytest.fixture
def api(tmp_path: Path) -> Iterator[FakeApi]:
    """The job trains on an upload, which is in the data directory of the API's machine."""
    with fake_api(digits_config()) as served:
        served.upload = upload(tmp_path, SPLIT)
        yield served


@pytest.fixture
def node(api: FakeApi, tmp_path: Path) -> AttemptSettings:
    """Its data directory is empty."""
    return settings_of(api, tmp_path / "node", delivery_seconds=0.2)


def upload(path: Path, files: dict[str, bytes]) -> Path:
    data_dir = path / "api"
    shutil.rmtree(data_dir, ignore_errors=True)
    register(zipped(path / "birds.zip", files), data_dir)
    return data_dir / "birds"


def use_dataset(settings: AttemptSettings, name: str = "folder:birds") -> Path:
    with provide_dataset(name, settings, log=ignore_log) as data_dir:
        return data_dir


def cached_folders(settings: AttemptSettings) -> set[Path]:
    return {path for path in (settings.work_dir / "datasets").iterdir() if path.is_dir()}


def test_an_attempt_trains_on_the_fetched_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(_spec: JobSpec, *, data_dir: Path, **_: object) -> NoReturn:
        raise TrainingDiverged(f"{len(list(data_dir.glob('birds/*/*/*.png')))} images")

    monkeypatch.setattr(trainer, "train", train)
    document = {"depth": 8, "shortcut": "A", "stem": "cifar", "dataset": "folder:birds"}
    with fake_api(config_of(parse_job_spec(document))) as api:
        api.upload = upload(tmp_path, SPLIT)
        run_in_process(settings_of(api, tmp_path))
        assert [finish.message for finish in api.finishes] == ["12 images"]
        assert "fetching folder:birds, 1 byte, from the API" in [line.message for line in api.lines]


def test_processes_and_later_attempts_on_a_node_fetch_an_upload_once(
    api: FakeApi, node: AttemptSettings
) -> None:
    lines: list[tuple[LogLevel, str]] = []
    with ThreadPoolExecutor() as pool:
        first, second = pool.map(use_dataset, [node, node])
    with provide_dataset("folder:birds", node, log=lambda *line: lines.append(line)) as third:
        assert first == second == third
    assert (api.sent_uploads, lines) == (1, [])
    images = sorted(path.read_bytes() for path in (first / "birds").rglob("*.png"))
    assert images == sorted(SPLIT.values())
    assert (first / "weights").readlink() == node.data_dir / "weights"


def test_an_upload_that_replaced_another_of_its_name_is_fetched_beside_it(
    api: FakeApi, node: AttemptSettings, tmp_path: Path
) -> None:
    before = use_dataset(node)
    api.upload = upload(tmp_path, SPLIT | {"birds/train/wren/9.png": png(9)})
    after = use_dataset(node)
    assert len(list((after / "birds" / "train" / "wren").iterdir())) == 4
    assert cached_folders(node) == {before, after}


def test_a_node_that_has_the_dataset_fetches_nothing(api: FakeApi, node: AttemptSettings) -> None:
    assert api.upload is not None
    shutil.copytree(api.upload, node.data_dir / "birds")
    assert use_dataset(node) == use_dataset(node, "cifar10") == node.data_dir
    api.upload = None  # an image folder that was copied to each node
    assert use_dataset(node) == node.data_dir
    assert api.sent_uploads == 0


def test_a_dataset_that_does_not_arrive_leaves_nothing_and_is_fetched_again(
    api: FakeApi, node: AttemptSettings
) -> None:
    api.inject_fault(Fault.CORRUPTING)
    with pytest.raises(CorruptArtifact, match="the dataset has the SHA-256"):
        use_dataset(node)
    assert cached_folders(node) == set()
    api.inject_fault(Fault.UNAVAILABLE)
    with pytest.raises(ApiUnavailable):
        use_dataset(node)
    api.recover()
    assert (use_dataset(node) / "birds" / "train").is_dir()


def test_a_dataset_that_no_job_has_used_for_a_week_makes_room_for_the_next(
    api: FakeApi, node: AttemptSettings, tmp_path: Path
) -> None:
    unused = use_dataset(node)
    api.upload = upload(tmp_path, SPLIT | {"birds/train/wren/8.png": png(8)})
    with provide_dataset("folder:birds", node, log=ignore_log) as used:
        for path in (unused, used):
            os.utime(path, (0, 0))
        api.upload = upload(tmp_path, SPLIT | {"birds/train/wren/9.png": png(9)})
        newest = use_dataset(node)
        assert cached_folders(node) == {used, newest}
