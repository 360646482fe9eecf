import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.errors import (
    ApiUnavailable,
    CorruptArtifact,
    InvalidInput,
    SequenceGap,
    StaleAttempt,
    Unauthorized,
)
from service.specs.protocol import FinishAttemptRequest, MetricPoint, PartDigest, Report
from service.states import CheckpointPart, JobState, Reason
from tests.support.fake_api import TOKEN, FakeApi, Fault, digits_brief, fake_api
from workers.reporting.api_client import ApiClient


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with fake_api(digits_brief()) as running:
        yield running


@pytest.fixture
def client(api: FakeApi) -> Iterator[ApiClient]:
    with ApiClient(
        api_url=api.url, attempt_id="job1-a1", token=TOKEN, report_seconds=0.2
    ) as client:
        yield client


def digest_of(content: bytes) -> PartDigest:
    return PartDigest(
        part=CheckpointPart.STATE,
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
    )


def test_the_brief_is_the_attempts(api: FakeApi, client: ApiClient) -> None:
    assert client.brief() == api.attempt


def test_a_report_is_answered_by_the_number_that_is_stored(client: ApiClient) -> None:
    assert client.report(Report(sequence=1)).last_sequence == 1


def test_a_part_arrives_whole(api: FakeApi, client: ApiClient, tmp_path: Path) -> None:
    content = bytes(range(256)) * 10_000
    (tmp_path / "state").write_bytes(content)

    client.upload(iteration=4, digest=digest_of(content), path=tmp_path / "state")

    assert api.parts[4, CheckpointPart.STATE] == content


def test_a_part_that_changed_on_its_way_is_refused(client: ApiClient, tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(b"other")
    with pytest.raises(CorruptArtifact):
        client.upload(iteration=4, digest=digest_of(b"bytes"), path=tmp_path / "state")


def test_what_to_resume_from_comes_whole_or_not_at_all(
    api: FakeApi, client: ApiClient, tmp_path: Path
) -> None:
    api.offer_to_resume(iteration=2, parts={CheckpointPart.STATE: b"bytes"})
    client.download(digest_of(b"bytes"), tmp_path / "state")
    assert (tmp_path / "state").read_bytes() == b"bytes"

    with pytest.raises(CorruptArtifact, match="not"):
        client.download(digest_of(b"other"), tmp_path / "other")
    assert [entry.name for entry in tmp_path.iterdir()] == ["state"]


def test_the_last_word_is_answered_by_the_jobs_state(api: FakeApi, client: ApiClient) -> None:
    assert client.finish(FinishAttemptRequest(reason=Reason.COMPLETED)) is JobState.SUCCEEDED
    assert [finish.reason for finish in api.finishes] == [Reason.COMPLETED]


@pytest.mark.parametrize("fault", [Fault.UNAVAILABLE, Fault.HANGING, Fault.LOSING_ANSWERS])
def test_an_api_in_trouble_is_unavailable(fault: Fault, api: FakeApi, client: ApiClient) -> None:
    api.break_down(fault)
    with pytest.raises(ApiUnavailable):
        client.brief()


def test_an_api_that_is_not_there_is_unavailable(api: FakeApi, client: ApiClient) -> None:
    api.go_away()
    with pytest.raises(ApiUnavailable):
        client.brief()


def test_a_refusal_that_is_not_the_apis_is_unavailable(api: FakeApi, client: ApiClient) -> None:
    """A proxy in the middle of a deployment: its 404 must not end an attempt."""
    api.break_down(Fault.ANOTHER_SERVER)
    with pytest.raises(ApiUnavailable, match="nothing here"):
        client.brief()


def test_refusals_come_by_their_names(api: FakeApi, client: ApiClient) -> None:
    with pytest.raises(SequenceGap):
        client.report(Report(sequence=9))
    api.break_down(Fault.REFUSING_REPORTS)
    points = [MetricPoint(series="train/loss", iteration=1, value=None)]
    with pytest.raises(InvalidInput):
        client.report(Report(sequence=1, metrics=points))
    api.break_down(Fault.STALE)
    with pytest.raises(StaleAttempt):
        client.report(Report(sequence=1))
    with (
        ApiClient(api_url=api.url, attempt_id="job1-a1", token="another") as stranger,
        pytest.raises(Unauthorized),
    ):
        stranger.brief()
