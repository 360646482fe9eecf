"""`GET /metrics`: what it says, what it costs, and that the guide explains it."""

import re
from pathlib import Path

import pytest

from api.monitoring import ServiceMonitor
from api.request_meter import RequestMeter
from service.jobs import retention
from service.scheduling import dispatchers
from service.settings import Settings
from service.states import Reason, Role, TokenScope
from service.storage.artifacts import ArtifactStore
from tests.support.api import Api
from tests.support.core import START, Core, job_id_of, note, workers
from tests.support.prometheus import Scraped, scrape
from tests.support.statements import recorded_statements
from tools.check_prose import REPOSITORY

_GUIDE = REPOSITORY / "docs" / "how-to" / "monitor-the-service.md"
# Of one scrape, the check of the token apart.
_MAX_QUERIES = 20


class Monitored:
    """A monitor of an API process without its HTTP."""

    def __init__(self, core: Core, path: Path) -> None:
        self.core = core
        settings = Settings(var_dir=path)
        artifacts = ArtifactStore(settings.artifacts_url)
        self.monitor = ServiceMonitor(
            settings, core.database, artifacts, RequestMeter(), started_at=core.clock.now
        )

    def scrape(self) -> Scraped:
        with self.core.database.reading() as session:
            return Scraped(self.monitor.render(session, now=self.core.clock.now).decode())


@pytest.fixture
def monitored(core: Core, tmp_path: Path) -> Monitored:
    return Monitored(core, tmp_path)


def test_an_admins_read_token_scrapes_and_no_other(api: Api) -> None:
    reader = api.add_person("prometheus", Role.ADMIN, scope=TokenScope.READ)
    answer = api.get("/metrics", token=reader)
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert api.post("/v1/jobs", {}, token=reader).status_code == 403
    assert api.get("/metrics", token=api.add_person("ann")).status_code == 403
    assert api.get("/metrics", token=None).status_code == 401


def test_a_scrape_shows_the_service(any_api: Api) -> None:
    core = any_api.core
    core.record_cluster(cpus=4)
    core.add_person("ann", group="vision")
    taken = core.start_small(cpus=3)
    core.report(taken.attempt_id, 1)
    core.submit(resources=workers(2))
    core.clock.advance(30.0)
    with core.database.transaction() as session:
        dispatchers.record_heartbeat(session, "one", round_at=START, now=core.clock.now)
    found = scrape(any_api)
    assert found.values("resnetd_queue_waiting_jobs", "reason") == {"resources": 1}
    assert found.value("resnetd_queue_oldest_wait_seconds") == 30.0
    assert found.value("resnetd_group_jobs", group="vision", state="running") == 1
    assert found.value("resnetd_group_jobs", group="vision", state="waiting") == 1
    assert found.values("resnetd_attempts", "state") == {"running": 1}
    assert found.values("resnetd_cluster_cpus", "use") == {"free": 1, "used": 3}
    assert found.values("resnetd_runners", "state") == {"ready": 1}
    assert found.value("resnetd_cluster_nodes") == 1
    assert found.value("resnetd_dispatchers") == 1
    assert found.value("resnetd_dispatcher_round_timestamp_seconds") == START.timestamp()
    assert found.value("resnetd_stored_bytes", kind="database") > 0
    assert found.value("resnetd_disk_free_bytes", directory="artifacts") > 0
    assert found.value("resnetd_api_database_connections", state="in-use") >= 1
    assert found.value("process_resident_memory_bytes") > 0


