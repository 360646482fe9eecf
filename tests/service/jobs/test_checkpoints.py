"""Checkpoints: count once, newest and best, and what retention may let go."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.errors import InvalidInput, NotFound
from service.jobs import checkpoints
from service.specs.protocol import CheckpointManifest
from service.states import CheckpointPart, Reason
from service.storage.tables import CheckpointRow
from tests.support.core import Core, Taken, job_id_of, note


def _known(core: Core, job_id: str) -> list[CheckpointRow]:
    with core.database.reading() as session:
        return checkpoints.list_checkpoints(session, job_id)


def _chosen(core: Core, job_id: str, which: str) -> int:
    with core.database.reading() as session:
        return checkpoints.find_checkpoint(session, job_id, which).iteration


def _keys(claimed: Taken, manifest: CheckpointManifest) -> list[str]:
    files = checkpoints.files_of_manifest(claimed.attempt_id, manifest)
    return [file.key for file in files.values()]


def test_a_reported_checkpoint_counts_and_is_told(core: Core) -> None:
    claimed = core.run()
    core.report(claimed.attempt_id, 2, checkpoints=[note(200, test_error=3.5)])
    (checkpoint,) = _known(core, job_id_of(claimed))
    assert (checkpoint.iteration, checkpoint.attempt, checkpoint.test_error) == (200, 1, 3.5)
    told = core.events(job_id_of(claimed))[-1]
    assert told.kind == "checkpoint"
    assert told.data["id"] == checkpoint.id


def test_a_checkpoint_counts_once(core: Core) -> None:
    claimed = core.run()
    for sequence in (2, 2, 3):
        core.report(claimed.attempt_id, sequence, checkpoints=[note(200)])
    assert len(_known(core, job_id_of(claimed))) == 1
    kinds = [event.kind for event in core.events(job_id_of(claimed))]
    assert kinds.count("checkpoint") == 1


def test_a_checkpoint_that_nothing_can_resume_from_is_refused(core: Core) -> None:
    claimed = core.run()
    with pytest.raises(InvalidInput, match="state, weights"):
        core.report(claimed.attempt_id, 2, checkpoints=[note(200, parts=[CheckpointPart.WEIGHTS])])
    assert _known(core, job_id_of(claimed)) == []
    assert core.attempt(claimed.attempt_id).last_sequence == 1


def test_of_one_iteration_the_later_attempts_checkpoint_is_newer(core: Core) -> None:
    first = core.run()
    core.report(first.attempt_id, 2, checkpoints=[note(200, test_error=1.0)])
    core.end(first, Reason.CLUSTER_LOST)
    second = core.retry()
    core.report(second.attempt_id, 2, checkpoints=[note(200, test_error=2.0)])
    assert [row.attempt for row in _known(core, job_id_of(first))] == [2, 1]


def test_newest_best_and_an_id_are_found(core: Core) -> None:
    claimed = core.run()
    job_id = job_id_of(claimed)
    core.report(claimed.attempt_id, 2, checkpoints=[note(200, test_error=3.0)])
    core.report(claimed.attempt_id, 3, checkpoints=[note(400, test_error=5.0)])
    assert _chosen(core, job_id, "newest") == 400
    assert _chosen(core, job_id, "best") == 200
    assert _chosen(core, job_id, _known(core, job_id)[1].id) == 200


def test_the_best_of_equals_is_the_earliest(core: Core) -> None:
    claimed = core.run()
    for sequence, iteration in enumerate((200, 400, 600), start=2):
        core.report(claimed.attempt_id, sequence, checkpoints=[note(iteration, test_error=3.0)])
    assert _chosen(core, job_id_of(claimed), "best") == 200


def test_where_nothing_was_measured_the_newest_is_the_best(core: Core) -> None:
    claimed = core.run()
    core.report(claimed.attempt_id, 2, checkpoints=[note(200), note(400)])
    assert _chosen(core, job_id_of(claimed), "best") == 400


@pytest.mark.parametrize("which", ["newest", "best", "0e3k", "\x00", "../x"])
def test_a_checkpoint_that_is_not_there_is_not_found(core: Core, which: str) -> None:
    job_id = core.submit()
    with pytest.raises(NotFound, match="it has 0"):
        _chosen(core, job_id, which)


def test_a_checkpoint_of_another_job_is_not_found(core: Core) -> None:
    mine, other = core.run(), core.run()
    core.report(mine.attempt_id, 2, checkpoints=[note(200)])
    (checkpoint,) = _known(core, job_id_of(mine))
    with pytest.raises(NotFound):
        _chosen(core, job_id_of(other), checkpoint.id)


def test_the_keys_of_a_superseded_checkpoint_are_returned_once_it_is_forgotten(core: Core) -> None:
    claimed = core.run()
    core.report(claimed.attempt_id, 2, checkpoints=[note(200, test_error=3.0)])
    applied = core.apply(claimed.attempt_id, 3, checkpoints=[note(400, test_error=2.0)])
    assert applied.obsolete_keys == sorted(_keys(claimed, note(200)))
    assert [row.iteration for row in _known(core, job_id_of(claimed))] == [400]


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    errors=st.lists(st.one_of(st.none(), st.sampled_from([1.0, 2.0, 3.0])), min_size=1, max_size=8),
    is_one_report=st.booleans(),
)
def test_retention_keeps_the_newest_and_the_best_and_no_key_that_they_use(
    core: Core, errors: list[float | None], is_one_report: bool
) -> None:
    claimed = core.run()
    notes = [note(number, test_error=error) for number, error in enumerate(errors, start=1)]
    dropped: list[str] = []
    batches = [notes] if is_one_report else [[one] for one in notes]
    for sequence, batch in enumerate(batches, start=2):
        dropped += core.apply(claimed.attempt_id, sequence, checkpoints=batch).obsolete_keys
    kept = _known(core, job_id_of(claimed))
    measured = [error for error in errors if error is not None]
    assert kept[0].iteration == len(errors)
    assert len(kept) <= 2
    if measured:
        assert checkpoints.pick_best(kept).test_error == min(measured)
    used = {file.key for row in kept for file in checkpoints.files_of(row).values()}
    stored = {key for manifest in notes for key in _keys(claimed, manifest)}
    assert not used & set(dropped)
    assert used | set(dropped) == stored
    core.end(claimed, Reason.CANCELLED)


def test_no_two_attempts_and_no_two_contents_share_a_key() -> None:
    keys = {
        checkpoints.artifact_key(attempt_id, iteration, part, sha256)
        for attempt_id in ("x-a1", "x-a2")
        for iteration in (1, 10)
        for part in CheckpointPart
        for sha256 in ("0" * 64, "1" * 64)
    }
    assert len(keys) == 2 * 2 * len(CheckpointPart) * 2
