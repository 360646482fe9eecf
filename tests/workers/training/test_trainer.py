import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from service.states import Reason, StopReason
from tests.workers.training.support import Recorder, Scenes, digests, run, small_spec
from workers.training import checkpoint, train_hooks
from workers.training.errors import CheckpointMismatch, DatasetMissing, TrainingDiverged
from workers.training.models import resnet
from workers.training.models.resnet import ResNet


def test_eight_layers_learn_the_digits(tmp_path: Path) -> None:
    job = small_spec(
        {
            "iterations": 120,
            "batch_size": 128,
            "milestones": (80,),
            "evaluate_every": 60,
            "warmup_learning_rate": None,
            "warmup_until_error": None,
        }
    )
    outcome, _ = run(job, tmp_path)
    assert outcome.stopped is None
    assert outcome.iteration == 120
    assert outcome.result.test_error is not None
    assert outcome.result.test_error < 15


def test_every_series_has_each_of_its_points_once(tmp_path: Path) -> None:
    _, recorder = run(small_spec(), tmp_path)
    found = [(point.series, point.iteration) for point in recorder.points]
    wanted = {
        (series, iteration)
        for series in (
            "train/loss",
            "train/error",
            "learning_rate",
            "images_per_second",
            "test/loss",
            "test/error",
        )
        for iteration in (4, 8, 12)
    }
    assert len(found) == len(set(found))
    assert set(found) == wanted


def test_checkpoints_come_on_schedule_and_say_what_they_attain(tmp_path: Path) -> None:
    outcome, recorder = run(small_spec(), tmp_path)
    # Iteration 6 lies between two evaluations: its weights were never tested.
    assert [(note.iteration, note.test_error) for note in recorder.notes] == [
        (6, None),
        (12, outcome.result.test_error),
    ]
    assert [digest.part for digest in recorder.notes[0].parts] == list(recorder.files[6])


def test_the_observer_hears_what_was_started(tmp_path: Path) -> None:
    _, recorder = run(small_spec(), tmp_path)
    (environment,) = recorder.told
    assert (environment.parameters, environment.classes) == (75_290, 10)
    assert (environment.train_images, environment.test_images) == (1437, 360)
    assert recorder.progresses[-1].iteration == recorder.progresses[-1].iterations == 12


def test_the_warm_up_ends_by_the_training_error(tmp_path: Path) -> None:
    recipe = {"iterations": 20, "evaluate_every": 20, "milestones": (15,)}
    _, recorder = run(small_spec(recipe), tmp_path)
    values = recorder.values()
    warm_at = next(at for at in (5, 10, 15, 20) if (values["train/error", at] or 0) < 95)
    rates = {at: values["learning_rate", at] for at in (5, 10, 15, 20)}
    assert rates == {
        at: 0.01 if at <= warm_at else (0.1 if at <= 15 else pytest.approx(0.01)) for at in rates
    }
    assert any("warm-up ends" in line for line in recorder.lines)


@pytest.mark.parametrize("stops_at", [5, 8])
def test_a_stopped_and_resumed_run_is_the_whole_run(tmp_path: Path, stops_at: int) -> None:
    whole_outcome, whole = run(small_spec(), tmp_path / "whole")

    stopped_outcome, stopped = run(small_spec(), tmp_path / "stopped", stops_at=stops_at)
    assert (stopped_outcome.stopped, stopped_outcome.iteration) == (StopReason.CANCEL, stops_at)
    outcome, resumed = run(
        small_spec(), tmp_path / "resumed", resume=stopped.files[stopped_outcome.iteration]
    )

    assert outcome.result.test_error == whole_outcome.result.test_error
    assert digests(resumed.files[12]) == digests(whole.files[12])
    assert not stopped.values().keys() & resumed.values().keys()
    assert stopped.values() | resumed.values() == whole.values()


def test_a_run_that_was_killed_repeats_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    _, whole = run(small_spec(), tmp_path / "whole")
    _, resumed = run(small_spec(), tmp_path / "resumed", resume=whole.files[6])
    assert digests(resumed.files[12]) == digests(whole.files[12])
    assert resumed.values().items() <= whole.values().items()


def test_a_run_that_was_done_is_done_when_resumed(tmp_path: Path) -> None:
    whole_outcome, whole = run(small_spec(), tmp_path / "whole")
    outcome, resumed = run(small_spec(), tmp_path / "resumed", resume=whole.files[12])
    assert outcome == whole_outcome
    assert resumed.points == []


def test_another_seed_trains_another_network(tmp_path: Path) -> None:
    _, first = run(small_spec(), tmp_path / "first")
    _, second = run(small_spec(seed=1), tmp_path / "second")
    assert digests(first.files[12]) != digests(second.files[12])


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    _, other = run(small_spec(seed=1), tmp_path / "other")
    with pytest.raises(CheckpointMismatch, match='"seed": 1'):
        run(small_spec(), tmp_path / "this", resume=other.files[6])


def test_a_job_may_be_renamed_between_two_attempts(tmp_path: Path) -> None:
    _, first = run(small_spec(), tmp_path / "first")
    outcome, _ = run(small_spec(name="renamed"), tmp_path / "second", resume=first.files[6])
    assert outcome.iteration == 12


def test_a_loss_that_is_no_number_ends_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = resnet.build_network

    def build_broken(*arguments: Any) -> nn.Module:
        network = build(*arguments)
        assert isinstance(network, ResNet)
        nn.init.constant_(network.fc.bias, math.inf)
        return network

    monkeypatch.setattr(resnet, "build_network", build_broken)
    recorder = Recorder()
    with pytest.raises(TrainingDiverged, match="at iteration 4,") as raised:
        run(small_spec(), tmp_path, recorder=recorder)
    assert raised.value.reason is Reason.DIVERGED
    assert [
        (point.series, point.iteration) for point in recorder.points if point.value is None
    ] == [("train/loss", 4)]


