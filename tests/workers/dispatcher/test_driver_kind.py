"""Drivers in Ray: submitted once, replaced when they die, stopped when they are late."""

import pytest

from service.errors import ClusterUnavailable
from service.execution import credentials
from service.execution.credentials import CallerKind
from service.states import SearchState
from tests.support.cluster import BACKOFF_SECONDS, FakeCluster, Make, later_round
from tests.support.searching import Searching
from workers.cluster.ray_jobs import ClusterJobState
from workers.dispatcher.dispatcher import Dispatcher


def _driver_of(search_id: str, number: int = 1) -> str:
    return f"search-{search_id}-d{number}"


def _run(searching: Searching, dispatcher: Dispatcher) -> str:
    """A search whose first driver has begun."""
    search_id = searching.submit()
    dispatcher.run_round()
    searching.begin_driver(search_id)
    return search_id


def test_a_new_search_gets_a_driver_at_once_and_only_one(
    searching: Searching, cluster: FakeCluster, make: Make
) -> None:
    first, second = make(), make()
    search_id = searching.submit()
    first.run_round()
    second.run_round()
    assert cluster.started == [_driver_of(search_id)]
    assert cluster.entrypoints == {"python -m workers search"}
    env = cluster.envs[_driver_of(search_id)]
    assert env["RESNETD_DRIVER_ID"] == _driver_of(search_id)
    assert env["RESNETD_DRIVER_TOKEN"]


def test_a_driver_that_died_is_replaced(
    searching: Searching, cluster: FakeCluster, dispatcher: Dispatcher
) -> None:
    search_id = _run(searching, dispatcher)
    cluster.end(_driver_of(search_id), ClusterJobState.FAILED, "killed")
    later_round(searching.core, dispatcher)
    assert cluster.started == [_driver_of(search_id)]
    later_round(searching.core, dispatcher, after_seconds=BACKOFF_SECONDS)
    assert cluster.started == [_driver_of(search_id), _driver_of(search_id, 2)]
    assert list(cluster.jobs) == [_driver_of(search_id, 2)]


def test_a_driver_that_ray_no_longer_knows_is_replaced(
    searching: Searching, cluster: FakeCluster, dispatcher: Dispatcher
) -> None:
    search_id = _run(searching, dispatcher)
    cluster.jobs.clear()
    later_round(searching.core, dispatcher)
    assert len(cluster.started) == 1, "Ray may not list it yet"
    later_round(searching.core, dispatcher, after_seconds=16.0)
    later_round(searching.core, dispatcher, after_seconds=BACKOFF_SECONDS)
    assert cluster.started[-1] == _driver_of(search_id, 2)


def test_another_dispatcher_keeps_the_existing_driver(
    searching: Searching, cluster: FakeCluster, make: Make
) -> None:
    search_id = _run(searching, make())
    later_round(searching.core, make(), after_seconds=60.0)
    assert cluster.started == [_driver_of(search_id)]


def test_a_driver_whose_submission_response_was_lost_is_found_and_not_submitted_again(
    searching: Searching, cluster: FakeCluster, make: Make
) -> None:
    search_id = searching.submit()
    cluster.is_losing_answers = True
    with pytest.raises(ClusterUnavailable, match="got lost"):
        make().run_round()
    cluster.is_losing_answers = False
    later_round(searching.core, make(), after_seconds=61.0)
    assert cluster.submissions == [_driver_of(search_id)]
    _authenticate(searching, cluster, _driver_of(search_id))


def test_a_driver_whose_submission_was_lost_is_submitted_again_after_a_minute(
    searching: Searching, cluster: FakeCluster, dispatcher: Dispatcher
) -> None:
    search_id = searching.submit()
    with cluster.losing_submissions(), pytest.raises(ClusterUnavailable):
        dispatcher.run_round()
    later_round(searching.core, dispatcher, after_seconds=60.0)
    assert cluster.submissions == [], "the submission may be under way"
    later_round(searching.core, dispatcher)
    assert cluster.submissions == [_driver_of(search_id)]
    _authenticate(searching, cluster, _driver_of(search_id))


def test_drivers_behind_a_failed_submission_do_not_wait_for_it(
    searching: Searching, cluster: FakeCluster, dispatcher: Dispatcher
) -> None:
    first, second = searching.submit(), searching.submit()
    with cluster.losing_submissions(), pytest.raises(ClusterUnavailable):
        dispatcher.run_round()
    dispatcher.run_round()
    assert cluster.submissions == [_driver_of(second)]
    searching.command("cancel", first)
    later_round(searching.core, dispatcher, after_seconds=61.0)
    assert searching.row(first).driver_id is None
    assert cluster.submissions == [_driver_of(second)]


def test_a_driver_that_was_not_submitted_yet_ends_with_its_search(
    searching: Searching, cluster: FakeCluster, dispatcher: Dispatcher
) -> None:
    searching.submit()
    second = searching.submit()
    with cluster.losing_submissions(), pytest.raises(ClusterUnavailable):
        dispatcher.run_round()
    searching.command("cancel", second)
    assert searching.row(second).driver_id is None
    searching.delete(second)
    dispatcher.run_round()
    assert cluster.submissions == []


def _authenticate(searching: Searching, cluster: FakeCluster, driver_id: str) -> None:
    """Unauthorized unless the token in the driver's environment is valid."""
    token = cluster.envs[driver_id]["RESNETD_DRIVER_TOKEN"]
    with searching.core.database.reading() as session:
        credentials.authenticate(session, CallerKind.DRIVER, driver_id, token)


def test_a_driver_that_does_not_exit_is_stopped(
    searching: Searching, cluster: FakeCluster, dispatcher: Dispatcher
) -> None:
    search_id = _run(searching, dispatcher)
    searching.command("cancel", search_id)
    later_round(searching.core, dispatcher)
    assert cluster.stops == []
    later_round(searching.core, dispatcher, after_seconds=21.0)
    assert cluster.stops == [_driver_of(search_id)]
    cluster.end(_driver_of(search_id), ClusterJobState.STOPPED)
    later_round(searching.core, dispatcher)
    assert cluster.jobs == {}
    assert searching.row(search_id).driver_id is None


@pytest.mark.parametrize(("has_begun", "patience"), [(False, 181.0), (True, 121.0)])
def test_a_silent_driver_is_stopped_and_replaced(
    searching: Searching,
    cluster: FakeCluster,
    dispatcher: Dispatcher,
    *,
    has_begun: bool,
    patience: float,
) -> None:
    search_id = searching.submit()
    dispatcher.run_round()
    if has_begun:
        searching.begin_driver(search_id)
    later_round(searching.core, dispatcher, after_seconds=patience)
    assert cluster.stops == [_driver_of(search_id)]
    cluster.end(_driver_of(search_id), ClusterJobState.STOPPED)
    later_round(searching.core, dispatcher)
    later_round(searching.core, dispatcher, after_seconds=BACKOFF_SECONDS)
    assert cluster.started[-1] == _driver_of(search_id, 2)


def test_a_search_whose_drivers_all_die_fails_and_gets_no_further_driver(
    searching: Searching, cluster: FakeCluster, dispatcher: Dispatcher
) -> None:
    search_id = searching.submit()
    dispatcher.run_round()
    for number in range(1, 6):
        cluster.end(_driver_of(search_id, number), ClusterJobState.FAILED, "no Ray Tune")
        later_round(searching.core, dispatcher)
        later_round(searching.core, dispatcher, after_seconds=60.0)
    row = searching.row(search_id)
    assert row.state is SearchState.FAILED
    assert "no Ray Tune" in (row.message or "")
    assert len(cluster.started) == 5
