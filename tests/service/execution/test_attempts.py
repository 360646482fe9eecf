"""Attempts: reports count exactly once, in order; what a new attempt resumes from."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sqlalchemy import delete

from service.errors import NotFound, SequenceGap, StaleAttempt
from service.execution import attempts
from service.jobs import checkpoints, logs, metrics
from service.specs.protocol import LogLine, MetricPoint, Progress, Report, RunEnvironment
from service.states import AttemptState, CheckpointPart, JobState, LogLevel, Reason
from service.storage.tables import CheckpointRow
from tests.support.core import Core, job_id_of, make_point, note

POINT = make_point("loss", 1, 1.0).model_dump(mode="json")


def _loss(iteration: int, value: float | None) -> MetricPoint:
    return make_point(series="train/loss", iteration=iteration, value=value)


def _line(core: Core, message: str) -> LogLine:
    return LogLine(at=core.clock.now, level=LogLevel.INFO, message=message)


def _losses(core: Core, job_id: str) -> dict[int, float | None]:
    with core.database.reading() as session:
        series = metrics.read_series(session, job_id)["train/loss"]
    return dict(zip(series.iterations, series.values, strict=True))


def _lines(core: Core, job_id: str, *, after: int = 0) -> list[str]:
    with core.database.reading() as session:
        return [line.message for line in logs.list_lines_after(session, job_id, after, limit=100)]


def test_the_first_report_makes_job_and_attempt_running(core: Core) -> None:
    claimed = core.start()
    core.clock.advance(5.0)
    core.report(claimed.attempt_id, 1)
    job, attempt = core.job(job_id_of(claimed)), core.attempt(claimed.attempt_id)
    assert job.state is JobState.RUNNING
    assert attempt.state is AttemptState.RUNNING
    assert job.started_at == attempt.started_at == core.clock.now


def test_a_report_is_stored_with_all_that_it_brings(core: Core) -> None:
    claimed = core.start()
    environment = RunEnvironment(
        parameters=7,
        classes=10,
        train_images=1437,
        test_images=360,
        device="cpu",
        num_workers=1,
        host="a\x00b",
        pids=[1],
        versions={"torch\x00": "2"},
    )
    core.report(
        claimed.attempt_id,
        1,
        environment=environment,
        progress=Progress(iteration=3, iterations=9, images_per_second=None),
        metrics=[_loss(3, 0.5)],
        logs=[_line(core, "hello")],
    )
    job = core.job(job_id_of(claimed))
    assert job.environment is not None
    assert job.environment["parameters"] == 7
    assert job.progress == {"iteration": 3, "iterations": 9, "images_per_second": None}
    assert job.latest_metrics == {"train/loss": 0.5}
    assert _lines(core, job.id) == ["hello"]


def test_a_repeated_report_changes_nothing_and_answers_the_same(core: Core) -> None:
    claimed = core.run()
    first = core.report(claimed.attempt_id, 2, metrics=[_loss(1, 0.5)], logs=[_line(core, "once")])
    again = core.report(claimed.attempt_id, 2, metrics=[_loss(1, 0.7)], logs=[_line(core, "once")])
    assert again == first
    assert again.last_sequence == 2
    assert _losses(core, job_id_of(claimed)) == {1: 0.5}
    assert _lines(core, job_id_of(claimed)) == ["once"]


def test_a_report_before_its_predecessor_is_refused_and_leaves_no_trace(core: Core) -> None:
    claimed = core.run()
    core.clock.advance(5.0)
    with pytest.raises(SequenceGap, match="the next is 2"):
        core.report(claimed.attempt_id, 3, logs=[_line(core, "early")])
    assert _lines(core, job_id_of(claimed)) == []
    assert core.attempt(claimed.attempt_id).last_sequence == 1


def test_an_empty_report_is_a_heartbeat(core: Core) -> None:
    claimed = core.run()
    core.clock.advance(5.0)
    core.report(claimed.attempt_id, 2)
    assert core.attempt(claimed.attempt_id).last_report_at == core.clock.now


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sent=st.lists(st.integers(1, 6), max_size=20))
def test_repeated_reports_count_once_and_in_order(core: Core, sent: list[int]) -> None:
    claimed = core.start()
    expected = 0
    for sequence in sent:
        if sequence > expected + 1:
            with pytest.raises(SequenceGap):
                core.report(claimed.attempt_id, sequence, logs=[_line(core, str(sequence))])
            continue
        control = core.report(claimed.attempt_id, sequence, logs=[_line(core, str(sequence))])
        expected = max(expected, sequence)
        assert control.last_sequence == expected
    assert _lines(core, job_id_of(claimed)) == [str(n) for n in range(1, expected + 1)]
    core.end(claimed, Reason.CANCELLED)


def test_log_lines_are_numbered_on_across_attempts(core: Core) -> None:
    first = core.run()
    core.report(first.attempt_id, 2, logs=[_line(core, "a"), _line(core, "b")])
    core.end(first, Reason.WORKER_DIED)
    second = core.retry()
    core.report(second.attempt_id, 2, logs=[_line(core, "c")])
    assert _lines(core, job_id_of(first)) == ["a", "b", "c"]
    assert _lines(core, job_id_of(first), after=2) == ["c"]


def test_the_later_attempts_value_of_an_iteration_counts(core: Core) -> None:
    first = core.run()
    core.report(first.attempt_id, 2, metrics=[_loss(1, 1.0), _loss(2, 0.9)])
    core.end(first, Reason.WORKER_DIED)
    second = core.retry()
    core.report(second.attempt_id, 2, metrics=[_loss(2, 0.8)])
    assert _losses(core, job_id_of(first)) == {1: 1.0, 2: 0.8}


def test_a_stale_attempt_writes_nothing(core: Core) -> None:
    stale = core.run()
    core.end(stale, Reason.HEARTBEAT_TIMEOUT)
    current = core.retry()
    with pytest.raises(StaleAttempt, match="heartbeat-timeout"):
        core.report(stale.attempt_id, 2, metrics=[_loss(1, 1.0)], logs=[_line(core, "late")])
    with pytest.raises(StaleAttempt):
        core.finish(stale.attempt_id)
    with core.database.reading() as session:
        assert metrics.read_series(session, job_id_of(stale)) == {}
    assert _lines(core, job_id_of(stale)) == []
    assert core.attempt(current.attempt_id).state is AttemptState.RUNNING


def test_a_config_has_all_that_an_attempt_needs(core: Core) -> None:
    claimed = core.run(resources={"num_workers": 2, "cpus_per_worker": 3})
    with core.database.transaction() as session:
        brief = attempts.build_config(session, claimed.attempt_id)
    assert (brief.job_id, brief.number) == (job_id_of(claimed), 1)
    assert (brief.num_workers, brief.cpus_per_worker, brief.gpus_per_worker) == (2, 3, 0)
    assert brief.last_sequence == 1
    assert brief.resume is None


@pytest.mark.parametrize("is_claimed", [False, True])
def test_a_config_names_the_iteration_whose_checkpoint_was_lost(
    core: Core, is_claimed: bool
) -> None:
    def delete_checkpoints() -> None:
        with core.database.transaction() as session:
            session.execute(delete(CheckpointRow))

    first = core.run()
    core.report(first.attempt_id, 2, checkpoints=[note(200)])
    core.end(first, Reason.WORKER_DIED)
    if not is_claimed:
        delete_checkpoints()
    second = core.retry()
    with core.database.transaction() as session:
        before = attempts.build_config(session, second.attempt_id).lost_iteration
    if is_claimed:
        assert before is None
        delete_checkpoints()
    with core.database.transaction() as session:
        config = attempts.build_config(session, second.attempt_id)
    assert (config.resume, config.lost_iteration) == (None, 200)


def test_a_stale_attempt_gets_no_config(core: Core) -> None:
    claimed = core.run()
    core.finish(claimed.attempt_id)
    with core.database.transaction() as session, pytest.raises(StaleAttempt):
        attempts.build_config(session, claimed.attempt_id)


def test_a_new_attempt_resumes_from_the_newest_checkpoint(core: Core) -> None:
    first = core.run()
    core.report(first.attempt_id, 2, checkpoints=[note(200, test_error=1.0)])
    core.report(first.attempt_id, 3, checkpoints=[note(400, test_error=9.0)])
    core.end(first, Reason.WORKER_DIED)
    second = core.retry()
    with core.database.transaction() as session:
        resume = attempts.build_config(session, second.attempt_id).resume
        assert resume is not None
        assert attempts.find_resume_checkpoint(session, second.attempt_id).iteration == 400
    assert resume.iteration == 400
    assert {digest.part: digest.sha256 for digest in resume.parts} == {
        digest.part: digest.sha256 for digest in note(400).parts
    }


def test_an_attempt_without_a_checkpoint_starts_from_scratch(core: Core) -> None:
    claimed = core.run()
    with core.database.transaction() as session, pytest.raises(NotFound, match="does not resume"):
        attempts.find_resume_checkpoint(session, claimed.attempt_id)


def test_a_part_that_was_not_stored_is_not_found(core: Core) -> None:
    claimed = core.run()
    core.report(claimed.attempt_id, 2, checkpoints=[note(1)])
    core.end(claimed, Reason.CLUSTER_LOST)
    second = core.retry()
    with core.database.transaction() as session:
        checkpoint = attempts.find_resume_checkpoint(session, second.attempt_id)
    with pytest.raises(NotFound, match="it has state, weights"):
        checkpoints.find_file(session, checkpoint, CheckpointPart.PT)


@pytest.mark.parametrize(
    "fields",
    [
        {"sequence": 0},
        {"sequence": 2**31},
        {"metrics": [POINT | {"series": "Loss"}]},
        {"metrics": [POINT | {"iteration": 2**31}]},
        {"metrics": [POINT | {"value": float("nan")}]},
        {"metrics": [POINT | {"seconds": -1}]},
        {"logs": [{"at": "2026-11-21T12:00:00", "level": "info", "message": "no zone"}]},
        {"logs": [{"at": "0001-01-01T00:00:00+14:00", "level": "info", "message": ""}]},
        {"checkpoints": [{"iteration": 2**31, "test_error": None, "train_error": 1, "parts": []}]},
        {"progress": {"iteration": 1, "iterations": 0, "images_per_second": None}},
    ],
)
def test_a_report_that_no_database_can_store_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Report.model_validate({"sequence": 1} | fields)


def test_a_log_line_from_another_time_zone_keeps_its_instant(core: Core) -> None:
    claimed = core.run()
    at = datetime(2026, 11, 21, 14, 0, tzinfo=timezone(timedelta(hours=2)))
    core.report(claimed.attempt_id, 2, logs=[LogLine(at=at, level=LogLevel.INFO, message="")])
    with core.database.reading() as session:
        (line,) = logs.list_lines_after(session, job_id_of(claimed), 0, limit=10)
    assert line.at == at
    assert line.at.tzinfo is UTC