def test_an_attempt_is_counted_once_whatever_the_number_of_scrapes(
    core: Core, monitored: Monitored
) -> None:
    first = core.run()
    core.finish(first.attempt_id)
    core.release(first)
    before = monitored.scrape()
    core.submit()
    claimed = core.claim()
    core.clock.advance(0.5)
    core.start_runners()
    taken = core.take(claimed)
    monitored.scrape()
    core.clock.advance(0.5)
    first_step = core.clock.now
    core.clock.advance(20.0)
    launch = {"data_ready_at": first_step, "first_step_at": first_step}
    core.report(taken.attempt_id, 1, launch_times=launch)
    monitored.scrape()
    core.clock.advance(20.0)
    core.end(taken, Reason.WORKER_DIED)
    for _ in range(2):
        after = monitored.scrape()
    core.clock.advance(120.0)
    with core.database.transaction() as session:
        retention.delete_job(session, job_id_of(first))
    last = monitored.scrape()

    def differ(name: str, **labels: str) -> list[float]:
        begin = before.value(name, **labels)
        return [found.value(name, **labels) - begin for found in (after, last)]

    assert differ("resnetd_attempts_started_total") == [1, 1]
    died = {"reason": "worker-died", "blame": "infrastructure"}
    assert differ("resnetd_attempts_finished_total", **died) == [1, 1]
    completed = {"reason": "completed", "blame": "none"}
    assert before.value("resnetd_attempts_finished_total", **completed) == 1
    assert differ("resnetd_attempts_finished_total", **completed) == [0, 0]
    assert differ("resnetd_attempt_launch_seconds_count", runner="new") == [1, 1]
    assert differ("resnetd_attempt_launch_seconds_sum", runner="new") == [1.0, 1.0]


def test_an_attempt_on_a_warm_runner_is_a_launch_of_its_own_kind(
    core: Core, monitored: Monitored
) -> None:
    core.record_cluster(cpus=4)
    core.ask(core.start_warm_runner().id)
    core.submit()
    taken = core.start_next()
    core.clock.advance(0.2)
    launch = {"data_ready_at": core.clock.now, "first_step_at": core.clock.now}
    core.report(taken.attempt_id, 1, launch_times=launch)
    found = monitored.scrape()
    assert found.value("resnetd_attempt_launch_seconds_bucket", runner="waiting", le="0.25") == 1
    assert found.value("resnetd_attempt_launch_seconds_count", runner="new") == 0


def test_attempts_that_ended_while_nothing_scraped_are_counted_for_an_hour(
    core: Core, monitored: Monitored
) -> None:
    for seconds in (600.0, 7200.0):
        core.finish(core.run().attempt_id)
        core.clock.advance(seconds)
    core.finish(core.run().attempt_id)
    assert monitored.scrape().value("resnetd_attempts_started_total") == 1


def test_a_scrape_needs_as_many_queries_for_many_rows_as_for_few(
    core: Core, monitored: Monitored
) -> None:
    core.record_cluster(cpus=64)
    for key in ("user:*", "group:*", "tag:*"):
        core.set_quota(key, jobs=1000, core_hours=1e6, stored_bytes=2**40)
    _fill(core, 1)
    monitored.scrape()
    counts = []
    for number in (1, 10):
        _fill(core, number)
        with recorded_statements(core.database) as statements:
            monitored.scrape()
        counts.append(len(statements))
    assert counts[0] == counts[1] <= _MAX_QUERIES


def _fill(core: Core, number: int) -> None:
    """People with groups, each with jobs that run, wait and have ended."""
    for _ in range(number):
        name = f"person-{core.clock.now.timestamp():.0f}"
        core.add_person(name, group=f"group of {name}")
        taken = core.start(user=name, tags=["nightly"])
        core.report(taken.attempt_id, 1, checkpoints=[note(20)])
        core.finish(taken.attempt_id)
        core.release(taken)
        core.start(user=name, tags=["nightly"])
        core.submit(user=name, tags=["nightly"], resources=workers(64), priority=0)


def test_the_bytes_of_checkpoints_are_not_added_up_for_each_scrape(
    core: Core, monitored: Monitored
) -> None:
    taken = core.run()
    core.report(taken.attempt_id, 2, checkpoints=[note(20)])
    stored = {"name": "resnetd_stored_bytes", "kind": "checkpoints"}
    assert monitored.scrape().value(**stored) > 0
    with recorded_statements(core.database) as statements:
        assert monitored.scrape().value(**stored) > 0
    assert not any("checkpoints" in statement for statement in statements)


def test_the_guide_lists_each_metric(monitored: Monitored) -> None:
    rows = re.findall(r"^\| (`resnetd_.*?) \|", _GUIDE.read_text(), re.MULTILINE)
    listed = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    families = monitored.scrape().families
    found = {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in families
        if family.name.startswith("resnetd_")
    }
    assert listed == found
