"""Warm start: which checkpoints fit, and that they are kept."""

from pathlib import Path
from typing import Any

import pytest

from service.errors import Conflict, InvalidInput
from service.execution import attempts
from service.jobs import retention
from service.specs.job_spec import StartMode
from service.specs.protocol import ResumeCheckpoint
from service.states import JobState, Reason
from service.storage.tables import CheckpointRow
from tests.support.core import Core, Taken, job_id_of, note

RECIPE = {"name": "quick", "iterations": 600}


def _trained(core: Core, **fields: Any) -> Taken:
    """A job that was cancelled with checkpoints at 100 (the best) and 200."""
    claimed = core.run(**{"recipe": RECIPE} | fields)
    manifests = [note(100, test_error=3.0), note(200, test_error=5.0)]
    core.report(claimed.attempt_id, 2, checkpoints=manifests)
    core.finish(claimed.attempt_id, Reason.CANCELLED)
    core.release(claimed)
    return claimed


def _submit_from(core: Core, source: Taken, **fields: Any) -> str:
    start = {"job": job_id_of(source)} | fields.pop("start", {})
    return core.submit(**{"recipe": RECIPE, "start_from": start} | fields)


def _resume_of(core: Core, claimed: Taken) -> ResumeCheckpoint | None:
    with core.database.transaction() as session:
        return attempts.build_config(session, claimed.attempt_id).resume


def test_a_continued_run_starts_at_the_iteration_of_the_checkpoint(core: Core) -> None:
    source = _trained(core)
    job_id = _submit_from(core, source)
    claimed = core.start_next()
    resume = _resume_of(core, claimed)
    assert resume is not None
    assert (resume.iteration, resume.mode) == (200, StartMode.CONTINUE)
    assert core.attempt(claimed.attempt_id).first_iteration == 200
    saved = core.job(job_id).spec["start_from"]
    assert saved["checkpoint"] == resume.checkpoint_id, "the newest may change"


def test_a_run_from_weights_starts_at_iteration_0(core: Core) -> None:
    source = _trained(core)
    _submit_from(core, source, start={"mode": "weights", "checkpoint": "best"}, seed=7)
    claimed = core.start_next()
    resume = _resume_of(core, claimed)
    assert resume is not None
    assert (resume.iteration, resume.mode) == (100, StartMode.WEIGHTS)
    assert core.attempt(claimed.attempt_id).first_iteration == 0


def test_a_retried_job_resumes_from_its_own_checkpoint(core: Core) -> None:
    source = _trained(core)
    _submit_from(core, source, start={"mode": "weights"})
    first = core.start_next()
    core.report(first.attempt_id, 1)
    core.end(first, Reason.CLUSTER_LOST)
    core.release(first)
    again = core.retry()
    resume = _resume_of(core, again)
    assert resume is not None
    assert (resume.iteration, resume.mode) == (200, StartMode.WEIGHTS), "it had none of its own yet"
    core.report(again.attempt_id, 2, checkpoints=[note(50)])
    core.end(again, Reason.CLUSTER_LOST)
    core.release(again)
    own = _resume_of(core, core.retry())
    assert own is not None
    assert (own.iteration, own.mode) == (50, None)


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"start": {"job": "0" * 16}}, "/start_from/job"),
        ({"start": {"job": "unknown"}}, "/start_from/job"),
        ({"start": {"checkpoint": "oldest"}}, "/start_from/checkpoint"),
        ({"seed": 1}, "/seed"),
        ({"shortcut": "B"}, "/shortcut"),
        ({"recipe": RECIPE | {"learning_rate": 0.05}}, "/recipe/learning_rate"),
        ({"recipe": RECIPE | {"iterations": 200, "milestones": []}}, "/recipe/iterations"),
        ({"recipe": RECIPE | {"milestones": [150, 300]}}, "/recipe/milestones"),
        ({"start": {"mode": "weights"}, "depth": 14}, "/depth"),
        ({"start": {"mode": "weights"}, "dataset": "cifar100"}, "/dataset"),
        (
            {"start": {"mode": "weights"}, "activation_order": "bn-after-addition"},
            "/activation_order",
        ),
        ({"start": {"mode": "weights"}, "survival": 0.5}, "/survival"),
        ({"start": {"mode": "deepen"}}, "/depth"),
        ({"start": {"mode": "deepen"}, "depth": 14, "shortcut": "B"}, "/depth"),
        ({"start": {"mode": "deepen"}, "depth": 14, "dataset": "cifar100"}, "/dataset"),
    ],
)
def test_a_mismatch_is_refused_with_its_pointer(
    core: Core, fields: dict[str, Any], pointer: str
) -> None:
    source = _trained(core)
    with pytest.raises(InvalidInput) as caught:
        _submit_from(core, source, **fields)
    assert [fault.pointer for fault in caught.value.field_errors] == [pointer]


