"""Answers of services that are newer or older than this client."""

from datetime import UTC, datetime
from typing import Any

import pytest

import resnetd
from resnetd.decoding import decode

_JOB: dict[str, Any] = {
    "id": "0f3k000000000001",
    "name": "resnet-20-A on digits",
    "network": "resnet-20-A",
    "state": "running",
    "spec": {"depth": 20},
    "created_at": "2026-11-21T12:00:00Z",
}


def test_fields_that_are_missing_have_their_default() -> None:
    job = decode(resnetd.Job, _JOB)
    assert job.created_at == datetime(2026, 11, 21, 12, tzinfo=UTC)
    assert (job.progress, job.attempts, job.stop_requested) == (None, 0, None)


def test_unknown_fields_are_kept_in_the_document() -> None:
    job = decode(
        resnetd.Job,
        _JOB
        | {
            "owner": "me",
            "progress": {"iteration": 1, "iterations": 2, "percent": 50, "phase": "x"},
        },
    )
    assert job.document["owner"] == "me"
    assert job.progress is not None
    assert job.progress.document["phase"] == "x"
    assert job.progress.percent == 50.0


def test_unknown_values_of_enums_are_kept_and_equal_their_text() -> None:
    job = decode(resnetd.Job, _JOB | {"state": "frozen", "reason": "budget-spent"})
    assert job.state == "frozen"
    assert str(job.state) == "frozen"
    assert not job.is_final
    assert job.reason == "budget-spent"
    assert job.state not in set(resnetd.JobState)


def test_whatever_has_finished_is_final() -> None:
    job = decode(resnetd.Job, _JOB | {"state": "gone", "finished_at": "2026-11-21T12:00:00Z"})
    assert job.is_final


def test_known_values_are_the_members() -> None:
    assert decode(resnetd.Job, _JOB).state is resnetd.JobState.RUNNING


def test_records_are_frozen() -> None:
    job = decode(resnetd.Job, _JOB)
    with pytest.raises(AttributeError):
        job.name = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"attempts": "two"}, "attempts is not int, received 'two'"),
        ({"state": 5}, "state is not str, received 5"),
        ({"progress": []}, "progress is not dict"),
        ({"progress": {"iteration": 1}}, "progress.iterations is missing"),
        ({"created_at": None}, "created_at is not str, received None"),
        ({"result": {"test_error": "low"}}, "result.test_error is not number"),
    ],
)
def test_what_does_not_fit_is_told_by_its_place(change: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        decode(resnetd.Job, _JOB | change)
