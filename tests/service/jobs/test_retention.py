"""Retention of checkpoints and records, and the deletion of jobs."""

from datetime import datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from service.errors import Conflict, NotFound
from service.jobs import checkpoints, logs, metrics, retention
from service.scheduling.leases import Claim
from service.settings import RecordRetention
from service.specs.job_spec import Retention
from service.specs.protocol import CheckpointManifest, LogLine
from service.states import LogLevel, Reason
from service.storage.tables import CheckpointRow, JobEventRow
from tests.support.core import START, Core, Taken, job_id_of, make_point, note


def _row(iteration: int, error: float | None = None) -> CheckpointRow:
    return CheckpointRow(id=str(iteration), iteration=iteration, selection_error=error)


def _kept(rows: list[CheckpointRow], **rule: Any) -> set[int]:
    newest_first = sorted(rows, key=lambda row: -row.iteration)
    return {int(row_id) for row_id in retention.select_kept(newest_first, Retention(**rule))}


ROWS = [_row(100, 9.0), _row(200, 4.0), _row(300, 7.0), _row(400, 4.0), _row(500, 8.0)]


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        ({}, {200, 500}),
        ({"keep_best": 0}, {500}),
        ({"keep_best": 2}, {200, 400, 500}),
        ({"keep_newest": 3}, {200, 300, 400, 500}),
        ({"keep_best": 0, "keep_every": 200}, {200, 400, 500}),
        ({"keep_best": 100, "keep_newest": 100}, {100, 200, 300, 400, 500}),
    ],
)
def test_each_retention_keeps_its_checkpoints(rule: dict[str, int], kept: set[int]) -> None:
    assert _kept(ROWS, **rule) == kept


def test_a_checkpoint_without_a_test_error_is_not_the_best() -> None:
    assert _kept([_row(100), _row(200, 5.0), _row(300)]) == {200, 300}


@settings(max_examples=30)
@given(
    errors=st.lists(st.none() | st.floats(0, 100), min_size=1, max_size=12),
    best=st.integers(0, 3),
    newest=st.integers(1, 3),
)
def test_every_retention_keeps_the_newest(
    errors: list[float | None], best: int, newest: int
) -> None:
    rows = [_row(at, error) for at, error in enumerate(errors, start=1)]
    assert len(errors) in _kept(rows, keep_best=best, keep_newest=newest)


def test_the_retention_of_the_spec_applies(core: Core) -> None:
    claimed = core.run(retention={"keep_best": 0, "keep_newest": 2})
    core.report(claimed.attempt_id, 2, checkpoints=[note(100), note(200)])
    applied = core.apply(claimed.attempt_id, 3, checkpoints=[note(300)])
    assert {key.split("/")[2][:9] for key in applied.obsolete_keys} == {"000000100"}


def _list_checkpoints(core: Core, claimed: Taken) -> list[CheckpointRow]:
    with core.database.reading() as session:
        return checkpoints.list_checkpoints(session, job_id_of(claimed))


def _keys(claimed: Taken, manifest: CheckpointManifest) -> list[str]:
    files = checkpoints.files_of_manifest(claimed.attempt_id, manifest)
    return [file.key for file in files.values()]


def test_the_artifacts_of_a_superseded_checkpoint_are_returned(core: Core) -> None:
    claimed = core.run()
    core.report(claimed.attempt_id, 2, checkpoints=[note(200, test_error=3.0)])
    applied = core.apply(claimed.attempt_id, 3, checkpoints=[note(400, test_error=2.0)])
    assert applied.obsolete_keys == sorted(_keys(claimed, note(200)))
    assert [row.iteration for row in _list_checkpoints(core, claimed)] == [400]


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    errors=st.lists(st.one_of(st.none(), st.sampled_from([1.0, 2.0, 3.0])), min_size=1, max_size=8),
    is_one_report=st.booleans(),
)
def test_retention_keeps_the_newest_and_the_best_with_their_artifacts(
    core: Core, errors: list[float | None], is_one_report: bool
) -> None:
    claimed = core.run()
    manifests = [note(number, test_error=error) for number, error in enumerate(errors, start=1)]
    dropped: list[str] = []
    batches = [manifests] if is_one_report else [[manifest] for manifest in manifests]
    for sequence, batch in enumerate(batches, start=2):
        dropped += core.apply(claimed.attempt_id, sequence, checkpoints=batch).obsolete_keys
    kept = _list_checkpoints(core, claimed)
    measured = [error for error in errors if error is not None]
    assert kept[0].iteration == len(errors)
    assert len(kept) <= 2
    if measured:
        assert checkpoints.pick_best(kept).test_error == min(measured)
    used = {file.key for row in kept for file in checkpoints.files_of(row).values()}
    stored = {key for manifest in manifests for key in _keys(claimed, manifest)}
    assert not used & set(dropped)
    assert used | set(dropped) == stored
    core.end(claimed, Reason.CANCELLED)


