"""The command: what it prints where, and its exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from resnetd import cli
from tests.client.conftest import Command
from tests.client.fake_service import TOKEN, FakeService
from tests.client.misbehaviour import WEIGHTS

SUBMIT = ("submit", "--depth", "20", "--shortcut", "A", "--dataset", "digits")


def test_submit_prints_the_id_and_how_to_watch(service: FakeService, command: Command) -> None:
    assert command(*SUBMIT) == 0
    (job_id,) = service.jobs
    assert command.out == f"{job_id}\n"
    assert f"resnetd watch {job_id}" in command.err


def test_submit_sends_what_was_written_and_nothing_else(
    service: FakeService, command: Command, tmp_path: Path
) -> None:
    file = tmp_path / "spec.json"
    file.write_text('{"depth": 56, "shortcut": "A", "dataset": "digits", "recipe": "quick"}')
    options = ["--file", str(file), "--depth", "20", "--set", "recipe.iterations=100"]
    options += ["--workers", "2", "--seed", "7", "--priority", "90", "--name", "mine"]
    options += ["--tag", "a", "--tag", "b", "--idempotency-key", "k", "--set", "max_restarts=0"]
    assert command("submit", *options) == 0
    (request,) = service.asked("POST", "/v1/jobs")
    assert request.headers["idempotency-key"] == "k"
    assert request.body == {
        "depth": 20,
        "shortcut": "A",
        "dataset": "digits",
        "recipe": {"name": "quick", "iterations": 100},
        "resources": {"num_workers": 2},
        "seed": 7,
        "priority": 90,
        "name": "mine",
        "tags": ["a", "b"],
        "max_restarts": 0,
    }


def test_submit_begins_with_the_checkpoint_of_a_job_that_is_named_by_its_beginning(
    service: FakeService, command: Command
) -> None:
    assert command(*SUBMIT) == 0
    (job_id,) = service.jobs
    for written, fields in (
        (job_id[:12], {}),
        (f"{job_id}:best:deepen", {"checkpoint": "best", "mode": "deepen"}),
    ):
        assert command(*SUBMIT, "--start-from", written) == 0
        *_, request = service.asked("POST", "/v1/jobs")
        assert request.body["start_from"] == {"job": job_id} | fields
    assert command(*SUBMIT, "--start-from", f"{job_id}::deepen") == 2
    assert "write it as JOB:best:weights" in command.err


def test_a_refused_spec_is_a_line_for_each_wrong_place(command: Command) -> None:
    assert command("submit", "--depth", "33") == 2
    assert command.out == ""
    assert command.err == (
        "depth: must be 6n+2 for a cifar network; nearest: 32 and 38; received 33\n"
        "recipe.batch_size: is too small\n"
    )


@pytest.mark.parametrize(
    "options",
    [
        ["--set", "seed"],
        ["--file", "nowhere.json"],
        ["--depth", "deep"],
        ["--idempotency-key", "\n"],
        ["--no-such-option"],
        ["-o", "xml"],
    ],
)
def test_wrong_options_are_refused_before_anything_is_sent(
    service: FakeService, command: Command, options: list[str]
) -> None:
    assert command("submit", *options) == 2
    assert command.out == ""
    assert "Traceback" not in command.err
    assert service.requests == []


def test_ps_lists_the_newest_jobs(service: FakeService, command: Command) -> None:
    service.add_job("0f3k000000000001", name="[red]not markup[/red]")
    running = service.add_job("0f3k000000000002")
    service.move(running, "running")
    service.progress(running, 300)
    assert command("ps", "--limit", "1") == 0
    header, row = command.out.splitlines()
    assert header.split() == ["ID", "NAME", "STATE", "DONE", "ERROR", "AGE"]
    assert row.startswith("0f3k000000000002  resnet-20-A on digits  running  50 %")
    assert "12.00 %" in row
    assert "--all" in command.err
    assert command("ps", "--all") == 0
    assert "[red]not markup[/red]" in command.out


def test_ps_filters(service: FakeService, command: Command) -> None:
    service.add_job()
    assert command("ps", "--state", "running", "--state", "queued", "--tag", "t", "-o", "json") == 0
    assert [job["id"] for job in json.loads(command.out)] == ["0f3k000000000001"]
    assert service.requests[0].query["state"] == ["running", "queued"]


def test_show_tells_a_job_with_attempts_and_checkpoints(
    service: FakeService, command: Command
) -> None:
    job_id = service.add_job()
    service.move(job_id, "failed", "dataset-missing", message="no folder /data/digits")
    assert command("show", job_id[:5]) == 0
    assert "failed: dataset-missing: no folder /data/digits" in command.out
    assert "c000000000000001" in command.out
    assert "2.50 %" in command.out


def test_json_is_the_services_own_document(service: FakeService, command: Command) -> None:
    job_id = service.add_job(field_of_tomorrow=1)
    assert command("show", job_id, "-o", "json") == 0
    assert json.loads(command.out) == service.jobs[job_id]
    assert command.err == ""


def test_an_ambiguous_id_lists_the_candidates(service: FakeService, command: Command) -> None:
    service.add_job("0f3k000000000001")
    service.add_job("0f3k000000000002")
    assert command("show", "0f3k") == 2
    assert "0f3k000000000001" in command.err
    assert "0f3k000000000002" in command.err


def test_an_unknown_job_is_not_found(command: Command) -> None:
    assert command("show", "0f3k") == 102
    assert command.err == "no job 0f3k\n"


def test_logs_print_lines_that_cannot_command_the_terminal(
    service: FakeService, command: Command
) -> None:
    job_id = service.add_job()
    service.log(job_id, "a\x1b[31mred\x9b\r line [bold]")
    assert command("logs", job_id) == 0
    assert command.out.endswith("info    a\\x1b[31mred\\x9b\\r line [bold]\n")


def test_logs_and_events_are_one_json_object_a_line(service: FakeService, command: Command) -> None:
    job_id = service.add_job()
    service.log(job_id, "one")
    service.log(job_id, "two")
    service.move(job_id, "succeeded", "completed")
    assert command("logs", job_id, "-f", "-o", "json") == 0
    assert [json.loads(line)["message"] for line in command.out.splitlines()] == ["one", "two"]
    assert command("events", job_id, "-o", "json") == 0
    assert [json.loads(line)["number"] for line in command.out.splitlines()] == [1, 2]


def test_events_are_told_in_words(service: FakeService, command: Command) -> None:
    job_id = service.add_job()
    service.move(job_id, "starting")
    service.move(job_id, "queued", "worker-died")
    assert command("events", job_id) == 0
    told = [line.strip() for line in command.out.splitlines()]
    assert told[0].startswith("1 ")
    assert told[0].endswith("submitted")
    assert told[2].endswith("starting -> queued (worker-died)")


def test_cancel_says_what_will_happen(service: FakeService, command: Command) -> None:
    waiting = service.add_job("0f3k000000000001")
    running = service.add_job("0f3k000000000002", state="running")
    assert command("cancel", waiting, running) == 0
    assert command.out == (
        "0f3k000000000001 cancelled\n0f3k000000000002 stops at its next step boundary\n"
    )


def test_a_job_that_cannot_be_cancelled_does_not_save_the_others(
    service: FakeService, command: Command
) -> None:
    ended = service.add_job("0f3k000000000001", state="succeeded")
    waiting = service.add_job("0f3k000000000002")
    assert command("cancel", ended, "0f3m", waiting, "-o", "json") == 1
    assert [job["id"] for job in json.loads(command.out)] == [waiting]
    assert "succeeded already" in command.err


def test_download_prints_where_the_weights_are(
    service: FakeService, command: Command, tmp_path: Path
) -> None:
    file = tmp_path / "weights"
    assert command("download", service.add_job(), "-o", str(file)) == 0
    assert command.out == f"{file}\n"
    assert file.read_bytes() == WEIGHTS
    assert command("download", "0f3k", "--to", str(file), "--output", "json") == 0
    assert json.loads(command.out)["size_bytes"] == len(WEIGHTS)


def test_a_corrupt_download_is_an_error(
    service: FakeService, command: Command, tmp_path: Path
) -> None:
    service.sent_weights = b"other"
    assert command("download", service.add_job(), "-o", str(tmp_path / "weights")) == 1
    assert "SHA-256" in command.err
    assert not (tmp_path / "weights").exists()


def test_a_folder_that_is_not_there_is_named(service: FakeService, command: Command) -> None:
    assert command("download", service.add_job(), "-o", "nowhere/weights") == 1
    assert command.err == "nowhere: No such file or directory\n"


def test_metrics_are_summed_up_or_printed_whole(service: FakeService, command: Command) -> None:
    job_id = service.add_job()
    assert command("metrics", job_id) == 0
    rows = [line.split() for line in command.out.splitlines()]
    assert ["test/error", "2", "9.5", "200", "9.5"] in rows
    assert ["train/loss", "2", "not", "finite", "200", "0.5"] in rows
    assert command("metrics", job_id, "--csv") == 0
    assert command.out == "series,iteration,value\ntrain/loss,100,0.5\n"
    assert command("metrics", job_id, "-o", "json") == 0
    assert json.loads(command.out)["series"]["test/error"]["values"] == [12.0, 9.5]


@pytest.mark.parametrize(("what", "named"), [("datasets", "digits"), ("recipes", "quick")])
def test_lists_are_text_or_json_arrays(command: Command, what: str, named: str) -> None:
    assert command(what) == 0
    assert any(line.startswith(named) for line in command.out.splitlines())
    assert command(what, "-o", "json") == 0
    assert json.loads(command.out)[0]["name"] == named


def test_the_cluster_is_shown(command: Command) -> None:
    assert command("cluster") == 0
    assert command.out.startswith("CPUs: 2 of 8 reserved\nGPUs: 0 of 1 reserved\n")


def test_a_service_that_is_away_has_an_exit_code_of_its_own(
    service: FakeService, command: Command
) -> None:
    service.be_unavailable(100)
    assert command("ps") == 69
    assert command.err == "the database is away (request r-1)\n"
    service.stop()
    assert command("ps") == 69
    assert service.url in command.err


def test_a_refused_token_says_where_it_came_from_but_never_itself(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESNETD_TOKEN", "a-wrong-one")
    assert command("--debug", "ps") == 1
    assert "the token came from RESNETD_TOKEN" in command.err
    assert "a-wrong-one" not in command.out + command.err


def test_a_bad_configuration_is_a_usage_error(command: Command) -> None:
    assert command("--url", "nowhere", "ps") == 2
    assert "the url must be" in command.err


def test_whatever_is_unexpected_is_one_sentence_and_a_traceback_only_if_asked(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise KeyError("surprise")

    monkeypatch.setattr("resnetd.client.Client.datasets", fail)
    assert command("datasets") == 1
    assert command.err == "unexpected KeyError: 'surprise'; `resnetd --debug ...` says where\n"
    monkeypatch.setenv("RESNETD_DEBUG", "1")
    assert command("datasets") == 1
    assert "Traceback" in command.err


def test_the_version_is_told(command: Command) -> None:
    assert command("--version") == 0
    assert command.out.startswith("resnetd 0.")


@pytest.mark.parametrize("name", sorted(typer.main.get_group(cli.app).commands))
def test_every_command_has_help_with_an_example(command: Command, name: str) -> None:
    assert command(name, "--help") == 0
    assert f"Example: resnetd {name}" in command.out


def test_a_reader_that_leaves_early_sees_no_traceback(service: FakeService) -> None:
    for number in range(100):
        service.add_job(f"0f3k{number:012d}")
    job_id = next(iter(service.jobs))
    for number in range(3000):
        service.log(job_id, f"line {number} of many, to fill the pipe")
    script = f"set -o pipefail; {sys.executable} -m resnetd logs {job_id} | head -1"
    environment = {"RESNETD_URL": service.url, "RESNETD_TOKEN": TOKEN, "PATH": "/usr/bin:/bin"}
    ended = subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert ended.stdout.endswith("line 0 of many, to fill the pipe\n")
    assert ended.stderr == ""
