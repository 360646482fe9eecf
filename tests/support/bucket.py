"""S3 as moto simulates it, in a process of its own."""

import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpx

from deploy.ray_head import free_ports
from tests.support.fake_api import eventually


class BucketServer:
    """`environment`: the variables of a process that uses its buckets."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._http = httpx.Client(base_url=url, trust_env=False)
        self.environment = {
            "AWS_ENDPOINT": url,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "resnetd",
            "AWS_SECRET_ACCESS_KEY": "secret",
        }

    def has_started(self) -> bool:
        try:
            return self._http.get("/moto-api/data.json").is_success
        except httpx.TransportError:
            return False

    def new_bucket(self) -> str:
        """The URL of an artifact store in it."""
        name = f"bucket-{secrets.token_hex(8)}"
        assert self._http.put(f"/{name}").is_success
        return f"s3://{name}/resnetd"

    def delete_objects(self, store_url: str) -> None:
        """All of the bucket."""
        bucket = urlsplit(store_url).netloc
        for key in self._list(f"/{bucket}", "Key"):
            self._http.delete(f"/{bucket}/{key}")

    def list_unfinished_uploads(self, store_url: str) -> list[str]:
        return self._list(f"/{urlsplit(store_url).netloc}?uploads", "UploadId")

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Refuses the keys of `environment`."""
        self._http.post("/moto-api/reset-auth", content="0")
        try:
            yield
        finally:
            self._http.post("/moto-api/reset-auth", content="inf")

    def close(self) -> None:
        self._http.close()

    def _list(self, path: str, element: str) -> list[str]:
        parts = self._http.get(path).text.split(f"<{element}>")[1:]
        return [part.partition("<")[0] for part in parts]


@contextmanager
def bucket_server() -> Iterator[BucketServer]:
    (port,) = free_ports(1)
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    server = BucketServer(f"http://127.0.0.1:{port}")
    try:
        eventually(server.has_started, within_seconds=60.0)
        yield server
    finally:
        server.close()
        process.kill()
        process.wait()
