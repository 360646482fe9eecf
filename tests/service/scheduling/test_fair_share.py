"""Fair share: who has used more waits longer, by the points of each person."""

import pytest
from sqlalchemy import select

from service.access import people
from service.jobs import queue_order
from service.scheduling import fair_share
from service.scheduling.queue_status import FairSharePoints, QueueStatus
from service.specs.fair_share import FairShare
from service.states import Reason
from service.storage.tables import JobRow
from tests.support.core import Core, job_id_of, workers


@pytest.fixture(autouse=True)
def _people(core: Core) -> None:
    core.add_person("ann")
    core.add_person("ben")
    core.record_cluster(cpus=2)


def _use(core: Core, user: str, *, hours: float, cpus: int = 2) -> None:
    core.submit(user=user, resources=workers(1, cpus_per_worker=cpus))
    claimed = core.start_next()
    core.clock.advance(3600 * hours)
    core.finish(claimed.attempt_id)
    core.release(claimed)
    core.record_cluster(cpus=2)


def _set(core: Core, *, weight: float, half_life_days: float = 7.0) -> None:
    with core.database.transaction() as session:
        settings = FairShare(weight=weight, half_life_days=half_life_days)
        fair_share.set_fair_share(session, settings, now=core.clock.now)


def _points(core: Core) -> dict[str, int]:
    with core.database.reading() as session:
        return queue_order.read_points(session)


def _explain(core: Core, job_id: str) -> tuple[float, FairSharePoints | None]:
    with core.database.reading() as session:
        status = QueueStatus(session, data_dir=core.data_dir, now=core.clock.now).explain(
            core.job(job_id)
        )
    assert status is not None
    return status.effective_priority, status.fair_share


def test_the_job_of_who_has_used_less_starts_first(core: Core) -> None:
    _use(core, "ann", hours=2)
    of_ann = core.submit(user="ann", resources=workers(2))
    of_ben = core.submit(user="ben", resources=workers(2))
    assert job_id_of(core.claim()) == of_ben
    priority, found = _explain(core, of_ann)
    assert found == FairSharePoints(
        100, "100 points for ann's 3.98 core-hours (100 % of the heaviest user's)"
    )
    assert priority == -50.0


def test_one_person_loses_no_points(core: Core) -> None:
    with core.database.transaction() as session:
        people.remove_person(session, "ben")
    _use(core, "ann", hours=2)
    first, second = (core.submit(user="ann", resources=workers(2)) for _ in range(2))
    assert job_id_of(core.claim()) == first
    assert _explain(core, second)[1] is None
    assert _points(core) == {"ann": 0}


def test_what_runs_counts_and_a_job_that_waits_again_takes_the_new_points(core: Core) -> None:
    core.submit(user="ann")
    running = core.start_next()
    core.report(running.attempt_id, 1)
    core.clock.advance(3600)
    core.record_cluster(cpus=2)
    core.submit(user="ben", resources=workers(2))
    assert core.try_claim() is None
    assert _points(core) == {"ann": 100, "ben": 0}
    job_id = job_id_of(running)
    assert core.job(job_id).fair_share_points == 0
    core.end(running, Reason.WORKER_DIED)
    job = core.job(job_id)
    assert job.fair_share_points == 100
    assert job.queue_sort_key == job.created_at.timestamp() + 50 * 600


def test_time_alone_changes_no_points_and_usage_of_others_does(core: Core) -> None:
    _use(core, "ann", hours=2)
    waiting = [core.submit(user="ann", hold=True) for _ in range(2)]
    core.submit(user="ben", resources=workers(2))
    running = core.start_next()
    assert _points(core) == {"ann": 100, "ben": 0}
    core.finish(running.attempt_id)
    core.release(running)
    core.clock.advance(7 * 86_400)
    _use(core, "ben", hours=2)
    core.submit(user="ben", hold=True)
    core.submit(user="ben")
    core.claim()
    # Ann's 4 core-hours count half, beside 4 of ben's.
    assert _points(core) == {"ann": 50, "ben": 100}
    assert [core.job(job_id).fair_share_points for job_id in waiting] == [50, 50]


def test_a_weight_of_0_ends_it_at_once(core: Core) -> None:
    _use(core, "ann", hours=2)
    job_id = core.submit(user="ann")
    core.submit(user="ben")
    core.claim()
    key = core.job(job_id).queue_sort_key
    _set(core, weight=0)
    assert core.job(job_id).queue_sort_key == key - 100 * 600
    assert core.job(job_id).fair_share_points == 0
    _set(core, weight=10)
    assert core.job(job_id).fair_share_points == 10


def test_points_stay_while_a_waiting_job_is_locked_and_follow_later(core: Core) -> None:
    """So that all jobs of a person lose the same."""
    if core.database.is_sqlite:
        pytest.skip("a transaction locks all rows")
    _use(core, "ann", hours=2)
    locked, other = core.submit(user="ann"), core.submit(user="ann")
    with core.database.transaction() as session:
        session.execute(select(JobRow.id).where(JobRow.id == locked).with_for_update())
        _set(core, weight=10)
        assert _points(core) == {"ann": 0}
        assert core.job(other).fair_share_points == 0
    _set(core, weight=10)
    assert [core.job(job_id).fair_share_points for job_id in (locked, other)] == [10, 10]
