import hashlib
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import httpx
import pytest

from service.errors import (
    ApiUnavailable,
    CannotFit,
    CorruptArtifact,
    InvalidInput,
    Refused,
    ResnetdError,
    SequenceGap,
    StaleAttempt,
    Unauthorized,
)
from service.specs.protocol import (
    AttemptConfig,
    FinishAttemptRequest,
    PartDigest,
    Report,
)
from service.states import CheckpointPart, JobState, Reason
from tests.support.core import make_point
from tests.support.fake_api import TOKEN, FakeApi, Fault, digits_config, fake_api
from workers.reporting import api_client
from workers.reporting.api_client import AttemptClient


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with fake_api(digits_config()) as running:
        yield running


@pytest.fixture
def client(api: FakeApi) -> Iterator[AttemptClient]:
    with AttemptClient(
        api_url=api.url, attempt_id="job1-a1", token=TOKEN, report_seconds=0.2
    ) as client:
        yield client


def digest_of(content: bytes) -> PartDigest:
    return PartDigest(
        part=CheckpointPart.STATE,
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
    )


def test_the_config_is_that_of_the_attempt(api: FakeApi, client: AttemptClient) -> None:
    assert client.fetch_config() == api.attempt


def test_fields_of_a_newer_api_are_ignored() -> None:
    """During an upgrade, a runner of the old version gets attempts of the new API."""
    config = digits_config()
    document = config.model_dump(mode="json") | {"new": 1}
    document["spec"] |= {"new": 1, "recipe": document["spec"]["recipe"] | {"new": {"a": 1}}}
    request = httpx.Request("GET", "http://api/v1/attempts/a")
    response = httpx.Response(HTTPStatus.OK, json=document, request=request)
    assert api_client._parse(AttemptConfig, response) == config


def test_the_response_to_a_report_has_the_last_stored_number(client: AttemptClient) -> None:
    assert client.report(Report(sequence=1)).last_sequence == 1


def test_a_part_arrives_complete(api: FakeApi, client: AttemptClient, tmp_path: Path) -> None:
    content = bytes(range(256)) * 10_000
    (tmp_path / "state").write_bytes(content)

    client.upload(iteration=4, digest=digest_of(content), path=tmp_path / "state")

    assert api.parts[4, CheckpointPart.STATE] == content


def test_a_part_with_another_checksum_is_rejected(client: AttemptClient, tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(b"other")
    with pytest.raises(CorruptArtifact):
        client.upload(iteration=4, digest=digest_of(b"bytes"), path=tmp_path / "state")


def test_a_download_is_complete_or_absent(
    api: FakeApi, client: AttemptClient, tmp_path: Path
) -> None:
    api.set_resume_checkpoint(iteration=2, parts={CheckpointPart.STATE: b"bytes"})
    client.download(digest_of(b"bytes"), tmp_path / "state")
    assert (tmp_path / "state").read_bytes() == b"bytes"

    with pytest.raises(CorruptArtifact, match="not"):
        client.download(digest_of(b"other"), tmp_path / "other")
    assert [entry.name for entry in tmp_path.iterdir()] == ["state"]


def test_a_finish_returns_the_state_of_the_job(api: FakeApi, client: AttemptClient) -> None:
    assert client.finish(FinishAttemptRequest(reason=Reason.COMPLETED)) is JobState.SUCCEEDED
    assert [finish.reason for finish in api.finishes] == [Reason.COMPLETED]


@pytest.mark.parametrize("fault", [Fault.UNAVAILABLE, Fault.HANGING, Fault.LOSING_RESPONSES])
def test_a_failing_api_is_unavailable(fault: Fault, api: FakeApi, client: AttemptClient) -> None:
    api.inject_fault(fault)
    with pytest.raises(ApiUnavailable):
        client.fetch_config()


def test_an_unreachable_api_is_unavailable(api: FakeApi, client: AttemptClient) -> None:
    api.refuse_connections()
    with pytest.raises(ApiUnavailable):
        client.fetch_config()


def test_an_error_of_a_proxy_is_unavailable(api: FakeApi, client: AttemptClient) -> None:
    """During a deployment, a 404 of the proxy must not end an attempt."""
    api.inject_fault(Fault.PROXY_ERROR)
    with pytest.raises(ApiUnavailable, match="nothing here"):
        client.fetch_config()


def test_errors_have_the_class_of_their_code(api: FakeApi, client: AttemptClient) -> None:
    with pytest.raises(SequenceGap):
        client.report(Report(sequence=9))
    api.inject_fault(Fault.REJECTING_REPORTS)
    points = [make_point(series="train/loss", iteration=1, value=None)]
    with pytest.raises(InvalidInput):
        client.report(Report(sequence=1, metrics=points))
    api.inject_fault(Fault.STALE)
    with pytest.raises(StaleAttempt):
        client.report(Report(sequence=1))
    with (
        AttemptClient(api_url=api.url, attempt_id="job1-a1", token="another") as stranger,
        pytest.raises(Unauthorized),
    ):
        stranger.fetch_config()


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (HTTPStatus.UNPROCESSABLE_ENTITY, "cannot-fit", CannotFit),
        (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "code-of-a-newer-api", Refused),
        (HTTPStatus.TOO_MANY_REQUESTS, "too-many-requests", ApiUnavailable),
        (HTTPStatus.INTERNAL_SERVER_ERROR, "internal", ApiUnavailable),
    ],
)
def test_a_4xx_is_an_answer_and_a_5xx_is_none(
    api: FakeApi, client: AttemptClient, status: HTTPStatus, code: str, kind: type[ResnetdError]
) -> None:
    api.rejection = (status, code)
    with pytest.raises(ResnetdError) as caught:
        client.fetch_config()
    assert type(caught.value) is kind
