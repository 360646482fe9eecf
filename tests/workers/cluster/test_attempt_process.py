import io
import json
import math
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest
import torch

from service.errors import ApiUnavailable, InvalidInput
from service.resources import WorkerGroup
from service.specs.job_spec import parse_job_spec
from service.specs.protocol import MAX_MESSAGE_LENGTH, AttemptConfig
from service.specs.series import MachineSeries, StepSeries
from service.states import CheckpointPart, LogLevel, Reason, StopReason
from tests.support.fake_api import Fault, config_of, digits_config, fake_api, settings_of
from tests.support.training import make_step
from workers.cluster import attempt_process
from workers.cluster.attempt_outcome import AttemptOutcome
from workers.cluster.attempt_process import classify_failure, run_in_process
from workers.cluster.process_settings import RunnerSettings
from workers.cluster.ray_jobs import runner_env
from workers.reporting.reporter import Reporter
from workers.training import machine_meter, trainer
from workers.training.errors import DatasetMissing, TrainingDiverged


def files_below(path: Path) -> list[Path]:
    return [entry for entry in path.rglob("*") if entry.is_file()]


@pytest.mark.parametrize(
    "worker_group", [WorkerGroup(2, 3, 0), WorkerGroup(4, 1, 1), WorkerGroup(1, 12, 0.0625)]
)
def test_a_runner_reads_the_settings_that_the_dispatcher_wrote(
    tmp_path: Path, worker_group: WorkerGroup
) -> None:
    env = runner_env(
        api_url="http://api",
        runner_id="runner-1",
        worker_group=worker_group,
        token="secret",
        data_dir=tmp_path / "data",
        work_dir=tmp_path / "work",
        num_nodes=2,
        log_format="json",
    )
    settings = RunnerSettings.of_env(env)
    assert (settings.runner_id, settings.token) == ("runner-1", "secret")
    assert settings.worker_group == worker_group
    assert settings.data_dir == tmp_path / "data"
    assert not settings.is_on_one_node
    assert settings.log_format == "json"
    for broken in ({}, env | {"RESNETD_RUNNER_WORKER_GROUP": "two"}):
        with pytest.raises(InvalidInput):
            RunnerSettings.of_env(broken)


def test_an_attempt_without_a_cluster_trains_delivers_and_finishes(tmp_path: Path) -> None:
    with fake_api(digits_config(iterations=20)) as api:
        assert run_in_process(settings_of(api, tmp_path)) is AttemptOutcome.FINISHED

        [finish] = api.finishes
        assert finish.reason is Reason.COMPLETED
        assert finish.result is not None
        assert finish.result.test_error is not None
        assert [manifest.iteration for manifest in api.checkpoints] == [10, 20]
        assert next(report.environment for report in api.reports if report.environment) is not None
        assert api.violations == []
    assert files_below(tmp_path / "work") == []


def test_each_line_of_an_attempt_has_its_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    with fake_api(digits_config()) as api:
        settings = replace(settings_of(api, tmp_path), log_format="json")
        assert run_in_process(settings) is AttemptOutcome.FINISHED
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    events = [line["event"] for line in lines]
    assert (events[0], events[-1]) == ("attempt started", "attempt finished")
    assert {(line["job_id"], line["attempt_id"], line["rank"]) for line in lines} == {
        ("job1", settings.attempt_id, "0")
    }


def test_an_attempt_reports_its_machine_and_the_parts_of_its_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_meter, "SAMPLE_SECONDS", 0.0)
    with fake_api(digits_config(iterations=20)) as api:
        assert run_in_process(settings_of(api, tmp_path)) is AttemptOutcome.FINISHED
        newest = {point.series: point.value or 0.0 for point in api.points}
    assert newest.keys() >= {*StepSeries, MachineSeries.CPU_PERCENT, MachineSeries.MEMORY_BYTES}
    assert newest[StepSeries.COMPUTE] > newest[StepSeries.LOAD] > 0
    assert newest[MachineSeries.CPU_PERCENT] > 0
    assert newest[MachineSeries.MEMORY_BYTES] > 50e6  # torch alone needs more


