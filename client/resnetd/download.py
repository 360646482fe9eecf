"""Weights onto the disk: whole and checked, or not at all."""

import errno
import hashlib
import os
import secrets
from collections.abc import Callable
from email.message import Message
from pathlib import Path

import httpx

from resnetd.errors import DownloadCorrupt, UnexpectedAnswer

# Called with the bytes so far, and with their number in all, None where it is not known.
OnProgress = Callable[[int, int | None], None]


def save(
    response: httpx.Response,
    path: Path | None,
    *,
    default_name: str,
    on_progress: OnProgress | None,
) -> Path:
    """Where the weights lie now.

    `path` may be a file, which is replaced, or a folder; None is the working directory. The
    bytes are written beside it first. DownloadCorrupt where they differ from the ETag.
    """
    expected = _sha256_of(response)
    target = path or Path()
    if target.is_dir():
        target /= _file_name(response) or default_name
    if not target.parent.is_dir():
        # Told of the folder, not of the hidden file that could not be made in it.
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(target.parent))
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        received = _write(response, part, on_progress)
        if received != expected:
            raise DownloadCorrupt(
                f"{target.name}: the bytes have SHA-256 {received}, the server said {expected}"
            )
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return target


def _write(response: httpx.Response, part: Path, on_progress: OnProgress | None) -> str:
    digest = hashlib.sha256()
    total = (
        int(response.headers["content-length"]) if "content-length" in response.headers else None
    )
    written = 0
    with part.open("xb") as file:
        for chunk in response.iter_raw():
            digest.update(chunk)
            written += file.write(chunk)
            if on_progress is not None:
                on_progress(written, total)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _sha256_of(response: httpx.Response) -> str:
    etag = response.headers.get("etag", "")
    sha256 = str(etag).removeprefix("W/").strip('"').removeprefix("sha256:").lower()
    if len(sha256) != hashlib.sha256().digest_size * 2:
        raise UnexpectedAnswer(f"the server sent no checksum with the weights, ETag is {etag!r}")
    return sha256


def _file_name(response: httpx.Response) -> str:
    """As the server suggests it; only its last component, for it must not lead elsewhere."""
    header = Message()
    header["Content-Disposition"] = response.headers.get("content-disposition", "")
    suggested = (header.get_filename() or "").replace("\\", "/")
    name = Path(suggested).name.lstrip(".")
    return name if name.isprintable() else ""
