"""Searches on real Ray: interrupted, stopped early, preempted, extended."""

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import resnetd
from deploy.local import LocalService
from deploy.ray_head import RayHead
from tests.support.fake_api import eventually
from tests.support.ray import processes_of

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SEARCH_SECONDS = 240.0
TINY = {"name": "quick", "iterations": 20, "evaluate_every": 10, "checkpoint_every": 20}
RATES = {"recipe.learning_rate": {"loguniform": [0.01, 0.5]}}


def _job(**recipe: Any) -> dict[str, Any]:
    """Two workers, for which a warm runner waits: trials run one after the other."""
    return {
        "depth": 8,
        "shortcut": "A",
        "dataset": "digits",
        "recipe": TINY | recipe,
        "resources": {"num_workers": 2},
    }


def _wait_for_trials(
    client: resnetd.Client, search_id: str, condition: Callable[[list[resnetd.Trial]], bool]
) -> list[resnetd.Trial]:
    """The trials, once the condition holds. Fails at once when the search ends before that."""
    trials: list[resnetd.Trial] = []

    def holds() -> bool:
        trials[:] = client.searches.trials(search_id)
        search = client.searches.get(search_id)
        assert condition(trials) or not search.is_final, f"the search has ended: {search.message}"
        return condition(trials)

    eventually(holds, within_seconds=SEARCH_SECONDS, poll_seconds=0.2)
    return trials


def _wait_for_all_trials(client: resnetd.Client, search_id: str, *, trials: int) -> resnetd.Search:
    """The search, once it has ended well, with each trial completed at its first attempt."""
    search = client.searches.wait(search_id, timeout_seconds=SEARCH_SECONDS, poll_seconds=0.5)
    assert (search.state, search.end_reason) == ("succeeded", "trials"), search.message
    found = client.searches.trials(search_id)
    assert sorted(trial.number for trial in found) == list(range(1, trials + 1))
    assert all(trial.reason == "completed" for trial in found)
    assert all(client.jobs.get(trial.job_id).attempts == 1 for trial in found)
    return search


def test_a_random_search_outlives_its_dispatcher_and_is_extended(
    service: LocalService, client: resnetd.Client, tmp_path: Path
) -> None:
    search = client.searches.submit(
        job=_job(),
        space=RATES | {"shortcut": {"grid": ["A", "none"]}},
        budget={"trials": 2, "concurrent": 2},
    )
    assert search.spec["algorithm"] == "random"
    _wait_for_trials(client, search.id, lambda trials: len(trials) > 0)
    service.stop_process("dispatcher", kill=True)
    service.start_process("dispatcher")
    search = _wait_for_all_trials(client, search.id, trials=2)
    assert search.document["drivers"] == 1, "the driver does not depend on the dispatcher"

    client.searches.extend(search.id, trials=4)
    search = _wait_for_all_trials(client, search.id, trials=4)
    assert search.best is not None
    (best,) = search.best
    errors = [trial.values["validation/error"] for trial in client.searches.trials(search.id)]
    assert best.values["validation/error"] == min(errors)
    weights = client.jobs.download(best.job_id, "newest", path=tmp_path / "best.safetensors")
    assert "layer1.0.conv1.weight" in load_file(weights)
    shortcuts = [trial.params["shortcut"] for trial in client.searches.trials(search.id)]
    assert sorted(shortcuts) == ["A", "A", "none", "none"]
    assert len(client.searches.importance(search.id)["validation/error"].shares) == 2


def test_a_tpe_search_of_two_metrics_over_two_seeds_outlives_its_driver(
    head: RayHead, client: resnetd.Client
) -> None:
    search = client.searches.submit(
        job=_job(),
        space=RATES | {"depth": {"choice": [8, 14]}},
        metric=["test/error", "parameters"],
        repeats=2,
        algorithm="tpe",
        budget={"trials": 4, "concurrent": 2},
    )
    before = _wait_for_trials(
        client, search.id, lambda trials: any(trial.state.is_final for trial in trials)
    )
    for process in processes_of(head, "workers search"):
        process.kill()

    search = _wait_for_all_trials(client, search.id, trials=4)
    assert search.document["drivers"] == 2
    after = {trial.number: trial for trial in client.searches.trials(search.id)}
    assert all(after[trial.number].job_ids == trial.job_ids for trial in before)
    for trial in after.values():
        jobs = [client.jobs.get(job_id) for job_id in trial.job_ids]
        assert [job.spec["seed"] for job in jobs] == [0, 1]
        errors = [job.result.document["test_error"] for job in jobs if job.result is not None]
        assert trial.values["test/error"] == pytest.approx(statistics.fmean(errors))
    rates = {trial.params["recipe.learning_rate"] for trial in after.values()}
    assert len(rates) == 4
    # The trials that no other beats in both metrics.
    assert search.best
    assert all(set(trial.values) == {"test/error", "parameters"} for trial in search.best)


def test_a_preempted_trial_resumes_where_it_stopped_and_asha_stops_a_worse_one(
    client: resnetd.Client,
) -> None:
    search = client.searches.submit(
        job=_job(iterations=300, evaluate_every=20, checkpoint_every=300) | {"preemptible": True},
        # One after the other: the second is compared with the first.
        space={"recipe.learning_rate": {"grid": [0.1, 0.0001]}},
        scheduler={"name": "asha", "reduction_factor": 2},
        budget={"concurrent": 1},
    )
    _wait_for_trials(
        client, search.id, lambda trials: any(trial.iteration > 20 for trial in trials)
    )
    urgent = client.submit(**_job(), priority=90)
    urgent = client.jobs.wait(urgent.id, timeout_seconds=SEARCH_SECONDS)
    assert urgent.state == "succeeded", urgent.message

    search = client.searches.wait(search.id, timeout_seconds=SEARCH_SECONDS, poll_seconds=0.5)
    assert search.state == "succeeded", search.message
    assert search.document["drivers"] == 1
    # The stopped trial may still save its checkpoint.
    eventually(
        lambda: all(trial.state.is_final for trial in client.searches.trials(search.id)),
        poll_seconds=0.2,
    )
    good, bad = sorted(client.searches.trials(search.id), key=lambda trial: trial.number)
    assert (good.params["recipe.learning_rate"], good.reason) == (0.1, "completed")
    assert [attempt.reason for attempt in client.jobs.attempts(good.job_id)] == [
        "preempted",
        "completed",
    ]
    (line,) = (
        line.message
        for line in client.jobs.logs(good.job_id)
        if line.message.startswith("resuming from iteration")
    )
    assert int(line.rsplit(maxsplit=1)[-1]) > 20

    assert (bad.state, bad.reason) == ("cancelled", "early-stopped")
    assert bad.iteration < 300
    assert bad.stop_reason is not None
    assert bad.stop_reason.startswith("stopped by asha at iteration")
    job = client.jobs.get(bad.job_id)
    assert (job.message, job.attempts) == (bad.stop_reason, 1)