def test_an_attempt_resumes_from_the_checkpoint_of_its_config(tmp_path: Path) -> None:
    with fake_api(digits_config(iterations=20)) as api:
        run_in_process(settings_of(api, tmp_path))
        parts = {part: content for (at, part), content in api.parts.items() if at == 10}
        uninterrupted = api.parts[20, CheckpointPart.WEIGHTS]

    with fake_api(digits_config(iterations=20)) as api:
        api.set_resume_checkpoint(iteration=10, parts=parts)
        assert run_in_process(settings_of(api, tmp_path)) is AttemptOutcome.FINISHED
        assert "resuming from iteration 10" in [line.message for line in api.lines]
        assert min(point.iteration for point in api.points) > 10
        assert [manifest.iteration for manifest in api.checkpoints] == [20]
        assert len(api.parts[20, CheckpointPart.WEIGHTS]) == len(uninterrupted)


def test_an_attempt_of_an_analysis_delivers_its_result_and_no_checkpoint(tmp_path: Path) -> None:
    with fake_api(digits_config(iterations=20)) as api:
        run_in_process(settings_of(api, tmp_path))
        parts = {part: content for (at, part), content in api.parts.items() if at == 20}
        [trained] = api.finishes

    start = {"job": "0" * 16, "mode": "weights"}
    document = digits_config(iterations=20).spec.model_dump(mode="json")
    spec = parse_job_spec(document | {"start_from": start, "analysis": {"kind": "evaluation"}})
    with fake_api(config_of(spec)) as api:
        api.set_resume_checkpoint(
            iteration=20, parts={CheckpointPart.WEIGHTS: parts[CheckpointPart.WEIGHTS]}
        )
        assert run_in_process(settings_of(api, tmp_path)) is AttemptOutcome.FINISHED
        [finish] = api.finishes
        assert (finish.reason, finish.result) == (Reason.COMPLETED, None)
        assert finish.analysis is not None
        assert trained.result is not None
        assert finish.analysis.numbers["test_error"] == trained.result.test_error
        assert "weights of iteration 20" in api.lines[0].message
        assert (api.parts, api.points) == ({}, [])
    assert files_below(tmp_path / "work") == []


def test_an_attempt_whose_checkpoint_was_lost_says_so_in_its_log(tmp_path: Path) -> None:
    config = digits_config(iterations=5).model_copy(update={"lost_iteration": 200})
    with fake_api(config) as api:
        run_in_process(settings_of(api, tmp_path))
        expected = "the checkpoint of iteration 200 no longer exists; training begins anew"
        assert [line.message for line in api.lines if line.level is LogLevel.WARNING] == [expected]


@pytest.mark.parametrize("stop", StopReason)
def test_a_stopped_attempt_reports_the_reason(stop: StopReason, tmp_path: Path) -> None:
    with fake_api(digits_config(iterations=100_000)) as api:
        api.stop = stop
        assert run_in_process(settings_of(api, tmp_path)) is AttemptOutcome.FINISHED
        assert [finish.reason for finish in api.finishes] == [stop.reason]


def test_an_attempt_that_was_replaced_reports_nothing(tmp_path: Path) -> None:
    with fake_api(digits_config()) as api:
        api.inject_fault(Fault.STALE)
        assert run_in_process(settings_of(api, tmp_path)) is AttemptOutcome.FENCED
        api.recover()
        assert (api.reports, api.finishes) == ([], [])


def failing_with(error: Exception) -> object:
    def train(*_: object, observer: Reporter, **__: object) -> NoReturn:
        observer.on_metrics(make_step(1), {"train/loss": math.nan})
        observer.on_log(LogLevel.ERROR, "last line")
        raise error

    return train