@pytest.mark.parametrize("classes", [2, 10])
def test_the_classes_of_an_image_folder_are_counted(
    core: Core, tmp_path: Path, classes: int
) -> None:
    for number in range(classes):
        (tmp_path / "birds" / "train" / f"species {number}").mkdir(parents=True)
    core.data_dir = tmp_path
    source = _trained(core)
    fields = {"start": {"mode": "weights"}, "dataset": "folder:birds", "family": "cifar"}
    if classes == 10:
        _submit_from(core, source, **fields)
        return
    with pytest.raises(InvalidInput) as caught:
        _submit_from(core, source, **fields)
    (error,) = caught.value.field_errors
    assert (error.pointer, "folder:birds has 2" in error.message) == ("/dataset", True)


def test_a_run_can_be_continued_with_more_iterations_and_later_milestones(core: Core) -> None:
    recipe = RECIPE | {"iterations": 900, "milestones": [300, 800], "checkpoint_every": 50}
    job_id = _submit_from(core, _trained(core), recipe=recipe)
    assert core.job(job_id).state is JobState.QUEUED


def test_a_checkpoint_is_kept_while_an_unfinished_job_starts_from_it(core: Core) -> None:
    source = core.run(recipe=RECIPE)
    core.report(source.attempt_id, 2, checkpoints=[note(100)])
    job_id = _submit_from(core, source)
    core.report(source.attempt_id, 3, checkpoints=[note(200)])
    assert _iterations(core, source) == [200, 100]
    core.cancel(job_id)
    core.report(source.attempt_id, 4, checkpoints=[note(300)])
    assert _iterations(core, source) == [300]


def test_a_job_is_not_deleted_while_an_unfinished_job_starts_from_it(core: Core) -> None:
    source = _trained(core)
    waiting = _submit_from(core, source)
    with core.database.transaction() as session, pytest.raises(Conflict, match=waiting):
        retention.delete_job(session, job_id_of(source))
    core.cancel(waiting)
    with core.database.transaction() as session:
        retention.delete_job(session, job_id_of(source))


def test_a_job_whose_source_checkpoint_was_deleted_fails(core: Core) -> None:
    source = _trained(core)
    job_id = _submit_from(core, source)
    with core.database.transaction() as session:
        for row in session.query(CheckpointRow):
            session.delete(row)
    assert core.try_claim() is None
    job = core.job(job_id)
    assert (job.state, job.reason) == (JobState.FAILED, Reason.INTERNAL)
    assert "starts from, was deleted" in (job.message or "")


def _iterations(core: Core, source: Taken) -> list[int]:
    with core.database.reading() as session:
        rows = session.query(CheckpointRow).filter_by(job_id=job_id_of(source))
        return sorted((row.iteration for row in rows), reverse=True)


def _submit_from_end(core: Core, job_id: str, *, condition: str = "ok", **fields: Any) -> str:
    return core.submit(
        recipe=RECIPE,
        depth=14,
        start_from={"job": job_id, "mode": "deepen"},
        after=[{"job": job_id, "condition": condition}],
        **fields,
    )


def test_a_job_starts_from_the_checkpoint_that_another_one_ends_with(core: Core) -> None:
    source = core.run(recipe=RECIPE, depth=8)
    core.report(source.attempt_id, 2, checkpoints=[note(100, test_error=3.0)])
    waiting = _submit_from_end(core, job_id_of(source))
    held = _submit_from_end(core, job_id_of(source), hold=True, seed=1)
    job = core.job(waiting)
    assert (job.state, job.source_checkpoint_id) == (JobState.BLOCKED, None)
    core.report(source.attempt_id, 3, checkpoints=[note(600, test_error=5.0)])
    core.finish(source.attempt_id)
    core.release(source)
    for job_id, state in ((waiting, JobState.QUEUED), (held, JobState.HELD)):
        job = core.job(job_id)
        assert (job.state, job.source_job_id, job.source_iteration) == (
            state,
            job_id_of(source),
            600,
        )
        assert job.spec["start_from"]["checkpoint"] == job.source_checkpoint_id
    later = _submit_from_end(core, job_id_of(source))
    assert core.job(later).source_checkpoint_id == core.job(waiting).source_checkpoint_id
    assert core.job(later).training_key == core.job(waiting).training_key, "they train the same"
    resume = _resume_of(core, core.start_next())
    assert resume is not None
    assert (resume.iteration, resume.mode) == (600, StartMode.DEEPEN)


def test_a_job_whose_source_ends_without_a_checkpoint_is_cancelled(core: Core) -> None:
    source = core.run(recipe=RECIPE, depth=8)
    waiting = _submit_from_end(core, job_id_of(source), condition="any")
    after = core.submit(after=[waiting])
    core.finish(source.attempt_id, Reason.DIVERGED)
    job = core.job(waiting)
    assert (job.state, job.reason) == (JobState.CANCELLED, Reason.DEPENDENCY_FAILED)
    assert job.message is not None
    assert "ended without a checkpoint" in job.message
    assert core.job(after).state is JobState.CANCELLED


def test_a_network_that_cannot_start_from_the_end_of_another_is_refused(core: Core) -> None:
    source = core.run(recipe=RECIPE, depth=8)
    with pytest.raises(InvalidInput) as caught:
        _submit_from_end(core, job_id_of(source), shortcut="B")
    assert [error.pointer for error in caught.value.field_errors] == ["/depth"]
