"""Writes weights to disk, complete and verified or not at all."""

import errno
import hashlib
import logging
import os
import secrets
import shlex
from collections.abc import Callable, Mapping
from email.message import Message
from pathlib import Path
from typing import Any

import httpx

from resnetd.api_client import ApiClient, BucketUnreadable
from resnetd.errors import CorruptDownload, UnexpectedResponse

# Called with the bytes received so far and in total; the total is None if it is unknown.
OnProgress = Callable[[int, int | None], None]

_LOGGER = logging.getLogger("resnetd")


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

    A download that breaks continues where it broke, if the file is still the same. The service may
    redirect it to its bucket; it continues with the service if the bucket is not readable.
    CorruptDownload if the bytes do not match the ETag.
    """
    partial = _PartialDownload(path, default_name=default_name, on_progress=on_progress)
    redirected = {**params, "redirect": "true"}

    def receive(params: Mapping[str, Any]) -> Path:
        headers = partial.request_headers()
        with api.stream(url_path, params=params, headers=headers, may_redirect=True) as response:
            if not response.has_redirect_location:
                partial.receive(response)
                return partial.finish()
        headers = partial.request_headers_of_bucket(response)
        with api.stream_bucket(response.headers["Location"], headers) as of_bucket:
            partial.receive(of_bucket, described_by=response)
        return partial.finish()

    def attempt() -> Path:
        try:
            return receive(redirected)
        except BucketUnreadable as error:
            _LOGGER.warning("%s; continuing with the service", error)
            return receive(params)

    try:
        return api.repeat(attempt)
    finally:
        partial.discard()


def require_folder(folder: Path) -> None:
    """FileNotFoundError, which names the folder and not a temporary file in it."""
    if not folder.is_dir():
        message = f"no such folder; create it with: mkdir -p {shlex.quote(str(folder))}"
        raise FileNotFoundError(errno.ENOENT, message, str(folder))


class _PartialDownload:
    """The bytes that were received, in a temporary file beside the target."""

    def __init__(self, path: Path, *, default_name: str, on_progress: OnProgress | None) -> None:
        self._path = path
        self._default_name = default_name
        self._on_progress = on_progress
        self._etag: str | None = None
        self._target = path
        self._part: Path | None = None
        self._written = 0
        self._digest = hashlib.sha256()

    def request_headers(self) -> dict[str, str]:
        # The checksum is that of the stored bytes.
        headers = {"Accept-Encoding": "identity"}
        if self._etag is not None:
            headers |= {"Range": f"bytes={self._written}-", "If-Range": self._etag}
        return headers

    def request_headers_of_bucket(self, response: httpx.Response) -> dict[str, str]:
        """`response`: that redirects. What its URL names never changes."""
        headers = self.request_headers()
        if headers.pop("If-Range", None) != response.headers["ETag"]:
            headers.pop("Range", None)
        return headers

    def receive(
        self, response: httpx.Response, *, described_by: httpx.Response | None = None
    ) -> None:
        """`described_by`: the response with the checksum and the name, if it is another one."""
        if response.status_code != httpx.codes.PARTIAL_CONTENT:
            self._begin(described_by or response)
        assert self._part is not None
        length = response.headers.get("content-length")
        total = None if length is None else self._written + int(length)
        with self._part.open("ab") as file:
            for chunk in response.iter_raw():
                self._digest.update(chunk)
                self._written += file.write(chunk)
                if self._on_progress is not None:
                    self._on_progress(self._written, total)
            file.flush()
            os.fsync(file.fileno())

    def finish(self) -> Path:
        """Moves the file to its target path."""
        assert self._part is not None
        assert self._etag is not None
        received = self._digest.hexdigest()
        expected = _sha256_of(self._etag)
        if received != expected:
            raise CorruptDownload(
                f"{self._target.name}: the bytes have SHA-256 {received}, expected {expected}"
            )
        self._part.replace(self._target)
        return self._target

    def discard(self) -> None:
        if self._part is not None:
            self._part.unlink(missing_ok=True)

    def _begin(self, response: httpx.Response) -> None:
        self.discard()
        self._etag = response.headers.get("etag", "")
        _sha256_of(self._etag)
        name = _file_name(response) or self._default_name
        self._target = self._path / name if self._path.is_dir() else self._path
        require_folder(self._target.parent)
        self._part = self._target.with_name(f".{self._target.name}.{secrets.token_hex(4)}.part")
        self._part.touch(exist_ok=False)
        self._written = 0
        self._digest = hashlib.sha256()


def _sha256_of(etag: str) -> str:
    sha256 = etag.removeprefix("W/").strip('"').removeprefix("sha256:").lower()
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
