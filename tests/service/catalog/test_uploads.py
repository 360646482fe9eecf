"""An archive becomes a complete dataset, or the error names the file."""

import asyncio
import errno
import hashlib
import io
import os
import random
import signal
import struct
import subprocess
import sys
import tarfile
import threading
import zipfile
import zlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from service.catalog import uploads
from service.errors import Conflict, CorruptArtifact, InvalidInput, Unavailable

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


def tarred(path: Path, files: dict[str, bytes], *, compression: str = "gz") -> Path:
    with tarfile.open(path, f"w:{compression}") as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def register(
    archive: Path, data_dir: Path, *, sha256: str = SHA256, max_bytes: int = 2**20
) -> uploads.Upload:
    _, upload = uploads.register_dataset(
        "birds", archive, user="ann", sha256=sha256, data_dir=data_dir, max_bytes=max_bytes
    )
    return upload


def refusal(archive: Path, data_dir: Path, *, max_bytes: int = 2**20) -> str:
    """The message of the error; afterwards nothing of the archive remains."""
    with pytest.raises(InvalidInput) as refused:
        register(archive, data_dir, max_bytes=max_bytes)
    assert not data_dir.exists() or list(data_dir.iterdir()) == []
    assert str(data_dir) not in str(refused.value), "only paths inside the archive are named"
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
    assert (upload.class_names, upload.train_images, upload.test_images) == (
        ["robin", "wren"],
        6,
        6,
    )
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
    files = SPLIT | {
        "__MACOSX/._1.png": b"",
        "birds/.DS_Store": b"",
        "birds/train/.x": b"",
        "birds/train/robin/Thumbs.db": b"",
        "birds/README.md": b"",
    }
    upload = register(zipped(tmp_path / "x.zip", files), tmp_path / "data")
    assert upload.train_images == 6
    assert upload.skipped == {"hidden files": 2, "system files": 2, "documents": 1}


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
        ({"train/a/1.png": png()}, "at least 2 class folders are needed; 'train' has 'a'"),
        ({"train/1.png": png(), "train/a/1.png": png()}, "is not in a class folder"),
        ({"train/a/run.sh": b"rm"}, "'train/a/run.sh' is not an image file"),
        (SPLIT | {"birds/val/owl/1.png": png()}, "'val/owl' is a class that train/ does not have"),
        (SPLIT | {"birds/valid/owl/1.png": png()}, "one of them must be named test/"),
        ({"train/a/b/1.png": png(), "train/c/1.png": png()}, "a folder inside a class folder"),
        ({".hidden": b""}, "has no images"),
        ({"train/" + "x" * 300 + "/1.png": png()}, "cannot be unpacked: File name too long"),
        ({"train/a": png(), "train/a/1.png": png()}, "'train/a' is not an image file"),
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


@pytest.mark.parametrize("kind", ["gz", "xz", "bz2", "lzma.zip", "bzip2.zip", "deflate.zip"])
@pytest.mark.parametrize("damage", ["truncated", "overwritten"])
def test_a_damaged_archive_is_refused(kind: str, damage: str, tmp_path: Path) -> None:
    noise = random.Random(0).randbytes(100_000)
    files = SPLIT | {"birds/train/robin/noise.png": png() + noise}
    archive = tmp_path / f"x.{kind}"
    if kind.endswith("zip"):
        method = {
            "lzma.zip": zipfile.ZIP_LZMA,
            "bzip2.zip": zipfile.ZIP_BZIP2,
            "deflate.zip": zipfile.ZIP_DEFLATED,
        }[kind]
        with zipfile.ZipFile(archive, "w", method) as zip_file:
            for name, content in files.items():
                zip_file.writestr(name, content)
    else:
        tarred(archive, files, compression=kind)
    content = archive.read_bytes()
    middle = len(content) // 2
    archive.write_bytes(
        content[:middle]
        if damage == "truncated"
        else content[:middle] + bytes(2_000) + content[middle + 2_000 :]
    )
    message = refusal(archive, tmp_path / "data")
    assert "cannot be unpacked" in message or "is not a complete tar or zip file" in message


@pytest.mark.parametrize("name", ["train/caf\udce9/1.png", "train/robin/caf\udce9.png"])
def test_a_name_that_is_not_utf8_is_refused(name: str, tmp_path: Path) -> None:
    message = refusal(tarred(tmp_path / "x.tar.gz", SPLIT | {name: png()}), tmp_path / "data")
    assert f"the name {name!r} is not UTF-8" in message
    message.encode()


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "x.zip", SPLIT)
    content = bytearray(archive.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + offset] |= 1
    archive.write_bytes(content)
    assert "encrypted" in refusal(archive, tmp_path / "data")


