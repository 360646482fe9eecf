"""Writes weights to disk, complete and verified or not at all."""

import errno
import hashlib
import os
import secrets
from collections.abc import Callable, Mapping
from email.message import Message
from pathlib import Path
from typing import Any

import httpx

from resnetd.api_client import ApiClient
from resnetd.errors import CorruptDownload, UnexpectedResponse

# Called with the bytes received so far and in total; the total is None if it is unknown.
OnProgress = Callable[[int, int | None], None]


def download(
    api: ApiClient,
    url_path: str,
    params: Mapping[str, Any],
    *,
    path: Path,
    default_name: str,
    on_progress: OnProgress | None,
) -> Path:
    """The path of the file that was written; `path` may be a file, which is replaced, or a folder.

    A download that breaks begins again. CorruptDownload if the bytes do not match the ETag.
    """

    def attempt() -> Path:
        # The checksum is that of the stored bytes.
        headers = {"Accept-Encoding": "identity"}
        with api.stream(url_path, params=params, headers=headers) as response:
            return _save(response, path, default_name=default_name, on_progress=on_progress)

    return api.retry.call(attempt)


def _save(
    response: httpx.Response, path: Path, *, default_name: str, on_progress: OnProgress | None
) -> Path:
    expected = _sha256_of(response)
    target = path / (_file_name(response) or default_name) if path.is_dir() else path
    if not target.parent.is_dir():
        # The error names the folder, not the temporary file.
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(target.parent))
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        received = _write(response, part, on_progress)
        if received != expected:
            raise CorruptDownload(
                f"{target.name}: the bytes have SHA-256 {received}, expected {expected}"
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
        raise UnexpectedResponse(f"the weights came without a checksum: ETag is {etag!r}")
    return sha256


def _file_name(response: httpx.Response) -> str:
    """The name that the service suggests, without folders: it must not lead elsewhere."""
    header = Message()
    header["Content-Disposition"] = response.headers.get("content-disposition", "")
    suggested = (header.get_filename() or "").replace("\\", "/")
    name = Path(suggested).name.lstrip(".")
    return name if name.isprintable() else ""
