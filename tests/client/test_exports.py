"""Exports, read with the libraries of the tools that they are for."""

import json
import math
import struct
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import api_pb2, metadata

import resnetd
from resnetd.exports.forms import ExportedJob
from resnetd.exports.parquet import tabulate_jobs
from service.states import Reason
from tests.client.conftest import Command
from tests.client.service import Service
from tests.support.core import ENVIRONMENT


@pytest.fixture
def finished(service: Service) -> str:
    """The id of a job with two evaluations and a loss that was not finite."""
    training = service.run(tags=["course"], seed=3)
    training.report(environment=ENVIRONMENT)
    training.progress(10, test_error=50.0, train_loss=None)
    training.progress(20, test_error=2.5, train_loss=0.5)
    training.finish()
    return training.job_id


def test_a_job_is_a_row_and_each_of_its_points_is_one(
    client: resnetd.Client, command: Command, finished: str
) -> None:
    assert command("export", finished[:14], "--to", "parquet", "new/runs") == 0
    assert command.err == "Exported 1 job to new/runs\n"
    (job,) = parquet.read_table("new/runs/jobs.parquet").to_pylist()
    assert (job["job_id"], job["state"], job["result.test_error"]) == (finished, "succeeded", 2.5)
    assert (job["spec.seed"], json.loads(job["spec.tags"])) == (3, ["course"])
    assert (job["environment.versions.torch"], job["result.validation_error"]) == ("2.15.0", None)
    assert job["finished_at"] == client.jobs.get(finished).finished_at
    points = parquet.read_table("new/runs/metrics.parquet").to_pylist()
    assert {point["job_id"] for point in points} == {finished}
    values = {(point["series"], point["iteration"]): point["value"] for point in points}
    assert values["test/error", 20] == 2.5
    assert values["train/loss", 10] is None
    times = client.jobs.metrics(finished)["test/error"].times
    read = [point["time"] for point in points if point["series"] == "test/error"]
    assert read == [datetime.fromtimestamp(time, UTC) for time in times]


def test_an_export_replaces_the_one_before(
    service: Service, client: resnetd.Client, finished: str
) -> None:
    waiting = service.submit()
    assert client.export([waiting, finished, waiting], "parquet", "runs") == 2
    assert client.export(waiting, "parquet", "runs") == 1
    (job,) = parquet.read_table("runs/jobs.parquet").to_pylist()
    assert (job["job_id"], job["state"], job["result.test_error"]) == (waiting, "queued", None)
    assert parquet.read_table("runs/metrics.parquet").num_rows == 0
    assert sorted(path.name for path in Path("runs").iterdir()) == [
        "jobs.parquet",
        "metrics.parquet",
    ]


def test_a_search_and_a_study_stand_for_their_jobs(
    service: Service, client: resnetd.Client
) -> None:
    search_id = service.search(60.0, 4.5)
    study = client.studies.submit("fig1", seeds=1)
    assert client.export([search_id, study.id], "parquet", "runs") == 4
    rows = parquet.read_table("runs/jobs.parquet").to_pylist()
    trials = [row for row in rows if row["search_id"] == search_id]
    assert [(row["trial"], row["result.test_error"]) for row in trials] == [(1, 2.5), (2, 2.5)]
    assert [row["spec.recipe.learning_rate"] for row in trials] == [0.001, 0.002]
    members = [row["member"] for row in rows if row["study_id"] == study.id]
    assert members == [member.label for member in study.members]


def test_an_unknown_id_leaves_nothing(command: Command, finished: str) -> None:
    assert command("export", finished, "zzz", "--to", "parquet", "runs") == 102
    assert command.err == "no job, search or study has an id that begins with 'zzz'\n"
    assert not Path("runs").exists()


