"""What the client and the command ask and show of searches."""

import json
from pathlib import Path

import pytest

import resnetd
from tests.client.conftest import Command
from tests.client.fake_searches import SEARCH_ID
from tests.client.fake_service import FakeService

SPEC = {"job": {"depth": 8}, "space": {"recipe.learning_rate": {"loguniform": [0.001, 1]}}}
PATH = f"/v1/searches/{SEARCH_ID}"


@pytest.fixture
def written(tmp_path: Path) -> str:
    file = tmp_path / "search.json"
    file.write_text(json.dumps(SPEC))
    return str(file)


def test_a_search_is_submitted_from_a_spec_and_fields(
    service: FakeService, client: resnetd.Client
) -> None:
    search = client.submit_search(SPEC, seed=3, idempotency_key="once")
    assert (search.id, search.state, search.is_final) == (SEARCH_ID, "queued", False)
    (request,) = service.asked("POST", "/v1/searches")
    assert request.body == SPEC | {"seed": 3}
    assert request.headers["idempotency-key"] == "once"


def test_a_search_that_has_ended_is_waited_for(client: resnetd.Client) -> None:
    search = client.wait_search(SEARCH_ID)
    assert (search.state, search.end_reason) == ("succeeded", "trials")
    assert search.best is not None
    assert search.best[0].values == {"test/error": 4.5}


def test_a_search_is_found_by_the_beginning_of_its_id(client: resnetd.Client) -> None:
    assert client.find_search(SEARCH_ID[:4]).id == SEARCH_ID


def test_trials_importance_and_table_are_read(client: resnetd.Client) -> None:
    assert [trial.number for trial in client.trials(SEARCH_ID)] == [2, 1]
    assert client.importance(SEARCH_ID)["test/error"].shares["shortcut"] == 0.1
    assert client.trials_csv(SEARCH_ID).startswith("trial,job_id\n")


def test_a_search_is_extended_and_deleted(service: FakeService, client: resnetd.Client) -> None:
    client.extend_search(SEARCH_ID, trials=9)
    assert service.asked("POST", f"{PATH}/extend")[0].body == {"trials": 9}
    client.delete_search(SEARCH_ID)
    assert len(service.asked("DELETE", PATH)) == 1


def test_the_command_submits_a_file_with_what_is_set(
    service: FakeService, command: Command, written: str
) -> None:
    assert command("search", "submit", written, "--set", "budget.trials=5") == 0
    assert command.out == f"{SEARCH_ID}\n"
    (request,) = service.asked("POST", "/v1/searches")
    assert request.body == SPEC | {"budget": {"trials": 5}}


def test_watching_tells_each_trial_and_ends_with_the_best(command: Command, written: str) -> None:
    assert command("search", "submit", written, "--watch") == 0
    assert "#1 early-stopped: test/error 60 (recipe.learning_rate=0.001, shortcut=A)" in command.err
    assert "0.0625" in command.out
    assert command("search", "watch", SEARCH_ID) == 0


def test_the_best_trial_is_shown_and_its_weights_saved(
    service: FakeService, command: Command, tmp_path: Path
) -> None:
    service.add_job("0f3k000000000002")
    file = tmp_path / "best.safetensors"
    assert command("search", "best", SEARCH_ID, "--download", str(file)) == 0
    assert "4.5" in command.out
    assert file.stat().st_size > 0
    assert service.asked("GET", "/v1/jobs/0f3k000000000002/checkpoints/newest/weights")


def test_trials_are_a_table_or_lines(command: Command) -> None:
    assert command("search", "trials", SEARCH_ID) == 0
    assert "early-stopped" in command.out
    assert command("search", "trials", SEARCH_ID, "--csv") == 0
    assert command.out.startswith("trial,job_id\n")
    assert command("search", "list") == 0
    assert command("search", "importance", SEARCH_ID) == 0
    assert "90.0 %" in command.out


@pytest.mark.parametrize(
    ("verb", "options", "state"),
    [
        ("pause", (), "paused"),
        ("resume", (), "queued"),
        ("cancel", (), "cancelled"),
        ("extend", ("--trials", "9"), "queued"),
    ],
)
def test_a_search_is_steered(
    command: Command, verb: str, options: tuple[str, ...], state: str
) -> None:
    assert command("search", verb, SEARCH_ID, *options) == 0
    assert command.out == f"{SEARCH_ID} {state}\n"


def test_a_search_is_deleted(service: FakeService, command: Command) -> None:
    assert command("search", "delete", SEARCH_ID) == 0
    assert len(service.asked("DELETE", PATH)) == 1
