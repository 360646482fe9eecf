"""The command: what it prints, where, and its exit codes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import resnetd
from api import client_versions
from api.routes.checkpoints import WeightsFormat
from resnetd.cli import app
from service.states import CheckpointPart, Reason
from tests.client import faults
from tests.client.conftest import Command
from tests.client.faults import body_of
from tests.client.service import SPEC, Service
from tests.support.api import TOKEN
from tests.support.core import content
from tests.support.onnx_networks import finish_with_network, make_color_network, make_picture
from tests.support.searching import Searching

SUBMIT = ("submit", "--depth", "8", "--shortcut", "A", "--dataset", "digits")


def test_submit_prints_the_id_and_how_to_watch(command: Command, client: resnetd.Client) -> None:
    assert command(*SUBMIT) == 0
    (job,) = client.jobs.list()
    assert command.out == f"{job.id}\n"
    assert f"resnetd watch {job.id}" in command.err


def test_submit_sends_the_options_and_nothing_else(
    service: Service, command: Command, tmp_path: Path
) -> None:
    path = tmp_path / "spec.json"
    path.write_text('{"depth": 56, "shortcut": "A", "dataset": "digits", "recipe": "quick"}')
    options = [str(path), "--depth", "20", "--set", "recipe.iterations=100"]
    options += ["--workers", "1-4", "--seed", "7", "--priority", "90", "--name", "mine"]
    options += ["--tag", "a", "--tag", "b", "--idempotency-key", "k", "--set", "max_restarts=0"]
    assert command("submit", *options) == 0
    (request,) = service.transport.find("POST", "/v1/jobs")
    assert request.headers["Idempotency-Key"] == "k"
    assert body_of(request) == {
        "depth": 20,
        "shortcut": "A",
        "dataset": "digits",
        "recipe": {"name": "quick", "iterations": 100},
        "resources": {"num_workers": {"min": 1, "max": 4}},
        "seed": 7,
        "priority": 90,
        "name": "mine",
        "tags": ["a", "b"],
        "max_restarts": 0,
    }


def test_submit_starts_from_a_checkpoint_of_a_job_named_by_a_prefix(
    service: Service, command: Command
) -> None:
    training = service.run()
    training.save(10)
    training.finish()
    options = ("--start-from", f"{training.job_id[:12]}:newest:weights", "-o", "json")
    assert command(*SUBMIT, *options) == 0
    start = json.loads(command.out)["spec"]["start_from"]
    assert (start["job"], start["mode"]) == (training.job_id, "weights")


def test_an_invalid_spec_is_a_line_for_each_field(command: Command) -> None:
    assert command(*SUBMIT, "--depth", "33", "--set", "recipe.batch_size=0") == 2
    assert command.out == ""
    lines = command.err.splitlines()
    assert len(lines) == 2
    assert any(line.startswith("recipe.batch_size: ") for line in lines)


@pytest.mark.parametrize(
    "arguments",
    [
        ["submit", "--set", "seed"],
        ["submit", "missing.json"],
        ["submit", "--depth", "deep"],
        ["submit", "--idempotency-key", "\n"],
        ["submit", "--no-such-option"],
        ["submit", "-o", "xml"],
        ["submit", "--start-from", "0f3k::deepen"],
        ["submit", "--workers", "1-many"],
        ["batch", "missing.json"],
        ["batch", "object.json"],
        ["priority", "101", "0f3k"],
    ],
)
def test_wrong_options_are_refused_without_a_request(
    service: Service, command: Command, arguments: list[str]
) -> None:
    Path("object.json").write_text("{}")
    assert command(*arguments) == 2
    assert command.out == ""
    assert "Traceback" not in command.err
    assert service.transport.requests == []


def test_ps_lists_the_newest_jobs(service: Service, command: Command) -> None:
    first = service.submit(name="[red]not markup[/red]")
    training = service.run(priority=100)
    training.progress(10, test_error=12.0)
    assert command("ps", "--limit", "1") == 0
    header, row = command.out.splitlines()
    assert header.split() == ["ID", "NAME", "STATE", "DONE", "ERROR", "AGE"]
    assert row.startswith(f"{training.job_id}  resnet-8-A on digits  running  50 %")
    assert "12.00 %" in row
    assert "--all" in command.err
    assert command("ps", "--all") == 0
    assert "[red]not markup[/red]" in command.out
    assert command("ps", "--state", "queued", "--state", "held", "-o", "json") == 0
    assert [job["id"] for job in json.loads(command.out)] == [first]


def test_show_has_attempts_and_checkpoints(service: Service, command: Command) -> None:
    training = service.run()
    training.save(10, test_error=2.5)
    training.finish(Reason.DATASET_MISSING, message="no folder /data/digits")
    assert command("show", training.job_id[:14]) == 0
    assert "failed: dataset-missing: no folder /data/digits" in command.out
    assert "WORKERS" in command.out
    assert "CHECKPOINT" in command.out
    assert "2.50 %" in command.out


TRACEBACK = "ValueError: the batch has no images\n\nTraceback (most recent call last):\n" + 400 * (
    '  File "/opt/trainer.py", line 1, in train\n'
)


def test_a_failure_is_a_line_everywhere_and_complete_on_request(
    service: Service, command: Command
) -> None:
    training = service.run(max_restarts=0)
    training.finish(Reason.TRAINING_ERROR, message=TRACEBACK)
    cause = "training-error: ValueError: the batch has no images"
    assert command("show", training.job_id) == 0
    assert cause in command.out
    assert "Traceback" not in command.out
    assert len(command.out.splitlines()) < 30
    assert f"resnetd show {training.job_id} --full" in command.out
    assert "failed attempts" in command.out
    assert command("show", training.job_id, "--full") == 0
    assert command.out.count("trainer.py") == 400
    assert [line for line in command.out.splitlines() if line != line.rstrip()] == []
    assert command("ps") == 0
    assert command.out.splitlines()[0].split()[-1] == "REASON"
    assert command.out.splitlines()[1].endswith(cause)
    assert command("events", training.job_id) == 0
    assert cause.partition(": ")[2] in command.out
    assert "Traceback" not in command.out
    assert command("watch", training.job_id) == 100
    assert command.out.splitlines()[-1] == f"{training.job_id} failed: {cause}"


@pytest.mark.parametrize(
    "arguments",
    [
        *(["show", ""], ["logs", ""], ["cancel", ""], ["search", "show", ""], ["watch", ""]),
        *(["study", "show", ""], ["webhook", "ping", ""], ["token", "revoke", ""]),
    ],
)
def test_an_empty_id_is_a_wrong_use_and_no_request(
    service: Service, command: Command, arguments: list[str]
) -> None:
    service.transport.requests.clear()
    assert command(*arguments) == 2
    assert command.err == "the id is empty\n"
    assert service.transport.requests == []


def test_what_has_no_rows_says_so(
    service: Service, command: Command, client: resnetd.Client, searching: Searching
) -> None:
    job_id, search_id = service.submit(hold=True), searching.submit()
    service.core.add_person("ben")
    client.tokens.revoke(client.tokens.list(user="ben")[0].id)
    for arguments, note in (
        (["logs", job_id], f"{job_id} has no log lines; it is held.\n"),
        (["metrics", job_id], f"{job_id} has no metrics; it is held.\n"),
        (["ps", "--state", "running"], "No jobs match.\n"),
        (["search", "importance", search_id], "Fewer than four trials have a value.\n"),
        (["search", "trials", search_id], "No trial has started.\n"),
        (["webhook", "list"], "There are no webhooks.\n"),
        (["analyses", job_id], "The job has no analyses.\n"),
        (["alert", "list"], "There are no alerts.\n"),
        (["share", "list"], "There are no links.\n"),
        (["study", "list"], "There are no studies.\n"),
        (["quota", "list"], "There are no quotas.\n"),
        (["token", "list", "--user", "ben"], "There are no tokens.\n"),
    ):
        assert command(*arguments) == 0
        assert command.err == note
        assert command.out == "" or arguments == ["study", "list"]
    alert = client.alerts.create("slack", "https://203.0.114.5/hook", conditions=["failed"])
    assert command("alert", "log", alert.id) == 0
    assert command.err == "It has no deliveries.\n"
    assert command("ps", "--state", "running", "-o", "json") == 0
    assert json.loads(command.out) == []


def test_predict_prints_the_classes_of_each_image_that_is_one(
    service: Service, command: Command
) -> None:
    job_id = finish_with_network(service.api, make_color_network())
    Path("warm.png").write_bytes(make_picture(200, 100, 0))
    Path("cold.png").write_bytes(make_picture(0, 50, 250))
    Path("notes.txt").write_text("no image")
    assert command("predict", job_id[:14], "warm.png", "notes.txt", "cold.png") == 2
    assert command.err.startswith("notes.txt: the body is not the bytes of an image file")
    header, *rows = (line.split() for line in command.out.splitlines())
    assert header == ["IMAGE", "CLASS", "PROBABILITY"]
    assert rows[0] == ["warm.png", "red", "86.68", "%"]
    assert [row[0] for row in rows] == ["warm.png", "green", "blue", "cold.png", "green", "red"]
    assert command("predict", job_id, "cold.png", "-o", "json") == 0
    (found,) = json.loads(command.out)
    assert (found["image"], found["classes"][0]["class_name"]) == ("cold.png", "blue")
    assert command("predict", job_id, "missing.png") == 2
    running = service.run().job_id
    assert command("predict", running, "cold.png") == 1
    assert "has no exported network onnx-image" in command.err


def test_the_help_of_a_download_names_every_format() -> None:
    download = typer.main.get_command(app.app).commands["download"]  # type: ignore[attr-defined]
    (option,) = [param for param in download.params if "--format" in param.opts]
    assert [name for name in WeightsFormat if name not in option.help] == []


def test_every_spec_is_read_from_the_same_argument() -> None:
    root = typer.main.get_command(app.app)
    searches = root.commands["search"].commands  # type: ignore[attr-defined]
    commands = [root.commands[name] for name in ("submit", "plan", "batch")]  # type: ignore[attr-defined]
    for found in [*commands, searches["submit"]]:
        first = found.params[0]
        assert (first.name, first.param_type_name) == ("file", "argument")
        assert not any("--file" in param.opts for param in found.params)


def test_a_waiting_job_is_shown_with_the_reason(service: Service, command: Command) -> None:
    service.core.record_cluster(cpus=1)
    service.run()
    assert command("show", service.submit()[:14]) == 0
    assert "waiting" in command.out
    assert "needs" in command.out


def test_json_is_the_document_of_the_service(service: Service, command: Command) -> None:
    job_id = service.submit()
    document = service.api.get(f"/v1/jobs/{job_id}").json()
    service.inject(faults.change_json(lambda job: job.update(a_new_field=1)))
    assert command("show", job_id, "-o", "json") == 0
    assert json.loads(command.out) == document | {"a_new_field": 1}
    assert command.err == ""


def test_an_ambiguous_id_lists_the_candidates(service: Service, command: Command) -> None:
    ids = [service.submit(), service.submit()]
    assert command("show", ids[0][:4]) == 2
    assert all(job_id in command.err for job_id in ids)


def test_an_unknown_job_is_not_found(command: Command) -> None:
    assert command("show", "0f3k") == 102
    assert "0f3k" in command.err


def test_log_lines_cannot_control_the_terminal(service: Service, command: Command) -> None:
    training = service.run()
    training.log("a\x1b[31mred\x9b\r line [bold]")
    assert command("logs", training.job_id) == 0
    assert command.out.endswith("info    a\\x1b[31mred\\x9b\\r line [bold]\n")


def test_logs_and_events_are_a_json_object_per_line(service: Service, command: Command) -> None:
    training = service.run()
    training.log("first", "second")
    training.finish()
    assert command("logs", training.job_id, "-f", "-o", "json") == 0
    messages = [json.loads(line)["message"] for line in command.out.splitlines()]
    assert messages == ["first", "second"]
    assert command("events", training.job_id, "-o", "json") == 0
    numbers = [json.loads(line)["number"] for line in command.out.splitlines()]
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_checkpoint_is_printed_with_its_errors_in_percent(
    service: Service, command: Command
) -> None:
    training = service.run()
    training.save(10, test_error=28.294270833333332)
    assert command("events", training.job_id) == 0
    (saved,) = [line for line in command.out.splitlines() if "checkpoint" in line]
    assert saved.endswith(", iteration 10, test error 28.29 %")


def test_events_are_printed_as_changes(service: Service, command: Command) -> None:
    job_id = service.end(Reason.WORKER_DIED)
    assert command("events", job_id) == 0
    lines = [line.strip() for line in command.out.splitlines()]
    assert lines[0].startswith("1 ")
    assert lines[0].endswith("submitted: network resnet-8-A")
    assert any(line.endswith("running -> queued (worker-died)") for line in lines)


def test_cancel_prints_the_next_state(service: Service, command: Command) -> None:
    running, waiting = service.run().job_id, service.submit()
    assert command("cancel", waiting, running) == 0
    assert command.out == f"{waiting} cancelled\n{running} stops at its next step\n"


def test_an_error_of_one_job_does_not_keep_the_action_from_the_others(
    service: Service, command: Command
) -> None:
    ended, waiting = service.end(Reason.COMPLETED), service.submit()
    assert command("cancel", ended, "0zzz", waiting, "-o", "json") == 1
    assert [job["id"] for job in json.loads(command.out)] == [waiting]
    assert ended in command.err
    assert "0zzz" in command.err


def test_actions_print_the_new_state(service: Service, command: Command) -> None:
    job_id = service.submit()
    for action, state in (
        ("hold", "held"),
        ("release", "queued"),
        ("pause", "paused"),
        ("resume", "queued"),
        ("kill", "cancelled"),
    ):
        assert command(action, job_id[:14]) == 0
        assert command.out == f"{job_id} {state}\n"
    assert command("delete", job_id) == 0
    assert command.out == f"{job_id} deleted\n"
    assert command("show", job_id) == 102


def test_a_priority_is_changed(service: Service, command: Command) -> None:
    assert command("priority", "90", service.submit(), "-o", "json") == 0
    assert [job["priority"] for job in json.loads(command.out)] == [90]


def test_a_clone_has_the_changes(service: Service, command: Command) -> None:
    job_id = service.submit()
    assert command("clone", job_id, "--set", "recipe.iterations=10", "--set", "seed=1") == 0
    assert command("show", command.out.strip(), "-o", "json") == 0
    spec = json.loads(command.out)["spec"]
    assert (spec["depth"], spec["recipe"]["iterations"], spec["seed"]) == (8, 10, 1)


def test_a_batch_is_submitted_together(command: Command, client: resnetd.Client) -> None:
    Path("jobs.json").write_text(json.dumps([SPEC, {**SPEC, "after": ["#0"]}]))
    assert command("batch", "jobs.json") == 0
    first, second = command.out.split()
    assert client.jobs.get(second).spec["after"][0]["job"] == first


def test_show_fits_into_100_columns_and_pads_no_line(service: Service, command: Command) -> None:
    training = service.run()
    training.finish()
    assert command("show", training.job_id) == 0
    lines = command.out.splitlines()
    assert max(map(len, lines)) <= 100
    assert [line for line in lines if line != line.rstrip()] == []
    recipe = " ".join(command.out.split())
    assert "recipe name quick, iterations" in recipe
    assert "exports []" in recipe


def test_an_empty_message_is_not_printed(service: Service, command: Command) -> None:
    training = service.run()
    training.finish()
    assert command("events", training.job_id) == 0
    (ended,) = [line for line in command.out.splitlines() if "ended" in line]
    assert ended.endswith("attempt: number 1, ended completed")


def test_the_queue_is_listed_with_reasons(service: Service, command: Command) -> None:
    job_id = service.submit(name="[b]resnet[/b]")
    assert command("queue") == 0
    header, row = command.out.splitlines()
    assert header.split()[-3:] == ["EXPECTED", "START", "REASON"]
    assert row.split()[:4] == ["1", job_id, "[b]resnet[/b]", "queued"]


def test_a_plan_is_an_estimate(command: Command) -> None:
    settings = [f"--set={field}={value}" for field, value in SPEC.items()]
    assert command("plan", *settings, "--set", "depth=20") == 0
    assert "269,722" in command.out
    assert "unknown: no comparable job has run" in command.out
    options = ("--depth", "20", "--shortcut", "A", "--dataset", "digits", "--recipe", "quick")
    assert command("plan", *options, "-o", "json") == 0
    assert json.loads(command.out)["parameters"] == 269_722


def test_a_plan_has_the_options_of_a_submission() -> None:
    plan, submit = (_list_options(name) for name in ("plan", "submit"))
    assert submit - plan == {"--idempotency-key", "--watch"}
    assert plan < submit


def _list_options(name: str) -> set[str]:
    command = typer.main.get_command(app.app).commands[name]  # type: ignore[attr-defined]
    return {option for parameter in command.params for option in parameter.opts}


def test_download_prints_the_path(service: Service, command: Command, tmp_path: Path) -> None:
    training = service.run()
    training.save(10)
    path = tmp_path / "weights"
    newest = ("download", training.job_id, "--which", "newest")
    assert command(*newest, "-o", str(path)) == 0
    assert command.out == f"{path}\n"
    assert path.read_bytes() == content(CheckpointPart.WEIGHTS, 10)
    assert command(*newest, "--to", str(path), "--output", "json") == 0
    assert json.loads(command.out)["size_bytes"] == path.stat().st_size
    for form in ("safetensors", "timm"):
        assert command(*newest, "--format", form, "-o", "missing/weights") == 1
        assert command.err == "missing: no such folder; create it with: mkdir -p missing\n"


def test_the_error_of_a_missing_export_names_the_checkpoint_that_has_it(
    service: Service, command: Command, tmp_path: Path
) -> None:
    training = service.run()
    training.save(10, test_error=5.0)
    path = str(tmp_path / "resnet.onnx")
    onnx = ("download", training.job_id, "--format", "onnx", "-o", path, "--which")
    assert command(*onnx, "best") == 102
    assert "no checkpoint of the job has it" in command.err
    parts = (CheckpointPart.WEIGHTS, CheckpointPart.STATE, CheckpointPart.ONNX)
    training.save(20, test_error=6.0, parts=parts)
    assert command(*onnx, "best") == 102
    found = re.search(r"; checkpoint (\S+) of iteration 20 has it$", command.err)
    assert found is not None
    assert command(*onnx, found[1]) == 0
    assert Path(path).read_bytes() == content(CheckpointPart.ONNX, 20)


def test_metrics_are_summarized_or_printed_completely(service: Service, command: Command) -> None:
    training = service.run()
    training.progress(10, test_error=12.0, train_loss=0.5)
    training.progress(20, test_error=9.5, train_loss=None)
    assert command("metrics", training.job_id) == 0
    rows = [line.split() for line in command.out.splitlines()]
    assert ["test/error", "2", "9.5", "20", "9.5"] in rows
    assert ["train/loss", "2", "not", "finite", "20", "0.5"] in rows
    assert command("metrics", training.job_id, "--csv", "--series", "test/error") == 0
    assert [line.split(",")[:3] for line in command.out.splitlines()] == [
        ["series", "iteration", "value"],
        ["test/error", "10", "12.0"],
        ["test/error", "20", "9.5"],
    ]
    assert command("metrics", training.job_id, "-o", "json") == 0
    assert json.loads(command.out)["series"]["test/error"]["values"] == [12.0, 9.5]


@pytest.mark.parametrize(("name", "item"), [("dataset list", "digits"), ("recipes", "quick")])
def test_lists_are_text_or_json_arrays(command: Command, name: str, item: str) -> None:
    assert command(*name.split()) == 0
    assert any(line.startswith(item) for line in command.out.splitlines())
    assert command(*name.split(), "-o", "json") == 0
    assert item in {found["name"] for found in json.loads(command.out)}


def test_the_cluster_is_shown(service: Service, command: Command) -> None:
    service.run()
    assert command("cluster") == 0
    assert command.out.startswith("CPUs: 1 of 64 reserved\nGPUs: 0 of 0 reserved\n")


def test_an_unavailable_service_has_its_own_exit_code(service: Service, command: Command) -> None:
    service.transport.lasting_fault = faults.unavailable()
    assert command("ps") == 69
    assert command.err == "no database (request r-1)\n"
    service.transport.lasting_fault = faults.refuse_connection
    assert command("ps") == 69
    assert service.url in command.err
    assert "RESNETD_URL" in command.err


def test_a_refused_token_is_named_by_its_source_and_never_shown(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESNETD_TOKEN", "a-wrong-token")
    assert command("--debug", "ps") == 1
    assert "the token came from RESNETD_TOKEN" in command.err
    assert "a-wrong-token" not in command.out + command.err


def test_a_bad_configuration_is_a_usage_error(command: Command) -> None:
    assert command("--url", "nowhere", "ps") == 2
    assert "the URL must be" in command.err


def test_an_unexpected_error_is_a_sentence_and_a_traceback_on_request(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise KeyError("surprise")

    monkeypatch.setattr("resnetd.catalog.Datasets.list", fail)
    assert command("dataset", "list") == 1
    assert command.err == (
        "unexpected KeyError: 'surprise'; `resnetd --debug ...` prints the traceback\n"
    )
    monkeypatch.setenv("RESNETD_DEBUG", "1")
    assert command("dataset", "list") == 1
    assert "Traceback" in command.err


def test_the_versions_of_both_sides_are_printed(service: Service, command: Command) -> None:
    assert command("--version") == 0
    ours, theirs = command.out.splitlines()
    assert ours.startswith("resnetd 0.")
    assert theirs == f"service {client_versions.VERSION}, API version 1, at {service.url}"


@pytest.mark.parametrize(
    "arguments", [["--url", "URL", "--version"], ["--version", "--url", "URL"]]
)
def test_a_service_that_does_not_respond_costs_one_request(
    service: Service, command: Command, arguments: list[str]
) -> None:
    service.transport.lasting_fault = faults.refuse_connection
    url = "http://127.0.0.1:9"
    assert command(*(argument.replace("URL", url) for argument in arguments)) == 0
    assert command.out.splitlines()[1] == (
        f"the service does not respond: no response from {url}: connection refused"
    )
    (request,) = service.transport.requests
    assert max(request.extensions["timeout"].values()) <= 1.0


@pytest.mark.parametrize("variable", ["RESNETD_URL", "RESNETD_TOKEN"])
def test_the_own_version_is_printed_with_settings_that_cannot_be_used(
    command: Command, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "not usable")
    assert command("--version") == 0
    assert command.out.startswith("resnetd 0.")
    assert "must be" in command.out


@pytest.mark.parametrize("name", sorted(typer.main.get_group(app.app).commands))
def test_every_command_has_help_with_an_example(command: Command, name: str) -> None:
    assert command(name, "--help") == 0
    assert f"Example: resnetd {name}" in command.out


def test_a_reader_that_closes_the_pipe_gets_no_traceback(service: Service) -> None:
    training = service.run()
    for _ in range(3):
        training.log(*(f"line {number}, to fill the pipe" for number in range(1000)))
    script = f"set -o pipefail; {sys.executable} -m resnetd logs {training.job_id} | head -1"
    environment = {"RESNETD_URL": service.url, "RESNETD_TOKEN": TOKEN, "PATH": "/usr/bin:/bin"}
    ended = subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert ended.stdout.endswith("line 0, to fill the pipe\n")
    assert ended.stderr == ""


def test_a_proxy_of_the_environment_and_a_latin_terminal_do_not_break_a_command(
    service: Service,
) -> None:
    service.submit(name="实验-ü")
    environment = {
        "PATH": os.environ["PATH"],
        "RESNETD_URL": service.url,
        "RESNETD_TOKEN": TOKEN,
        "ALL_PROXY": "socks5://127.0.0.1:9",
        "HTTP_PROXY": "http://127.0.0.1:9",
        "PYTHONIOENCODING": "latin-1",
    }
    listed = subprocess.run(
        [sys.executable, "-m", "resnetd", "ps"],
        env=environment,
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert b"\\u5b9e\\u9a8c-\xfc" in listed.stdout
