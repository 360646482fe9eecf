"""Conditions of alerts that time decides: each is reported when it begins, once until it ends."""

import pytest

from service.scheduling import alert_conditions
from service.specs.protocol import Progress
from service.states import AlertCondition, Role
from tests.support.alerts import add_alert, read_reported
from tests.support.core import Core, Taken, make_point, note

MINUTE = 60.0


def _check(core: Core) -> int:
    return alert_conditions.check(core.database, data_dir=core.data_dir, now=core.clock.now)


def _progress(core: Core, running: Taken, sequence: int, iteration: int) -> None:
    progress = Progress(iteration=iteration, iterations=100, images_per_second=9.0)
    core.report(running.attempt_id, sequence, progress=progress)


def test_a_job_that_reports_and_does_not_progress_is_silent_until_it_does(core: Core) -> None:
    running = core.run()
    own = add_alert(core, AlertCondition.SILENT, minutes=5)
    others = [
        add_alert(core, AlertCondition.SILENT, minutes=60),
        add_alert(core, AlertCondition.SILENT, user="bob"),
        add_alert(core, AlertCondition.SILENT, tags=["nightly"]),
    ]
    for sequence, minutes in enumerate((4, 1, 1), start=2):
        core.clock.advance(minutes * MINUTE)
        _progress(core, running, sequence, 10)
        _check(core)
    assert read_reported(core, own) == [], "it has progressed four minutes after its start"
    core.clock.advance(3 * MINUTE)
    assert [_check(core), _check(core)] == [1, 0]
    assert read_reported(core, own) == ["silent"]
    _progress(core, running, 5, 20)
    assert _check(core) == 0
    core.clock.advance(5 * MINUTE)
    assert _check(core) == 1
    assert read_reported(core, own) == ["silent", "silent"]
    core.finish(running.attempt_id)
    assert _check(core) == 0
    assert [read_reported(core, alert_id) for alert_id in others] == [[], [], []]


@pytest.mark.parametrize(
    ("errors", "is_flat"),
    [
        ([9.0, 8.0, 7.0, 6.0], False),
        ([9.0, 5.0, 6.0, 5.0], True),
        ([9.0, 5.0, 6.0, 4.9], False),
        ([5.0, 5.0], False),
        ([5.0, 5.0, 5.0], True),
    ],
)
def test_a_plateau_is_two_evaluations_that_are_not_below_the_lowest_before(
    core: Core, errors: list[float], *, is_flat: bool
) -> None:
    alert_id = add_alert(core, AlertCondition.PLATEAU, evaluations=2)
    running = core.run()
    points = [make_point("test/error", at, error) for at, error in enumerate(errors)]
    core.report(running.attempt_id, 2, metrics=points)
    _check(core)
    assert read_reported(core, alert_id) == ["plateau"] * is_flat


def test_held_out_images_decide_whether_there_is_a_plateau(core: Core) -> None:
    alert_id = add_alert(core, AlertCondition.PLATEAU, evaluations=2)
    running = core.run()
    flat = [make_point("test/error", at, 5.0) for at in range(5)]
    falling = [make_point("validation/error", at, 9.0 - at) for at in range(5)]
    core.report(running.attempt_id, 2, metrics=[*flat, *falling])
    _check(core)
    assert read_reported(core, alert_id) == []


def test_a_quota_is_reported_from_nine_tenths_on(core: Core) -> None:
    core.add_person("root", Role.ADMIN)
    core.set_quota("user:*", waiting=10)
    core.set_quota("tag:nightly", jobs=1)
    core.set_quota("group:course", waiting=100)
    own = add_alert(core, AlertCondition.QUOTA)
    of_tag = add_alert(core, AlertCondition.QUOTA, tags=["nightly"])
    of_all = add_alert(core, AlertCondition.QUOTA, user="root", all_jobs=True)
    for _ in range(8):
        core.submit()
    assert _check(core) == 0
    last = core.submit()
    _check(core)
    assert [read_reported(core, alert_id) for alert_id in (own, of_tag, of_all)] == [
        ["quota"],
        [],
        ["quota"],
    ]
    core.cancel(last)
    _check(core)
    core.submit()
    _check(core)
    assert read_reported(core, own) == ["quota", "quota"], "it had ended"
    core.run(user="bob", tags=["nightly"], priority=100)
    _check(core)
    assert read_reported(core, of_tag) == ["quota"]


def test_a_quota_of_hours_is_reported_while_a_job_uses_them(core: Core) -> None:
    alert_id = add_alert(core, AlertCondition.QUOTA)
    core.set_quota("user:ann", core_hours=1)
    core.run()
    core.clock.advance(53 * MINUTE)
    assert _check(core) == 0
    core.clock.advance(1 * MINUTE)
    assert _check(core) == 1
    assert read_reported(core, alert_id) == ["quota"]


def test_a_quota_of_storage_is_reported_once_checkpoints_use_it(core: Core) -> None:
    alert_id = add_alert(core, AlertCondition.QUOTA)
    size = sum(part.size_bytes for part in note(20).parts)
    core.set_quota("user:ann", stored_bytes=2 * size)
    running = core.run(retention={"keep_newest": 2})
    core.report(running.attempt_id, 2, checkpoints=[note(20)])
    assert _check(core) == 0
    core.report(running.attempt_id, 3, checkpoints=[note(40)])
    assert _check(core) == 1
    assert read_reported(core, alert_id) == ["quota"]


def test_a_queue_is_stuck_when_jobs_wait_and_nothing_runs(core: Core) -> None:
    alert_id = add_alert(core, AlertCondition.QUEUE_STUCK, minutes=5)
    other = add_alert(core, AlertCondition.QUEUE_STUCK, user="bob")
    running = core.run()
    core.submit()
    core.clock.advance(30 * MINUTE)
    assert _check(core) == 0, "a job runs"
    core.finish(running.attempt_id)
    core.release(running)
    core.clock.advance(4 * MINUTE)
    assert _check(core) == 0
    core.clock.advance(1 * MINUTE)
    assert [_check(core), _check(core)] == [1, 0]
    core.start_next()
    assert _check(core) == 0
    assert read_reported(core, alert_id) == ["queue-stuck"]
    assert read_reported(core, other) == []


def test_without_alerts_and_without_a_difference_nothing_is_written(core: Core) -> None:
    """A write would take SQLite's only lock."""
    core.run()
    core.clock.advance(30 * MINUTE)
    with core.database.transaction():
        assert _check(core) == 0
    add_alert(core, AlertCondition.SILENT)
    assert _check(core) == 1
    with core.database.transaction():
        assert _check(core) == 0