def _ended(core: Core, *, lines: int = 3) -> Claim:
    claimed = core.run()
    logged = [
        LogLine(at=START, level=LogLevel.INFO, message=str(number)) for number in range(lines)
    ]
    point = make_point(series="train/loss", iteration=1, value=0.5)
    core.report(claimed.attempt_id, 2, logs=logged, metrics=[point])
    core.finish(claimed.attempt_id)
    core.release(claimed)
    return claimed


def _sweep(core: Core, since: datetime | None = None, /, **keep: Any) -> int:
    """The number of jobs with expired records."""
    with core.database.transaction() as session:
        expired = retention.find_expired(
            session, RecordRetention(**keep), since=since, now=core.clock.now
        )
        retention.delete_expired(session, expired)
        return expired.num_jobs


def _left(core: Core, job_id: str) -> tuple[int, int, int]:
    """Log lines, events, metric points."""
    with core.database.reading() as session:
        lines = len(logs.list_lines_after(session, job_id, 0, limit=1000))
        events = session.scalar(select(func.count()).where(JobEventRow.subject_id == job_id))
        return lines, events or 0, len(metrics.read_series(session, job_id))


@pytest.mark.parametrize(
    ("kind", "at"), [("logs_days", 0), ("events_days", 1), ("metrics_days", 2)]
)
def test_expired_records_of_a_final_job_are_deleted(core: Core, kind: str, at: int) -> None:
    job_id = job_id_of(_ended(core))
    before = _left(core, job_id)
    keep = {"logs_days": None} | {kind: 1.0}
    assert _sweep(core, **keep) == 0
    core.clock.advance(86_401.0)
    assert _sweep(core, **keep) == 1
    assert _sweep(core, **keep) == 0
    assert _left(core, job_id) == (*before[:at], 0, *before[at + 1 :])


def test_a_running_job_keeps_all_its_records(core: Core) -> None:
    claimed = core.run()
    core.clock.advance(400 * 86_400.0)
    before = len(core.events(job_id_of(claimed)))
    assert _sweep(core, events_days=1.0) == 0
    assert len(core.events(job_id_of(claimed))) == before


def test_only_the_newest_log_lines_are_kept(core: Core) -> None:
    job_id = job_id_of(_ended(core, lines=10))
    assert _sweep(core, logs_days=None, log_lines=4) == 1
    with core.database.reading() as session:
        left = [line.message for line in logs.list_lines_after(session, job_id, 0, limit=100)]
    assert left == ["6", "7", "8", "9"]
    assert _sweep(core, logs_days=None, log_lines=4) == 0


def test_a_deleted_job_leaves_no_row(core: Core) -> None:
    claimed = _ended(core)
    job_id = job_id_of(claimed)
    with core.database.transaction() as session:
        assert retention.delete_job(session, job_id) == [claimed.attempt_id]
    with pytest.raises(NotFound):
        core.job(job_id)
    assert _left(core, job_id) == (0, 0, 0)


def test_a_job_is_not_deleted_before_its_processes_have_exited(core: Core) -> None:
    claimed = core.run()
    for message in ("is running", "have not exited yet"):
        with pytest.raises(Conflict, match=message), core.database.transaction() as session:
            retention.delete_job(session, job_id_of(claimed))
        if message == "is running":
            core.end(claimed, Reason.DIVERGED)
