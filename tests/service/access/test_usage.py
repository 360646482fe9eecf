"""Usage of people, groups and tags: exactly once, with what runs, whatever is deleted."""

from datetime import timedelta

import pytest

from service.access import usage
from service.errors import QuotaExceeded
from service.jobs import retention
from service.resources import ResourceHours
from service.scheduling.queue_status import QueueStatus
from tests.support.core import START, Core, Taken, job_id_of, workers


def _used(core: Core, *keys: str) -> dict[str, ResourceHours]:
    with core.database.reading() as session:
        found = usage.read_usage(session, keys, now=core.clock.now)
    return {
        key: ResourceHours(round(hours.core_hours, 9), round(hours.gpu_hours, 9))
        for key, hours in found.items()
    }


def _use(core: Core, *, hours: float, cpus: int = 2) -> Taken:
    """A job of ann's that runs for a time, and is then deleted."""
    core.record_cluster(cpus=8)
    claimed = core.start_small(cpus=cpus)
    core.clock.advance(hours * 3600)
    core.finish(claimed.attempt_id)
    core.release(claimed)
    with core.database.transaction() as session:
        retention.delete_job(session, job_id_of(claimed))
    return claimed


def test_an_attempt_counts_from_its_claim_until_its_resources_are_free(core: Core) -> None:
    core.add_person("ann", group="cs101")
    core.record_cluster(cpus=8, gpus=2)
    gang = workers(2, cpus_per_worker=2, gpus_per_worker=1)
    core.submit(user="ann", tags=["nightly"], resources=gang)
    claimed = core.start_next()
    keys = ("user:ann", "group:cs101", "tag:nightly")
    core.clock.advance(1800)
    assert _used(core, *keys, "user:ben") == dict.fromkeys(keys, ResourceHours(2.0, 1.0))
    assert _used(core, "user:ann") == {"user:ann": ResourceHours(2.0, 1.0)}
    core.finish(claimed.attempt_id)
    core.clock.advance(1800)
    core.release(claimed)
    core.clock.advance(7200)
    assert _used(core, *keys) == dict.fromkeys(keys, ResourceHours(4.0, 2.0))
    with core.database.transaction() as session:
        retention.delete_job(session, job_id_of(claimed))
    assert _used(core, *keys) == dict.fromkeys(keys, ResourceHours(4.0, 2.0))


def test_usage_counts_for_seven_days_to_the_hour_and_is_then_deleted(core: Core) -> None:
    _use(core, hours=2.5)
    core.clock.now = START + timedelta(days=7, hours=1)
    (left,) = _used(core, "user:ann").values()
    assert left.core_hours == pytest.approx(1.0, abs=0.01)
    with core.database.transaction() as session:
        usage.delete_old(session, now=core.clock.now)
    assert _used(core, "user:ann") == {"user:ann": left}
    core.clock.advance(3600)
    assert _used(core, "user:ann") == {}


def test_a_submission_beyond_a_quota_of_hours_says_limit_and_use_and_when_it_frees(
    core: Core,
) -> None:
    _use(core, hours=2.5)
    core.set_quota("user:*", core_hours=4)
    with pytest.raises(QuotaExceeded) as refused:
        core.submit()
    assert str(refused.value) == (
        "user:ann has used 5 of 4 core-hours in the last 7 days; "
        "some are free from 2026-11-28 12:00 UTC on"
    )
    core.submit(user="ben")
    core.clock.now = START + timedelta(days=7)
    core.submit()


def test_a_job_waits_while_the_hours_of_its_group_are_used_up(core: Core) -> None:
    core.add_person("ann", group="cs101")
    core.add_person("ben", group="cs101")
    core.record_cluster(cpus=8)
    core.set_quota("group:cs101", core_hours=2)
    running = core.start_small(cpus=1)
    waiting = core.submit(user="ben", resources=workers(8))
    core.clock.advance(7201)
    core.finish(running.attempt_id)
    core.release(running)
    core.record_cluster(cpus=8)
    assert core.try_claim() is None
    with core.database.reading() as session:
        status = QueueStatus(session, data_dir=core.data_dir, now=core.clock.now).explain(
            core.job(waiting)
        )
    assert status is not None
    assert status.code == "limit"
    assert status.message == (
        "group:cs101 has used 2 of 2 core-hours in the last 7 days; "
        "some are free from 2026-11-28 12:00 UTC on"
    )
    core.clock.now = START + timedelta(days=7)
    assert job_id_of(core.claim()) == waiting


def test_gpu_hours_concern_jobs_with_gpus_only(core: Core) -> None:
    core.record_cluster(cpus=8, gpus=1)
    core.set_quota("user:ann", gpu_hours=0)
    with pytest.raises(QuotaExceeded, match=r"used 0 of 0 GPU-hours in the last 7 days$"):
        core.submit(resources=workers(1, gpus_per_worker=1))
    core.submit(resources=workers(1, gpus_per_worker=0))
    core.claim()
