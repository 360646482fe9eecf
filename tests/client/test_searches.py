"""Searches: the client and the command."""

import json
from pathlib import Path

import pytest

import resnetd
from resnetd.cli import search_commands
from tests.client import faults
from tests.client.conftest import Command
from tests.client.faults import body_of
from tests.client.service import Service
from tests.support.searching import Searching, search_body


@pytest.fixture(autouse=True)
def _short_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_commands, "_POLL_SECONDS", 0.01)


@pytest.fixture
def spec_path(tmp_path: Path) -> str:
    path = tmp_path / "search.json"
    path.write_text(json.dumps(search_body()))
    return str(path)


@pytest.fixture
def running(service: Service) -> str:
    """The id of a search with two trials, the first of which is better."""
    return service.search(4.5, 60.0)


@pytest.fixture
def finished(searching: Searching, running: str) -> str:
    searching.finish_driver(running)
    return running


def test_a_search_is_submitted_from_a_spec_and_fields(client: resnetd.Client) -> None:
    search = client.searches.submit(search_body(), seed=3, idempotency_key="once")
    assert (search.state, search.is_final, search.spec["seed"]) == ("queued", False, 3)
    again = client.searches.submit(search_body(), seed=3, idempotency_key="once")
    assert again.id == search.id


def test_a_search_is_waited_for(client: resnetd.Client, finished: str) -> None:
    search = client.searches.wait(finished)
    assert (search.state, search.end_reason) == ("succeeded", "trials")
    assert search.used is not None
    assert search.used.trials == 2


def test_waiting_ends_when_the_service_holds_all_trials_that_could_run(
    service: Service, client: resnetd.Client, command: Command, searching: Searching
) -> None:
    search_id = searching.run(budget={"trials": 2, "concurrent": 2})
    held = searching.assign_trial(search_id, "a").job_id
    service.fail_repeatedly(service.run_next())
    with pytest.raises(resnetd.NotFinished):  # another trial may run
        client.searches.wait(search_id, timeout_seconds=0)
    searching.assign_trial(search_id, "b", 0.2)
    other = service.run_next()
    with pytest.raises(resnetd.NotFinished):  # it runs
        client.searches.wait(search_id, timeout_seconds=0)
    other.progress(20, test_error=4.5)
    other.finish()
    with pytest.raises(resnetd.SearchHeld) as caught:
        client.searches.wait(search_id)
    assert [trial.job_id for trial in caught.value.trials] == [held]
    assert command("search", "watch", search_id) == 101
    assert "cannot continue: the service holds its trials" in command.err
    assert f"#1 (job {held}, worker-died)" in command.err


def test_waiting_for_a_search_ends_at_its_timeout(client: resnetd.Client, running: str) -> None:
    with pytest.raises(resnetd.NotFinished, match=f"search {running} is still running"):
        client.searches.wait(running, timeout_seconds=0)


def test_the_command_submits_a_file_with_settings(
    service: Service, command: Command, spec_path: str
) -> None:
    assert command("search", "submit", spec_path, "--set", "budget.trials=5") == 0
    (request,) = service.transport.find("POST", "/v1/searches")
    assert body_of(request) == search_body(budget={"trials": 5, "concurrent": 2})
    assert len(command.out.strip()) == 16


def test_a_watch_prints_each_trial_and_then_the_best(command: Command, finished: str) -> None:
    assert command("search", "watch", finished) == 0
    assert "#2 completed: test/error 60 (recipe.learning_rate=0.002)" in command.err
    assert f"{finished} succeeded" in command.err
    assert "0.001" in command.out
    assert "0.002" not in command.out


def test_the_best_trial_is_shown_and_its_weights_saved(
    command: Command, running: str, tmp_path: Path
) -> None:
    path = tmp_path / "best.safetensors"
    assert command("search", "best", running, "--download", str(path)) == 0
    assert "4.5" in command.out
    assert command.err == f"Saved {path}\n"
    assert path.stat().st_size > 0


