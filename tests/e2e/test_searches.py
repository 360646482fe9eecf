"""Searches on real Ray: found, stopped early, and finished over the deaths of who runs them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import resnetd
from deploy.local import LocalService
from deploy.ray_head import RayHead
from tests.support.fake_api import eventually
from tests.support.ray import processes_of
from tests.support.services import running_service

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SEARCH_SECONDS = 240.0
TINY = {"name": "quick", "iterations": 20, "evaluate_every": 10, "checkpoint_every": 20}
RATES = {"recipe.learning_rate": {"loguniform": [0.01, 0.5]}}


@pytest.fixture(scope="module")
def service(head: RayHead, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalService]:
    """One for all, with one standby and no more: starting a second takes as long as a search."""
    path = tmp_path_factory.mktemp("service")
    room = {"RESNETD_WARM_RUNNERS": "1", "RESNETD_MAX_CPUS": "1", "RESNETD_MAX_GPUS": "1"}
    with running_service(head, path, **room) as running:
        yield running


def _job(**recipe: Any) -> dict[str, Any]:
    """A trial's, on half of a GPU."""
    return {
        "depth": 8,
        "shortcut": "A",
        "dataset": "digits",
        "recipe": TINY | recipe,
        "resources": {"gpus_per_worker": 0.5},
    }


def _wait_for(
    client: resnetd.Client, search_id: str, is_so: Callable[[list[resnetd.Trial]], bool]
) -> list[resnetd.Trial]:
    """The trials, once that holds of them and the search goes on."""
    found: list[resnetd.Trial] = []

    def look() -> bool:
        found[:] = client.trials(search_id)
        search = client.search(search_id)
        assert is_so(found) or not search.is_final, f"it has ended: {search.message}"
        return is_so(found)

    eventually(look, within_seconds=SEARCH_SECONDS)
    return found


def _by_number(client: resnetd.Client, search_id: str) -> list[resnetd.Trial]:
    return sorted(client.trials(search_id), key=lambda trial: trial.number)


def _assert_whole(client: resnetd.Client, search_id: str, *, trials: int) -> resnetd.Search:
    """It has ended well, and no trial was run twice."""
    search = client.wait_search(search_id, timeout_seconds=SEARCH_SECONDS, poll_seconds=0.2)
    assert (search.state, search.end_reason) == ("succeeded", "trials"), search.message
    found = client.trials(search_id)
    assert sorted(trial.number for trial in found) == list(range(1, trials + 1))
    assert all(trial.reason == "completed" for trial in found)
    assert all(client.job(trial.job_id).attempts == 1 for trial in found)
    return search


def test_a_random_search_goes_on_when_the_dispatcher_is_killed(
    service: LocalService, client: resnetd.Client, tmp_path: Path
) -> None:
    search = client.submit_search(
        job=_job(),
        space=RATES | {"shortcut": {"grid": ["A", "none"]}},
        budget={"trials": 4, "concurrent": 2},
    )
    assert search.spec["algorithm"] == "random"
    _wait_for(client, search.id, lambda trials: len(trials) > 0)
    service.stop_process("dispatcher", kill=True)
    service.start_process("dispatcher")

    search = _assert_whole(client, search.id, trials=4)
    assert search.document["drivers"] == 1, "it did not notice"
    assert search.best is not None
    (best,) = search.best
    errors = [trial.values["test/error"] for trial in client.trials(search.id)]
    assert best.values["test/error"] == min(errors)
    weights = client.download(best.job_id, "newest", path=tmp_path / "best.safetensors")
    assert "layer1.0.conv1.weight" in load_file(weights)
    shortcuts = [trial.params["shortcut"] for trial in client.trials(search.id)]
    assert sorted(shortcuts) == ["A", "A", "none", "none"]
    assert len(client.importance(search.id)["test/error"].shares) == 2

    client.extend_search(search.id, trials=6)
    _assert_whole(client, search.id, trials=6)


def test_a_tpe_search_of_two_metrics_goes_on_when_its_driver_is_killed(
    head: RayHead, client: resnetd.Client
) -> None:
    search = client.submit_search(
        job=_job(),
        space=RATES | {"depth": {"choice": [8, 14]}},
        metric=["test/error", "parameters"],
        algorithm="tpe",
        budget={"trials": 4, "concurrent": 2},
    )
    before = _wait_for(
        client, search.id, lambda trials: any(trial.state.is_final for trial in trials)
    )
    for process in processes_of(head, "workers search"):
        process.kill()

    search = _assert_whole(client, search.id, trials=4)
    assert search.document["drivers"] == 2
    after = {trial.number: trial for trial in client.trials(search.id)}
    assert {(one.number, one.job_id) for one in before} <= {
        (one.number, one.job_id) for one in after.values()
    }
    rates = {trial.params["recipe.learning_rate"] for trial in after.values()}
    assert len(rates) == 4
    # None of these is beaten in both.
    assert search.best
    assert all(set(trial.values) == {"test/error", "parameters"} for trial in search.best)


def test_asha_stops_a_trial_that_is_worse_and_says_why(client: resnetd.Client) -> None:
    search = client.submit_search(
        job=_job(iterations=300, evaluate_every=20, checkpoint_every=300),
        # One after the other: the second is compared with the first.
        space={"recipe.learning_rate": {"grid": [0.1, 0.0001]}},
        scheduler={"name": "asha", "reduction_factor": 2},
        budget={"concurrent": 1},
    )
    search = client.wait_search(search.id, timeout_seconds=SEARCH_SECONDS)
    assert search.state == "succeeded", search.message
    # The stopped one may still save its checkpoint.
    eventually(lambda: all(trial.state.is_final for trial in client.trials(search.id)))
    good, bad = client.trials(search.id)
    assert (good.params["recipe.learning_rate"], good.reason) == (0.1, "completed")
    assert (bad.state, bad.reason) == ("cancelled", "early-stopped")
    assert bad.iteration < 300
    assert bad.stop_reason is not None
    assert bad.stop_reason.startswith("asha stopped it: at iteration")
    assert client.job(bad.job_id).message == bad.stop_reason


def test_a_trial_makes_way_for_a_more_important_job_and_goes_on_where_it_was(
    client: resnetd.Client,
) -> None:
    search = client.submit_search(
        job=_job(iterations=400, evaluate_every=50, checkpoint_every=400) | {"preemptible": True},
        space={"recipe.learning_rate": {"grid": [0.05, 0.1]}},
        budget={"concurrent": 1},
    )
    _wait_for(client, search.id, lambda trials: any(trial.iteration > 20 for trial in trials))
    urgent = client.submit(**_job(), priority=90)
    urgent = client.wait(urgent.id, timeout_seconds=SEARCH_SECONDS)
    assert urgent.state == "succeeded", urgent.message

    search = client.wait_search(search.id, timeout_seconds=SEARCH_SECONDS, poll_seconds=0.2)
    assert search.state == "succeeded", search.message
    first, second = _by_number(client, search.id)
    assert (first.reason, second.reason) == ("completed", "completed")
    assert [one.reason for one in client.attempts(first.job_id)] == ["preempted", "completed"]
    lines = [line.message for line in client.logs(first.job_id)]
    (goes_on,) = (line for line in lines if line.startswith("goes on from iteration"))
    assert int(goes_on.rsplit(maxsplit=1)[-1]) > 20
    assert client.job(second.job_id).attempts == 1
    assert search.document["drivers"] == 1
