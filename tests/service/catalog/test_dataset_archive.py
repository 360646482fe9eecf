"""A dataset has the same archive on each machine, and arrives as it was sent or not at all."""

import os
import shutil
from pathlib import Path

import pytest

from service.catalog import dataset_archive, image_folder_layout
from service.catalog.dataset_archive import hash_archive, stream_archive, unpack_archive
from service.errors import CorruptArtifact


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images of any size, and a class without a test image."""
    path = tmp_path / "birds"
    for number, name in enumerate(("robin", "zaunk\u00f6nig")):
        for split in ("train", "test"):
            (path / split / name).mkdir(parents=True)
        content = os.urandom(number * dataset_archive._CHUNK_BYTES + 700)
        (path / "train" / name / f"{number}.png").write_bytes(content)
    (path / "test" / "robin" / ("long" * 60 + ".png")).write_bytes(b"")
    (path / "dataset.json").write_text("{}")
    return path


def test_an_unpacked_dataset_has_the_images_and_the_archive_of_the_sent_one(
    folder: Path, tmp_path: Path
) -> None:
    sha256 = hash_archive(folder)
    received = tmp_path / "received"
    unpack_archive(stream_archive(folder), received, sha256=sha256)
    assert image_folder_layout.list_class_names(received) == ["robin", "zaunk\u00f6nig"]
    for path in (folder / "train").rglob("*.png"):
        assert (received / path.relative_to(folder)).read_bytes() == path.read_bytes()
    assert hash_archive(received) == sha256
    os.utime(received / "test", (0, 0))
    shutil.copytree(received, tmp_path / "copied", copy_function=shutil.copyfile)
    assert hash_archive(tmp_path / "copied") == sha256


@pytest.mark.parametrize("kept", [0, 100, 5_000, -1])
def test_an_archive_that_is_cut_off_is_refused(folder: Path, tmp_path: Path, kept: int) -> None:
    content = b"".join(stream_archive(folder))[:kept]
    with pytest.raises(CorruptArtifact):
        unpack_archive([content], tmp_path / "received", sha256=hash_archive(folder))


def test_an_archive_with_another_byte_or_a_path_outside_is_refused(
    folder: Path, tmp_path: Path
) -> None:
    content, sha256 = b"".join(stream_archive(folder)), hash_archive(folder)
    with pytest.raises(CorruptArtifact, match=f"not {sha256}"):
        unpack_archive([content[:-1], b"x"], tmp_path / "changed", sha256=sha256)
    outside = next(iter(stream_archive(folder))).replace(b"train", b"..//x", 1)
    with pytest.raises(CorruptArtifact):
        unpack_archive([outside], tmp_path / "outside", sha256=sha256)
    assert not (tmp_path / "x").exists()