def test_a_search_without_a_trial_has_no_best_one(service: Service, command: Command) -> None:
    assert command("search", "best", service.search()) == 101


def test_trials_are_listed_as_table_json_and_csv(command: Command, finished: str) -> None:
    assert command("search", "trials", finished) == 0
    header, best, worst = command.out.splitlines()
    assert header.split() == ["TRIAL", "JOB", "STATE", "TEST/ERROR", "RECIPE.LEARNING_RATE"]
    assert best.split()[2:] == ["completed", "4.5", "0.001"]
    assert worst.split()[3] == "60"
    assert command("search", "trials", finished, "--output", "json") == 0
    assert [trial["rank"] for trial in json.loads(command.out)] == [0, 1]
    assert command("search", "trials", finished, "--csv") == 0
    assert command.out.startswith("trial,job_id,")


def test_searches_are_listed(command: Command, finished: str) -> None:
    assert command("search", "list") == 0
    assert command.out.splitlines()[1].split() == [finished, "search", "succeeded", "trials"]
    assert command("search", "list", "-o", "json") == 0
    assert [search["id"] for search in json.loads(command.out)] == [finished]


def test_importances_are_listed(service: Service, command: Command, finished: str) -> None:
    assert command("search", "importance", finished, "-o", "json") == 0
    assert json.loads(command.out) == {"test/error": {"trials": 2, "shares": {}}}
    shares = {"recipe.learning_rate": 0.9, "shortcut": 0.1}  # to compute them takes seconds
    service.transport.lasting_fault = faults.change_json(
        lambda found: (
            "importance" in found and found["importance"]["test/error"].update(shares=shares)
        )
    )
    assert command("search", "importance", finished) == 0
    assert command.out.splitlines()[1].split() == [
        "test/error",
        "recipe.learning_rate",
        "90.0",
        "%",
    ]


def test_a_search_is_paused_resumed_extended_cancelled_and_deleted(
    command: Command, client: resnetd.Client, searching: Searching, running: str
) -> None:
    for arguments, state in (
        (("pause",), "paused"),
        (("resume",), "queued"),
        (("extend", "--trials", "9"), "queued"),
        (("cancel",), "cancelled"),
    ):
        assert command("search", *arguments, running) == 0
        assert command.out == f"{running} {state}\n"
    assert client.searches.get(running).spec["budget"]["trials"] == 9
    assert command("search", "watch", running) == 103
    searching.terminate_driver(running)
    assert command("search", "delete", running) == 0
    assert command.out == f"{running} deleted\n"
    assert command("search", "trials", running) == 102


def test_the_best_trial_is_confirmed_over_seeds_that_the_search_has_not_seen(
    service: Service, command: Command
) -> None:
    search_id = service.search(4.5, 9.0)
    assert command("search", "confirm", search_id) == 1
    assert "has no best trial" in command.err
    service.core.clock.advance(1.0)
    assert command("search", "cancel", search_id) == 0
    assert command("search", "confirm", search_id, "--seeds", "2") == 0
    study_id = command.out.strip()
    assert command("study", "show", study_id, "-o", "json") == 0
    (best, default) = json.loads(command.out)["members"]
    assert [job["seed"] for job in best["jobs"]] == [1, 2]
    assert len({job["job_id"] for job in best["jobs"] + default["jobs"]}) == 4
    rates = [
        service.api.get(f"/v1/jobs/{member['jobs'][0]['job_id']}").json()["spec"]["recipe"][
            "learning_rate"
        ]
        for member in (best, default)
    ]
    assert rates == [0.001, 0.1]


def test_a_search_is_shown_with_what_it_varies_and_its_best_trial(
    running: str, command: Command
) -> None:
    assert command("search", "show", running[:14]) == 0
    text = " ".join(command.out.split())
    assert "best test/error 4.5 (trial " in text
    assert "space recipe.learning_rate: " in text
    assert "algorithm random" in text
    assert command("search", "show", running, "-o", "json") == 0
    assert json.loads(command.out)["id"] == running
