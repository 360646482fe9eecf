"""An archive becomes a complete dataset, or the error names the file."""

import io
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest
from PIL import Image

from service.catalog import uploads
from service.errors import Conflict, CorruptArtifact, InvalidInput

SHA256 = "a" * 64


def png(red: int = 0, *, size: int = 4) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (size, size), (red, 0, 0)).save(file, "PNG")
    return file.getvalue()


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def tarred(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def register(
    archive: Path, data_dir: Path, *, sha256: str = SHA256, max_bytes: int = 2**20
) -> uploads.Upload:
    _, upload = uploads.register_dataset(
        "birds", archive, sha256=sha256, data_dir=data_dir, max_bytes=max_bytes
    )
    return upload


def refusal(archive: Path, data_dir: Path, *, max_bytes: int = 2**20) -> str:
    """The message of the error; afterwards nothing of the archive remains."""
    with pytest.raises(InvalidInput) as refused:
        register(archive, data_dir, max_bytes=max_bytes)
    assert not data_dir.exists() or list(data_dir.iterdir()) == []
    return str(refused.value)


SPLIT = {
    f"birds/{split}/{name}/{number}.png": png(number)
    for split in ("train", "val")
    for name in ("robin", "wren")
    for number in range(3)
}


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_an_archive_of_class_folders_becomes_a_dataset(pack: object, tmp_path: Path) -> None:
    assert callable(pack)
    upload = register(pack(tmp_path / "birds", SPLIT), tmp_path / "data")
    assert (upload.classes, upload.train_images, upload.test_images) == (2, 6, 6)
    folder = tmp_path / "data" / "birds"
    assert sorted(entry.name for entry in folder.iterdir()) == ["dataset.json", "test", "train"]
    assert (folder / "test" / "wren" / "2.png").read_bytes() == png(2)
    assert uploads.find_upload(folder) == upload


def test_without_test_images_every_fifth_of_each_class_is_held_out(tmp_path: Path) -> None:
    files = {f"{name}/{n:02}.png": png(n) for name in ("a", "b") for n in range(10)}
    upload = register(zipped(tmp_path / "x.zip", files), tmp_path / "data")
    assert (upload.train_images, upload.test_images) == (16, 4)
    assert sorted(path.name for path in (tmp_path / "data/birds/test/a").iterdir()) == [
        "04.png",
        "09.png",
    ]


def test_files_of_file_managers_are_ignored(tmp_path: Path) -> None:
    files = SPLIT | {"__MACOSX/._1.png": b"", "birds/.DS_Store": b"", "birds/train/.x": b""}
    assert register(zipped(tmp_path / "x.zip", files), tmp_path / "data").train_images == 6


def test_repeating_an_upload_changes_nothing_and_another_archive_conflicts(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "x.zip", SPLIT)
    first = register(archive, tmp_path / "data")
    assert register(archive, tmp_path / "data") == first
    with pytest.raises(Conflict, match="birds"):
        register(archive, tmp_path / "data", sha256="b" * 64)


@pytest.mark.parametrize(
    "name", ["../out.png", "/etc/out.png", "train/a/../../../out.png", "..\\out.png", "C:/out.png"]
)
@pytest.mark.parametrize("pack", [zipped, tarred])
def test_a_path_outside_the_dataset_is_refused(pack: object, name: str, tmp_path: Path) -> None:
    assert callable(pack)
    archive = pack(tmp_path / "x", SPLIT | {name: png()})
    assert "out.png' would be unpacked outside" in refusal(archive, tmp_path / "data")
    assert list(tmp_path.rglob("out.png")) == []


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_pipes_are_refused(kind: bytes, tmp_path: Path) -> None:
    archive = tmp_path / "x.tar"
    with tarfile.open(archive, "w") as file:
        member = tarfile.TarInfo("train/a/link.png")
        member.type, member.linkname = kind, "/etc/passwd"
        file.addfile(member)
    assert "'train/a/link.png' is not a regular file" in refusal(archive, tmp_path / "data")


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "x.zip"
    with zipfile.ZipFile(archive, "w") as file:
        entry = zipfile.ZipInfo("train/a/link.png")
        entry.external_attr = 0o120777 << 16
        file.writestr(entry, "/etc/passwd")
    assert "'train/a/link.png' is a link" in refusal(archive, tmp_path / "data")


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "x.zip", {"train/a/big.png": bytes(50 * 2**20)})
    assert archive.stat().st_size < 2**17
    assert "'train/a/big.png' exceeds the size limit" in refusal(archive, tmp_path / "data")


def test_an_image_of_too_many_pixels_is_refused(tmp_path: Path) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = struct.pack(">IIBBBBB", 9_000, 9_000, 8, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b""))
    archive = zipped(tmp_path / "x.zip", {"train/a/wide.png": content})
    assert "'train/a/wide.png' is 9000x9000 pixels" in refusal(archive, tmp_path / "data")


@pytest.mark.parametrize("content", [b"", b"not an image", png(size=64)[:-40]])
def test_a_broken_image_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    archive = zipped(tmp_path / "x.zip", SPLIT | {"birds/train/robin/bad.png": content})
    message = refusal(archive, tmp_path / "data")
    assert "'birds/train/robin/bad.png' cannot be decoded" in message


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"train/a/1.png": png()}, "has 1 class; at least 2 are needed"),
        ({"train/1.png": png(), "train/a/1.png": png()}, "is not in a class folder"),
        ({"train/a/run.sh": b"rm"}, "'train/a/run.sh' is not an image file"),
        (SPLIT | {"birds/val/owl/1.png": png()}, "class test/owl is not in train/"),
        ({"train/a/b/1.png": png(), "train/c/1.png": png()}, "a folder inside a class folder"),
        ({".hidden": b""}, "has no images"),
    ],
)
def test_an_invalid_layout_is_described(
    files: dict[str, bytes], message: str, tmp_path: Path
) -> None:
    assert message in refusal(zipped(tmp_path / "x.zip", files), tmp_path / "data")


@pytest.mark.parametrize("content", [b"", b"not an archive"])
def test_a_file_that_is_not_an_archive_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content)
    assert "not a complete tar or zip file" in refusal(tmp_path / "x", tmp_path / "data")


def test_a_truncated_archive_is_refused(tmp_path: Path) -> None:
    archive = tarred(tmp_path / "x.tar.gz", SPLIT)
    archive.write_bytes(archive.read_bytes()[:-200])
    assert refusal(archive, tmp_path / "data")


@pytest.mark.parametrize("name", ["..", "a/b", ".x", "", "x" * 101])
def test_a_name_outside_the_data_dir_is_refused(name: str, tmp_path: Path) -> None:
    archive = zipped(tmp_path / "x.zip", SPLIT)
    with pytest.raises(InvalidInput, match="the name of a dataset"):
        uploads.register_dataset(
            name, archive, sha256=SHA256, data_dir=tmp_path / "data", max_bytes=2**20
        )


def test_a_different_checksum_is_refused() -> None:
    uploads.verify_sha256(SHA256, expected=None)
    with pytest.raises(CorruptArtifact):
        uploads.verify_sha256(SHA256, expected="b" * 64)