def test_a_failed_attempt_delivers_its_last_log_lines_before_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        trainer, "train", failing_with(TrainingDiverged("the loss is nan at iteration 1"))
    )
    with fake_api(digits_config()) as api:
        assert run_in_process(settings_of(api, tmp_path)) is AttemptOutcome.FINISHED
        [finish] = api.finishes
        assert finish.reason is Reason.DIVERGED
        assert finish.message == "the loss is nan at iteration 1"
        assert [line.message for line in api.lines] == ["last line"]
    assert files_below(tmp_path / "work") == []


def test_undelivered_reports_stay_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(*_: object, observer: Reporter, **__: object) -> trainer.Outcome:
        observer.on_log(LogLevel.INFO, "hello")
        api.inject_fault(Fault.UNAVAILABLE)
        return trainer.Outcome(None, 1, None, None, training_seconds=1.0)

    monkeypatch.setattr(trainer, "train", train)
    monkeypatch.setattr(attempt_process, "FAILURE_FLUSH_SECONDS", 0.5)
    with fake_api(digits_config()) as api:
        settings = settings_of(api, tmp_path, delivery_seconds=0.5)
        assert run_in_process(settings) is AttemptOutcome.UNDELIVERED
        assert files_below(settings.attempt_path / "spool") != []


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (DatasetMissing("no cifar10 below /data"), Reason.DATASET_MISSING),
        (MemoryError(), Reason.OUT_OF_MEMORY),
        (torch.OutOfMemoryError("CUDA out of memory"), Reason.OUT_OF_MEMORY),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
            Reason.OUT_OF_MEMORY,
        ),
        (
            RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:538] closed"),
            Reason.WORKER_DIED,
        ),
        (torch.distributed.DistBackendError("NCCL error"), Reason.WORKER_DIED),
        (ApiUnavailable("down"), Reason.DELIVERY_FAILED),
        (ZeroDivisionError("oops"), Reason.TRAINING_ERROR),
    ],
)
def test_an_exception_has_a_reason(error: Exception, reason: Reason) -> None:
    assert classify_failure(error).reason is reason


def test_an_unknown_exception_is_reported_with_its_cause_in_a_line_and_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        _ = 1 // 0
    failed = classify_failure(caught.value)
    assert "_ = 1 // 0" in failed.message
    first, empty, traceback, *_ = failed.message.splitlines()
    assert first.startswith("ZeroDivisionError: integer division")
    assert (empty, traceback) == ("", "Traceback (most recent call last):")


def test_a_message_that_is_too_long_keeps_its_cause_and_its_end() -> None:
    cut = attempt_process._cut(f"ValueError: why\n\n{MAX_MESSAGE_LENGTH * 'x'}end")
    assert len(cut) == MAX_MESSAGE_LENGTH
    assert (cut.splitlines()[0], cut[-4:]) == ("ValueError: why", "xend")


def test_only_directories_unchanged_for_an_hour_are_deleted(tmp_path: Path) -> None:
    now = 1_800_000_000.0
    for name, minutes in (("old", 61), ("recent", 59)):
        spool = tmp_path / "attempts" / name / "spool"
        spool.mkdir(parents=True)
        for path in (spool, spool.parent):
            os.utime(path, (0, now - minutes * 60))

    attempt_process.remove_leftovers(tmp_path, now=now)

    assert [path.name for path in (tmp_path / "attempts").iterdir()] == ["recent"]


def test_files_of_an_earlier_attempt_of_the_job_are_deleted(tmp_path: Path) -> None:
    folders = tmp_path / "work" / "attempts"
    for name in ("job1-a0", "job2-a1"):
        (folders / name / "spool").mkdir(parents=True)
    with fake_api(digits_config()) as api:
        run_in_process(settings_of(api, tmp_path))
    assert [path.name for path in folders.iterdir()] == ["job2-a1"]


def test_a_single_process_rejects_an_attempt_of_two_workers(tmp_path: Path) -> None:
    config: AttemptConfig = digits_config(num_workers=2)
    with fake_api(config) as api, pytest.raises(AssertionError, match="one worker"):
        run_in_process(settings_of(api, tmp_path))