def test_an_export_that_breaks_leaves_the_one_before(
    service: Service, client: resnetd.Client, finished: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.export(finished, "parquet", "runs")
    before = {path.name: path.read_bytes() for path in Path("runs").iterdir()}
    monkeypatch.setattr(client.jobs, "metrics", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        client.export([finished, service.submit()], "parquet", "runs")
    assert {path.name: path.read_bytes() for path in Path("runs").iterdir()} == before


def _read_run(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator


def test_a_run_of_tensorboard_has_scalars_with_their_times_and_the_spec(
    client: resnetd.Client, command: Command, finished: str
) -> None:
    assert command("export", finished, "--to", "tensorboard", "logs") == 0
    (folder,) = Path("logs").iterdir()
    assert folder.name == f"resnet-8-A-{finished}"
    run = _read_run(folder)
    series = client.jobs.metrics(finished)["test/error"]
    scalars = [(event.step, event.value, event.wall_time) for event in run.Scalars("test/error")]
    assert scalars == list(zip(series.iterations, series.values, series.times, strict=True))
    assert math.isnan(run.Scalars("train/loss")[0].value)
    (result,) = run.Scalars("result/test_error")
    job = client.jobs.get(finished)
    assert job.finished_at is not None
    assert (result.step, result.value) == (20, 2.5)
    assert result.wall_time == job.finished_at.timestamp()
    contents = run.PluginTagToContent("hparams")
    start = metadata.parse_session_start_info_plugin_data(contents[metadata.SESSION_START_INFO_TAG])
    assert start.group_name == finished
    assert start.hparams["recipe.learning_rate"].number_value == 0.1
    assert start.hparams["shortcut"].string_value == "A"
    assert start.hparams["preemptible"].bool_value is False
    assert "tags" not in start.hparams
    end = metadata.parse_session_end_info_plugin_data(contents[metadata.SESSION_END_INFO_TAG])
    assert (end.status, end.end_time_secs) == (api_pb2.STATUS_SUCCESS, result.wall_time)


def test_tensorboard_shows_a_job_once_after_a_second_export(
    service: Service, client: resnetd.Client
) -> None:
    training = service.run()
    training.progress(10, test_error=50.0)
    client.export(training.job_id, "tensorboard", "logs")
    (folder,) = Path("logs").iterdir()
    assert metadata.SESSION_END_INFO_TAG not in _read_run(folder).PluginTagToContent("hparams")
    training.progress(20, test_error=2.5)
    training.finish(Reason.DIVERGED)
    client.export([training.job_id, service.submit()], "tensorboard", "logs")
    assert len(list(Path("logs").iterdir())) == 2
    assert len(list(folder.iterdir())) == 1
    run = _read_run(folder)
    assert [event.step for event in run.Scalars("test/error")] == [10, 20]
    content = run.PluginTagToContent("hparams")[metadata.SESSION_END_INFO_TAG]
    assert metadata.parse_session_end_info_plugin_data(content).status == api_pb2.STATUS_FAILURE


def test_tensorboard_keeps_the_run_before_when_an_export_breaks(
    client: resnetd.Client, finished: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.export(finished, "tensorboard", "logs")
    before = sorted(Path("logs").rglob("*"))
    monkeypatch.setattr(ExportedJob, "points", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        client.export(finished, "tensorboard", "logs")
    assert sorted(Path("logs").rglob("*")) == before


def _read_log(path: Path) -> Iterator[Any]:
    """The records of a run of W&B, whose log has LevelDB's format after seven bytes of its own.

    wandb has no reader in Python, only the messages.
    """
    from wandb.proto.wandb_internal_pb2 import Record  # noqa: PLC0415 - takes a second

    content, position, record = path.read_bytes(), 7, b""
    assert content.startswith(b":W&B")
    while position < len(content):
        rest_of_block = 2**15 - position % 2**15
        if rest_of_block < 7:
            position += rest_of_block
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        position += 7 + length
        record += content[position - length : position]
        if kind in (1, 4):  # complete, or its last part
            yield Record.FromString(record)
            record = b""


def _read_values(items: Iterable[Any]) -> dict[str, Any]:
    return {item.key or item.nested_key[0]: json.loads(item.value_json) for item in items}


@pytest.mark.slow
def test_an_offline_run_of_wandb_has_the_points_of_a_job_and_replaces_the_one_before(
    service: Service, client: resnetd.Client, command: Command, finished: str
) -> None:
    running = service.run()
    running.progress(10, test_error=50.0)
    for _ in range(2):
        assert command("export", finished, running.job_id, "--to", "wandb", "runs") == 0
    assert command.err == "Exported 2 jobs to runs\n"
    logs = {path.stem: path for path in Path("runs").glob("wandb/offline-run-*/*.wandb")}
    assert set(logs) == {f"run-{finished}", f"run-{running.job_id}"}
    assert len(list(Path("runs").glob("wandb/offline-run-*"))) == len(logs)
    records = list(_read_log(logs[f"run-{finished}"]))
    (run,) = (record.run for record in records if record.HasField("run"))
    job = client.jobs.get(finished)
    assert (run.run_id, run.project, run.display_name) == (finished, "resnetd", job.name)
    assert (list(run.tags), run.host) == (["course"], "")
    config = _read_values(run.config.update)
    assert (config["recipe.learning_rate"], config["shortcut"]) == (0.1, "A")
    assert config["resnetd"]["url"] == f"{client.url}/jobs/{finished}"
    steps = [_read_values(record.history.item) for record in records if record.HasField("history")]
    series = client.jobs.metrics(finished)["test/error"]
    assert tuple(step["_step"] for step in steps) == series.iterations
    assert tuple(step["test/error"] for step in steps) == series.values
    assert steps[0]["_timestamp"] == series.times[0]
    assert math.isnan(float(steps[0]["train/loss"]))
    assert steps[-1]["result/test_error"] == 2.5
    assert records[-1].exit.exit_code == 0


@pytest.mark.parametrize(
    ("form", "package"),
    [
        ("parquet", "pyarrow"),
        ("tensorboard", "tensorboard"),
        ("mlflow", "mlflow"),
        ("wandb", "wandb"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(
    command: Command, monkeypatch: pytest.MonkeyPatch, form: str, package: str
) -> None:
    monkeypatch.delitem(sys.modules, f"resnetd.exports.{form}", raising=False)
    loaded = [name for name in sys.modules if name.startswith(f"{package}.")]
    for name in [package, *loaded]:
        monkeypatch.setitem(sys.modules, name, None)
    assert command("export", "0f3k", "--to", form, "runs") == 1
    assert command.err == (
        f"{form} needs the package {package}; install it with: pip install 'resnetd[{form}]'\n"
    )


@pytest.mark.parametrize(
    ("values", "column"),
    [
        ([1, 0.5, None], [1.0, 0.5, None]),
        ([True, False], [True, False]),
        ([[1, 2], None], ["[1, 2]", None]),
        (["auto", 64], ["auto", "64"]),
        ([True, 1], ["true", "1"]),
        ([None, None], [None, None]),
    ],
)
def test_fields_of_one_type_keep_it_and_others_are_text(
    values: list[object], column: list[object]
) -> None:
    table = tabulate_jobs([{"spec.field": value} for value in values])
    assert table["spec.field"].to_pylist() == column


def test_the_command_names_the_forms(command: Command) -> None:
    assert command("export", "0f3k", "--to", "xml", "runs") == 2
    assert "'html'" in command.err
    assert command("export", "0f3k") == 2