def test_a_missing_data_set_is_told_with_the_command_that_fetches_it(tmp_path: Path) -> None:
    with pytest.raises(DatasetMissing) as raised:
        run(small_spec(dataset="cifar10"), tmp_path, data_path=tmp_path / "data")
    assert f"resnetd-worker fetch cifar10 --data-path {tmp_path / 'data'}" in str(raised.value)


@pytest.mark.parametrize(
    "recipe",
    [
        {"micro_batch_size": 12, "precision": "bf16"},
        {"schedule": "plateau", "patience": 1, "evaluate_every": 2},
        {"bn_statistics": "precise", "test_time_augmentation": "hflip", "validation_images": 200},
        {
            "schedule": "cosine",
            "momentum_form": "torch",
            "nesterov": True,
            "warmup_iterations": 3,
            "warmup_until_error": None,
            "bias_learning_rate_scale": 64,
            "flip": "alternating",
            "normalization": "channel",
        },
    ],
    ids=["passes in bf16", "plateau", "population", "airbench"],
)
def test_every_kind_of_run_is_resumed_bit_for_bit(tmp_path: Path, recipe: dict[str, Any]) -> None:
    _, whole = run(small_spec(recipe), tmp_path / "whole")
    _, resumed = run(small_spec(recipe), tmp_path / "resumed", resume=whole.files[6])
    assert digests(resumed.files[12]) == digests(whole.files[12])
    assert resumed.values().items() <= whole.values().items()


def test_a_plateau_drops_the_learning_rate(tmp_path: Path) -> None:
    recipe = {
        "schedule": "plateau",
        "patience": 1,
        "evaluate_every": 2,
        "learning_rate": 1e-9,  # too little to lower an error
        "warmup_learning_rate": None,
        "warmup_until_error": None,
    }
    _, recorder = run(small_spec(recipe), tmp_path)
    errors = [recorder.values()["test/error", at] for at in range(2, 13, 2)]
    rates = [recorder.values()["learning_rate", at] for at in range(2, 13, 2)]
    expected, best, rate = [], None, 1e-9
    for error in errors:
        expected.append(pytest.approx(rate))
        assert error is not None
        if best is None or error < best:
            best = error
        else:
            rate /= 10
    assert rates == expected
    assert rate < 1e-9


def test_validation_images_are_told_apart_from_test_images(tmp_path: Path) -> None:
    _, recorder = run(small_spec({"validation_images": 437}), tmp_path)
    (environment,) = recorder.told
    assert (environment.train_images, environment.test_images) == (1000, 360)
    series = {point.series for point in recorder.points}
    assert {"validation/loss", "validation/error", "test/error"} <= series


def test_a_run_records_its_precision_and_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    _, first = run(small_spec(), tmp_path / "first")
    assert first.told[0].numerics["precision"] == "bf16"

    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    _, resumed = run(small_spec(), tmp_path / "resumed", resume=first.files[6])
    assert resumed.told[0].numerics["precision"] == "bf16"
    assert digests(resumed.files[12]) == digests(first.files[12])


@given(
    iterations=st.integers(1, 10_000_000),
    evaluate_every=st.integers(1, 10_000),
)
def test_some_hundred_reports_tell_a_whole_run(iterations: int, evaluate_every: int) -> None:
    recipe = small_spec({"iterations": iterations, "evaluate_every": evaluate_every}).recipe
    step = train_hooks.report_every(recipe)
    assert step <= max(5, iterations // 500)
    assert iterations / step <= 1_100 or step <= 5


def _digests(folder: Path) -> dict[str, str]:
    files = checkpoint.find_newest(folder)
    assert files is not None
    return digests(files)


@pytest.mark.slow
def test_processes_stop_at_one_step_boundary(scenes: Scenes) -> None:
    _, ranks = scenes
    ends = {
        (scene["outcome"]["stopped"], scene["outcome"]["iteration"])
        for scene in (rank["stopped"] for rank in ranks)
    }
    # The wish before step 6 travels during that step and counts before step 7.
    assert ends == {("cancel", 7)}
    assert ranks[0]["stopped"]["checkpoints"] == [6, 7]


@pytest.mark.slow
def test_processes_resume_to_the_whole_run(scenes: Scenes) -> None:
    folder, ranks = scenes
    assert _digests(folder / "resumed") == _digests(folder / "whole")
    points = {
        name: {tuple(point) for point in ranks[0][name]["points"]}
        for name in ("whole", "stopped", "resumed")
    }
    assert not points["stopped"] & points["resumed"]
    assert points["stopped"] | points["resumed"] == points["whole"]


@pytest.mark.slow
def test_a_wish_to_stop_before_the_last_step_comes_too_late(scenes: Scenes) -> None:
    folder, ranks = scenes
    assert {rank["late"]["outcome"]["stopped"] for rank in ranks} == {None}
    assert _digests(folder / "late") == _digests(folder / "whole")


@pytest.mark.slow
def test_only_rank_0_is_heard(scenes: Scenes) -> None:
    _, (first, *others) = scenes
    assert len(first["whole"]["points"]) == 15
    assert len(first["whole"]["pids"][0]) == 1 + len(others)
    for other in others:
        assert other["whole"]["points"] == other["whole"]["pids"] == []
        assert other["whole"]["outcome"]["iteration"] == 12


@pytest.mark.slow
def test_what_is_gathered_is_in_the_order_of_the_ranks(scenes: Scenes) -> None:
    _, ranks = scenes
    assert [rank["gathered"]["ranks"] for rank in ranks] == [list(range(len(ranks)))] * len(ranks)