@pytest.mark.parametrize("mode", ["I", "F"])
def test_numbers_without_a_defined_range_are_refused(mode: str, tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.new(mode, (4, 4)).save(file, "TIFF")
    files = SPLIT | {"birds/train/robin/depth.tif": file.getvalue()}
    message = refusal(zipped(tmp_path / "x.zip", files), tmp_path / "data")
    assert f"depth.tif' has 32-bit numbers (mode {mode})" in message


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
@pytest.mark.parametrize("method", ["mkdir", "open"])
def test_a_full_or_read_only_disk_is_not_the_users_mistake(
    code: int, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = getattr(Path, method)

    def fail(path: Path, *arguments: Any, **options: Any) -> Any:
        if tmp_path / "data" in path.parents and path.suffix != ".json":
            raise OSError(code, os.strerror(code))
        return original(path, *arguments, **options)

    archive = zipped(tmp_path / "x.zip", SPLIT)
    monkeypatch.setattr(Path, method, fail)
    with pytest.raises(Unavailable, match=os.strerror(code)):
        register(archive, tmp_path / "data")
    assert not (tmp_path / "data" / "birds").exists()


@pytest.mark.parametrize("name", ["..", "a/b", ".x", "", "x" * 101, "\u732b" * 61])
def test_a_name_outside_the_data_dir_is_refused(name: str, tmp_path: Path) -> None:
    archive = zipped(tmp_path / "x.zip", SPLIT)
    with pytest.raises(InvalidInput, match="the name of a dataset"):
        uploads.register_dataset(
            name,
            archive,
            user="ann",
            sha256=SHA256,
            data_dir=tmp_path / "data",
            max_bytes=2**20,
        )


def test_a_different_checksum_is_refused() -> None:
    uploads.verify_sha256(SHA256, expected=None)
    with pytest.raises(CorruptArtifact):
        uploads.verify_sha256(SHA256, expected="b" * 64)


def test_a_disk_that_is_slow_to_write_delays_nothing_else(tmp_path: Path) -> None:
    """The target is a pipe, which takes no byte before it is read."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    content = bytes(5 * 2**20)
    may_read = threading.Event()

    def read() -> bytes:
        with pipe.open("rb") as file:
            assert may_read.wait(10.0), "the event loop was blocked"
            return file.read()

    async def body() -> AsyncIterator[bytes]:
        asyncio.get_running_loop().call_later(0.05, may_read.set)
        yield content

    with ThreadPoolExecutor() as pool:
        received = pool.submit(read)
        sha256, size = asyncio.run(uploads.receive_archive(body(), pipe, max_bytes=2**30))
        assert received.result() == content
    assert (sha256, size) == (hashlib.sha256(content).hexdigest(), len(content))


_KILLED_UPLOAD = """
import os, signal, sys
from pathlib import Path
from service.catalog import uploads

uploads._check_image = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
archive, data_dir = map(Path, sys.argv[1:])
given = {"user": "ann", "sha256": "a" * 64, "data_dir": data_dir, "max_bytes": 2**20}
uploads.register_dataset("birds", archive, **given)
"""


def test_what_a_killed_upload_left_is_deleted_a_day_later(tmp_path: Path) -> None:
    archive, data = zipped(tmp_path / "x.zip", SPLIT), tmp_path / "data"
    ended = subprocess.run([sys.executable, "-c", _KILLED_UPLOAD, archive, data], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert len(list(data.iterdir())) == 1
    now = datetime.now(UTC)
    assert uploads.delete_abandoned(data, now=now + timedelta(hours=23)) == 0
    assert uploads.delete_abandoned(data, now=now + timedelta(hours=25)) == 1
    assert list(data.iterdir()) == []


def test_an_upload_that_takes_days_is_not_abandoned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    deleted = []

    def wait_two_days_at_the_first_image(*_: object) -> None:
        (scratch,) = data.iterdir()
        deleted.append(uploads.delete_abandoned(data, now=datetime.now(UTC)))
        if len(deleted) == 1:
            os.utime(scratch, 2 * (scratch.stat().st_mtime - 2 * 86400,))

    monkeypatch.setattr(uploads, "_check_image", wait_two_days_at_the_first_image)
    assert register(zipped(tmp_path / "x.zip", SPLIT), data).train_images == 6
    assert deleted == 12 * [0]
