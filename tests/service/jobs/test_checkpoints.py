"""Checkpoints: recorded once, listed, and found by newest, best or id."""

import pytest

from service.errors import InvalidInput, NotFound
from service.jobs import checkpoints
from service.states import CheckpointPart, Reason
from service.storage.tables import CheckpointRow
from tests.support.core import Core, job_id_of, note


def _known(core: Core, job_id: str) -> list[CheckpointRow]:
    with core.database.reading() as session:
        return checkpoints.list_checkpoints(session, job_id)


def _chosen(core: Core, job_id: str, selector: str) -> int:
    with core.database.reading() as session:
        return checkpoints.find_checkpoint(session, job_id, selector).iteration


def test_a_reported_checkpoint_is_listed_and_has_an_event(core: Core) -> None:
    claimed = core.run()
    core.report(claimed.attempt_id, 2, checkpoints=[note(200, test_error=3.5)])
    (checkpoint,) = _known(core, job_id_of(claimed))
    assert (checkpoint.iteration, checkpoint.attempt, checkpoint.test_error) == (200, 1, 3.5)
    event = core.events(job_id_of(claimed))[-1]
    assert event.kind == "checkpoint"
    assert event.data["id"] == checkpoint.id


def test_a_checkpoint_that_is_reported_twice_is_listed_once(core: Core) -> None:
    claimed = core.run()
    for sequence in (2, 2, 3):
        core.report(claimed.attempt_id, sequence, checkpoints=[note(200)])
    assert len(_known(core, job_id_of(claimed))) == 1
    kinds = [event.kind for event in core.events(job_id_of(claimed))]
    assert kinds.count("checkpoint") == 1


def test_a_checkpoint_without_a_required_part_is_refused(core: Core) -> None:
    claimed = core.run()
    with pytest.raises(InvalidInput, match="state, weights"):
        core.report(claimed.attempt_id, 2, checkpoints=[note(200, parts=[CheckpointPart.WEIGHTS])])
    assert _known(core, job_id_of(claimed)) == []
    assert core.attempt(claimed.attempt_id).last_sequence == 1


def test_of_one_iteration_the_checkpoint_of_the_later_attempt_is_newer(core: Core) -> None:
    first = core.run()
    core.report(first.attempt_id, 2, checkpoints=[note(200, test_error=1.0)])
    core.end(first, Reason.CLUSTER_LOST)
    second = core.retry()
    core.report(second.attempt_id, 2, checkpoints=[note(200, test_error=2.0)])
    assert [row.attempt for row in _known(core, job_id_of(first))] == [2, 1]


def test_a_checkpoint_is_found_by_newest_best_or_id(core: Core) -> None:
    claimed = core.run()
    job_id = job_id_of(claimed)
    core.report(claimed.attempt_id, 2, checkpoints=[note(200, test_error=3.0)])
    core.report(claimed.attempt_id, 3, checkpoints=[note(400, test_error=5.0)])
    assert _chosen(core, job_id, "newest") == 400
    assert _chosen(core, job_id, "best") == 200
    assert _chosen(core, job_id, _known(core, job_id)[1].id) == 200


def test_the_earliest_of_equally_good_checkpoints_is_the_best(core: Core) -> None:
    claimed = core.run()
    for sequence, iteration in enumerate((200, 400, 600), start=2):
        core.report(claimed.attempt_id, sequence, checkpoints=[note(iteration, test_error=3.0)])
    assert _chosen(core, job_id_of(claimed), "best") == 200


def test_without_test_errors_the_newest_is_the_best(core: Core) -> None:
    claimed = core.run()
    core.report(claimed.attempt_id, 2, checkpoints=[note(200), note(400)])
    assert _chosen(core, job_id_of(claimed), "best") == 400


@pytest.mark.parametrize("selector", ["newest", "best", "0e3k", "\x00", "../x"])
def test_an_unknown_checkpoint_is_not_found(core: Core, selector: str) -> None:
    job_id = core.submit()
    with pytest.raises(NotFound, match="has no checkpoint yet"):
        _chosen(core, job_id, selector)


def test_a_checkpoint_of_another_job_is_not_found(core: Core) -> None:
    mine, other = core.run(), core.run()
    core.report(mine.attempt_id, 2, checkpoints=[note(200)])
    (checkpoint,) = _known(core, job_id_of(mine))
    with pytest.raises(NotFound):
        _chosen(core, job_id_of(other), checkpoint.id)


def test_artifact_keys_differ_by_attempt_iteration_part_and_content() -> None:
    keys = {
        checkpoints.artifact_key(attempt_id, iteration, part, sha256)
        for attempt_id in ("x-a1", "x-a2")
        for iteration in (1, 10)
        for part in CheckpointPart
        for sha256 in ("0" * 64, "1" * 64)
    }
    assert len(keys) == 2 * 2 * len(CheckpointPart) * 2
