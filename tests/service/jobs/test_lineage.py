"""The lineage of a job: ancestors and descendants with the checkpoints between them."""

from typing import Any

from service.jobs import lineage, retention
from service.jobs.lineage import LineageSource
from service.specs.job_spec import StartMode
from tests.support.core import Core, job_id_of, note

RECIPE = {"name": "quick", "iterations": 600}


def _train(core: Core, **fields: Any) -> str:
    """A finished job with checkpoints at 100 (the best) and 200."""
    running = core.run(**{"recipe": RECIPE} | fields)
    manifests = [note(100, test_error=3.0), note(200, test_error=5.0)]
    core.report(running.attempt_id, 2, checkpoints=manifests)
    core.finish(running.attempt_id)
    core.release(running)
    return job_id_of(running)


def _sources(core: Core, job_id: str) -> dict[str, LineageSource | None]:
    with core.database.reading() as session:
        return {job.id: job.source for job in lineage.read_lineage(session, job_id)}


def test_ancestors_come_first_and_descendants_of_all_generations_last(core: Core) -> None:
    first = _train(core)
    sibling = _train(core, start_from={"job": first, "mode": "weights", "checkpoint": "best"})
    second = _train(core, start_from={"job": first, "mode": "weights"})
    third = _train(core, start_from={"job": second, "mode": "weights"})
    fourth = core.submit(recipe=RECIPE, start_from={"job": third})
    alone = core.submit()
    newest = LineageSource(first, 200, StartMode.WEIGHTS)
    chain = {
        first: None,
        second: newest,
        third: LineageSource(second, 200, StartMode.WEIGHTS),
        fourth: LineageSource(third, 200, StartMode.CONTINUE),
    }
    assert _sources(core, second) == chain
    assert list(_sources(core, second)) == [first, second, third, fourth]
    best = LineageSource(first, 100, StartMode.WEIGHTS)
    assert _sources(core, first) == chain | {sibling: best}
    assert _sources(core, alone) == {alone: None}


def test_the_source_stays_known_after_its_job_was_deleted(core: Core) -> None:
    first = _train(core)
    second = _train(core, start_from={"job": first, "mode": "weights"})
    with core.database.transaction() as session:
        retention.delete_job(session, first)
    assert _sources(core, second) == {second: LineageSource(first, 200, StartMode.WEIGHTS)}
