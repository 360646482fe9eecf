"""The service with its artifacts in S3: uploads in parts, direct downloads, moves, refused keys."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

import resnetd
from api.__main__ import check_dependencies
from service import __main__ as command
from service import settings
from service.errors import CorruptArtifact, Unavailable
from service.jobs import consistency
from service.specs.protocol import CheckpointManifest, PartDigest
from service.states import CheckpointPart, Reason
from service.storage.artifacts import ArtifactStore
from service.storage.database import Database
from tests.support.api import TOKEN, Api, serving
from tests.support.bucket import BucketServer
from tests.support.core import Core, Taken, content, job_id_of, store_checkpoint
from tests.support.fake_api import eventually
from workers.reporting.api_client import AttemptClient

# More than a part of S3 must have at least, and than the least that is downloaded directly.
LARGE = bytes(range(256)) * (9 * 2**12)
SHA256 = hashlib.sha256(LARGE).hexdigest()
WEIGHTS = PartDigest(part=CheckpointPart.WEIGHTS, sha256=SHA256, size_bytes=len(LARGE))


@pytest.fixture(autouse=True)
def _keys(buckets: BucketServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in buckets.environment.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def bucket_url(buckets: BucketServer) -> str:
    return buckets.new_bucket()


@pytest.fixture
def bucket(bucket_url: str) -> ArtifactStore:
    return ArtifactStore(bucket_url)


@pytest.fixture
def database_url(tmp_path: Path, migrated_sqlite: Path) -> str:
    path = tmp_path / "resnetd.db"
    path.write_bytes(migrated_sqlite.read_bytes())
    return f"sqlite:///{path}"


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with closing(Database(database_url)) as opened:
        yield opened


@pytest.fixture
def api(core: Core, database_url: str, bucket_url: str, tmp_path: Path) -> Iterator[Api]:
    with serving(
        core, database_url, tmp_path, artifacts_url=bucket_url, presigned_url_seconds=60
    ) as served:
        yield served


def _write(store: ArtifactStore, key: str, content: bytes, *, sha256: str = SHA256) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(content), 2**20):
            yield content[start : start + 2**20]

    asyncio.run(store.write(key, chunks(), sha256=sha256, max_bytes=10**9))


def _keep_large(api: Api, claimed: Taken) -> None:
    """A checkpoint with large weights."""
    state = content(CheckpointPart.STATE, 10)
    manifest = CheckpointManifest(
        iteration=10,
        test_error=5.0,
        selection_error=5.0,
        train_error=None,
        parts=[
            WEIGHTS,
            PartDigest(
                part=CheckpointPart.STATE,
                sha256=hashlib.sha256(state).hexdigest(),
                size_bytes=len(state),
            ),
        ],
    )
    for digest, body in zip(manifest.parts, (LARGE, state), strict=True):
        path = f"/checkpoints/10/{digest.part}"
        headers = {"X-Content-SHA256": digest.sha256}
        sent = api.attempt(claimed, "PUT", path, content=body, headers=headers)
        assert sent.status_code == 201, sent.text
    reported = api.report(claimed, 2, checkpoints=[manifest.model_dump(mode="json")])
    assert reported.status_code == 200, reported.text


def test_a_large_artifact_is_stored_in_parts_or_not_at_all(
    buckets: BucketServer, bucket_url: str, bucket: ArtifactStore
) -> None:
    with pytest.raises(CorruptArtifact):
        _write(bucket, "a/b", LARGE + b"more")
    assert bucket.size("a/b") is None
    assert buckets.list_unfinished_uploads(bucket_url) == []
    _write(bucket, "a/b", LARGE)
    assert hashlib.sha256(b"".join(bucket.read("a/b"))).hexdigest() == SHA256
    assert b"".join(bucket.read("a/b", range(7, 14))) == LARGE[7:14]
    bucket.delete(["no/such", "a/b"])
    assert list(bucket.list_prefix("a")) == []


class _Recorder(httpx.HTTPTransport):
    """The URLs of requests without their queries. `broken`: of a host that does not respond."""

    def __init__(self, *, broken: str = "") -> None:
        super().__init__()
        self.requests: list[str] = []
        self._broken = broken

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url = f"{request.url.scheme}://{request.url.netloc.decode()}"
        self.requests.append(url)
        if url == self._broken:
            raise httpx.ConnectTimeout("no route")
        assert ("Authorization" in request.headers) == ("X-Amz-Signature" not in str(request.url))
        return super().handle_request(request)


def test_large_weights_are_downloaded_from_the_bucket_without_the_api(
    api: Api, core: Core, buckets: BucketServer, tmp_path: Path
) -> None:
    claimed = core.run()
    _keep_large(api, claimed)

    def download(transport: _Recorder) -> list[str]:
        with resnetd.Client(url=api.url, token=TOKEN, transport=transport) as client:
            path = client.jobs.download(job_id_of(claimed), path=tmp_path)
        assert path.name == f"resnet-8-A-digits-{job_id_of(claimed)}-10.safetensors"
        assert hashlib.sha256(path.read_bytes()).hexdigest() == SHA256
        return transport.requests

    assert download(_Recorder()) == [api.url, buckets.url]
    # Where the bucket is not reachable, the API sends the bytes.
    assert download(_Recorder(broken=buckets.url)) == [api.url, buckets.url, api.url]

    weights = f"/v1/jobs/{job_id_of(claimed)}/checkpoints/best/weights"
    assert api.get(weights).content == LARGE  # a browser does not ask for a redirect
    redirect = api.get(weights, params={"redirect": "true"})
    assert (redirect.status_code, redirect.headers["ETag"]) == (307, f'"{SHA256}"')
    part = httpx.get(redirect.headers["Location"], headers={"Range": "bytes=7-13"})
    assert (part.status_code, part.content) == (206, LARGE[7:14])

    # The next attempt resumes in the same way.
    core.end(claimed, Reason.WORKER_DIED)
    resumed = core.retry()
    with AttemptClient(
        api_url=api.url, attempt_id=resumed.attempt_id, token=resumed.secret
    ) as training:
        training.download(WEIGHTS, tmp_path / "weights")
        assert (tmp_path / "weights").read_bytes() == LARGE
        with buckets.refusing(), pytest.raises(Unavailable, match="it refuses the credentials"):
            training.download(WEIGHTS, tmp_path / "weights")

    # What no checkpoint refers to is deleted with the job, and by the hourly collection.
    bucket = ArtifactStore(api.settings.artifacts_url)
    core.end(resumed, Reason.DIVERGED)
    core.release(claimed)
    core.release(resumed)
    deleted = api.call("DELETE", f"/v1/jobs/{job_id_of(claimed)}")
    assert deleted.status_code == 204, deleted.text
    eventually(lambda: list(bucket.list_prefix("checkpoints")) == [])
    _write(bucket, "checkpoints/lost-a1/000000001-weights", LARGE)
    later = datetime.now(UTC) + timedelta(hours=2)
    assert consistency.delete_orphans(core.database, bucket, now=later) == 1


def test_artifacts_move_to_a_bucket_and_back_and_survive_its_loss(
    core: Core,
    buckets: BucketServer,
    bucket_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(*arguments: str, store: str) -> int:
        monkeypatch.setenv("RESNETD_ARTIFACTS_URL", store)
        return command.main(list(arguments))

    monkeypatch.setenv("RESNETD_VAR_DIR", str(tmp_path))
    folder = (tmp_path / "artifacts").as_uri()
    claimed = core.run()
    stored = store_checkpoint(ArtifactStore(folder), claimed, 40)
    core.report(claimed.attempt_id, 2, checkpoints=[stored])
    keys = [found.key for found in ArtifactStore(folder).list_prefix("")]

    assert run("migrate-artifacts", bucket_url, store=folder) == 0
    assert run("fsck", store=bucket_url) == 0
    assert run("backup", str(tmp_path / "backup"), store=bucket_url) == 0

    back = (tmp_path / "back").as_uri()
    assert run("migrate-artifacts", back, store=bucket_url) == 0
    assert [found.key for found in ArtifactStore(back).list_prefix("")] == keys

    buckets.delete_objects(bucket_url)
    assert run("fsck", store=bucket_url) == 1
    monkeypatch.setenv("RESNETD_DATABASE_URL", f"sqlite:///{tmp_path / 'new.db'}")
    assert run("restore", str(tmp_path / "backup"), store=bucket_url) == 0
    assert run("fsck", store=bucket_url) == 0


def test_refused_keys_and_a_missing_bucket_are_named_before_anything_is_lost(
    core: Core,
    bucket_url: str,
    buckets: BucketServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RESNETD_VAR_DIR", str(tmp_path))
    monkeypatch.setenv("RESNETD_ARTIFACTS_URL", bucket_url)
    check_dependencies(settings.load())
    with buckets.refusing(), pytest.raises(Unavailable) as refused:
        check_dependencies(settings.load())
    assert str(refused.value) == (
        f"the artifact store {bucket_url} cannot be used: "
        "it refuses the credentials of this process, or they do not permit this"
    )

    claimed = core.run()
    stored = store_checkpoint(ArtifactStore(bucket_url), claimed, 40)
    core.report(claimed.attempt_id, 2, checkpoints=[stored])
    monkeypatch.setenv("RESNETD_ARTIFACTS_URL", "s3://no-such-bucket/resnetd")
    capsys.readouterr()
    assert command.main(["fsck", "--repair"]) == 1
    message = capsys.readouterr().err
    assert "the artifact store s3://no-such-bucket/resnetd cannot be used: " in message
    assert message.count("\n") == 1
    with pytest.raises(Unavailable, match=r"404 Not Found$"):
        _write(ArtifactStore("s3://no-such-bucket/resnetd"), "a/b", LARGE)
    monkeypatch.setenv("RESNETD_ARTIFACTS_URL", bucket_url)
    assert command.main(["fsck"]) == 0
