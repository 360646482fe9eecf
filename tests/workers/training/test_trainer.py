import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from service.specs.job_spec import StartMode
from service.specs.series import MachineSeries, StepSeries
from service.states import CheckpointPart, Reason, StopReason
from tests.workers.training.support import (
    RecordingObserver,
    digests,
    run,
    small_spec,
)
from workers.training import checkpoint, machine_meter, throughput, trainer
from workers.training.errors import CheckpointMismatch, DatasetMissing, TrainingDiverged
from workers.training.evaluation import Evaluator
from workers.training.models import resnet
from workers.training.models.resnet import ResNet
from workers.training.train_step import TrainStep


def test_a_resnet_8_learns_digits(tmp_path: Path) -> None:
    spec = small_spec(
        {
            "iterations": 120,
            "batch_size": 128,
            "milestones": (80,),
            "evaluate_every": 60,
            "warmup_learning_rate": None,
            "warmup_until_error": None,
        }
    )
    outcome, _ = run(spec, tmp_path)
    assert outcome.stopped is None
    assert outcome.iteration == 120
    assert outcome.test_error is not None
    assert outcome.test_error < 15


def test_every_series_has_each_of_its_points_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_meter, "SAMPLE_SECONDS", 0.0)
    _, observer = run(small_spec(), tmp_path)
    expected = {
        (series, iteration)
        for series in (
            "train/loss",
            "train/error",
            "train/top5_error",
            "gradient_norm",
            "learning_rate",
            "images_per_second",
            "test/loss",
            "test/error",
            "test/top5_error",
            *StepSeries,
            MachineSeries.CPU_PERCENT,
            MachineSeries.MEMORY_BYTES,
        )
        for iteration in (4, 8, 12)
    }
    assert observer.points.keys() == expected
    assert observer.num_points == len(expected)


def test_checkpoints_are_saved_on_schedule_with_the_error_of_their_weights(tmp_path: Path) -> None:
    outcome, observer = run(small_spec(), tmp_path)
    # Iteration 6 is between two evaluations: its weights are not evaluated.
    assert [(saved.iteration, saved.test_error) for saved in observer.saved] == [
        (6, None),
        (12, outcome.test_error),
    ]


def test_the_observer_receives_environment_and_progress(tmp_path: Path) -> None:
    _, observer = run(small_spec(), tmp_path)
    (environment,) = observer.environments
    assert (environment.parameters, environment.classes) == (75_290, 10)
    assert (environment.train_images, environment.test_images) == (1437, 360)
    assert observer.progress[-1].iteration == observer.progress[-1].iterations == 12


def test_warm_up_ends_by_the_training_error(tmp_path: Path) -> None:
    recipe = {"iterations": 20, "evaluate_every": 20, "milestones": (15,)}
    _, observer = run(small_spec(recipe), tmp_path)
    values = observer.values()
    reports = (5, 10, 15, 20)
    ends_at = next(at for at in reports if values["train/error", at] < 95)
    rates = {at: values["learning_rate", at] for at in reports}
    assert rates == {
        at: 0.01 if at <= ends_at else (0.1 if at <= 15 else pytest.approx(0.01)) for at in reports
    }
    assert any("warm-up ends" in line for line in observer.lines)


@pytest.mark.parametrize("stop_at", [5, 8])
def test_a_stopped_and_resumed_run_equals_the_uninterrupted_run(
    tmp_path: Path, stop_at: int
) -> None:
    expected, uninterrupted = run(small_spec(), tmp_path / "uninterrupted")

    first, stopped = run(small_spec(), tmp_path / "stopped", stop_at=stop_at)
    assert (first.stopped, first.iteration) == (StopReason.CANCEL, stop_at)
    outcome, resumed = run(small_spec(), tmp_path / "resumed", resume=stopped.files[stop_at])

    assert outcome.test_error == expected.test_error
    assert digests(resumed.files[12]) == digests(uninterrupted.files[12])
    assert not stopped.values().keys() & resumed.values().keys()
    assert stopped.values() | resumed.values() == uninterrupted.values()


def test_a_killed_run_repeats_the_steps_after_its_checkpoint(tmp_path: Path) -> None:
    _, uninterrupted = run(small_spec(), tmp_path / "uninterrupted")
    _, resumed = run(small_spec(), tmp_path / "resumed", resume=uninterrupted.files[6])
    assert digests(resumed.files[12]) == digests(uninterrupted.files[12])
    assert resumed.values().items() <= uninterrupted.values().items()


def test_a_complete_run_is_complete_when_resumed(tmp_path: Path) -> None:
    expected, complete = run(small_spec(), tmp_path / "complete")
    outcome, resumed = run(small_spec(), tmp_path / "resumed", resume=complete.files[12])
    assert outcome == expected
    assert resumed.points == {}


def test_another_seed_trains_another_network(tmp_path: Path) -> None:
    _, first = run(small_spec(), tmp_path / "first")
    _, second = run(small_spec(seed=1), tmp_path / "second")
    assert digests(first.files[12]) != digests(second.files[12])


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    _, other = run(small_spec(seed=1), tmp_path / "other")
    with pytest.raises(CheckpointMismatch, match='"seed": 1'):
        run(small_spec(), tmp_path / "this", resume=other.files[6])


def test_a_job_may_be_renamed_between_attempts(tmp_path: Path) -> None:
    _, first = run(small_spec(), tmp_path / "first")
    outcome, _ = run(small_spec(name="renamed"), tmp_path / "second", resume=first.files[6])
    assert outcome.iteration == 12


def test_a_loss_that_is_not_finite_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = resnet.build_network

    def build_broken(*arguments: Any) -> nn.Module:
        network = build(*arguments)
        assert isinstance(network, ResNet)
        nn.init.constant_(network.fc.bias, math.inf)
        return network

    monkeypatch.setattr(resnet, "build_network", build_broken)
    observer = RecordingObserver()
    with pytest.raises(TrainingDiverged, match="at iteration 4 ") as raised:
        run(small_spec(), tmp_path, observer=observer)
    assert raised.value.reason is Reason.DIVERGED
    not_finite = [key for key, value in observer.points.items() if not math.isfinite(value)]
    assert not_finite == [("train/loss", 4), ("gradient_norm", 4)]


def test_a_checkpoint_that_is_not_finite_is_not_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = resnet.build_network

    def build_broken(*arguments: Any) -> nn.Module:
        network = build(*arguments)
        assert isinstance(network, ResNet)
        nn.init.constant_(network.fc.bias, math.inf)
        return network

    monkeypatch.setattr(resnet, "build_network", build_broken)
    observer = RecordingObserver(stop_at=2)
    with pytest.raises(TrainingDiverged, match="not finite at iteration 2 ") as raised:
        run(small_spec(), tmp_path, observer=observer)
    assert raised.value.reason is Reason.DIVERGED
    assert observer.saved == []
    assert checkpoint.find_newest(tmp_path) is None


def test_the_loss_scale_of_fp16_is_in_the_checkpoint(tmp_path: Path) -> None:
    spec = small_spec({"precision": "fp16"})
    _, observer = run(spec, tmp_path)
    scale, steps = 0.0, 0
    for iteration in (6, 12):
        saved = checkpoint.load(observer.files[iteration], spec=spec).state.loss_scale
        assert saved is not None
        assert saved[0] >= 1
        assert (saved[0], saved[1]) != (scale, steps)
        scale, steps = saved


def test_a_missing_data_set_is_reported_with_the_command_that_fetches_it(tmp_path: Path) -> None:
    with pytest.raises(DatasetMissing) as raised:
        run(small_spec(dataset="cifar10"), tmp_path, data_dir=tmp_path / "data")
    assert f"resnetd-worker fetch cifar10 --data-dir {tmp_path / 'data'}" in str(raised.value)


@pytest.mark.parametrize(
    "recipe",
    [
        {"micro_batch_size": 12, "precision": "bf16"},
        {"precision": "fp16", "learning_rate": 0.3},
        {"schedule": "plateau", "select_by": "test", "patience": 1, "evaluate_every": 2},
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
    ids=["micro-batches in bf16", "fp16", "plateau", "precise batch norm", "airbench"],
)
def test_every_kind_of_run_is_resumed_bit_for_bit(tmp_path: Path, recipe: dict[str, Any]) -> None:
    _, uninterrupted = run(small_spec(recipe), tmp_path / "uninterrupted")
    _, resumed = run(small_spec(recipe), tmp_path / "resumed", resume=uninterrupted.files[6])
    assert digests(resumed.files[12]) == digests(uninterrupted.files[12])
    assert resumed.values().items() <= uninterrupted.values().items()


@pytest.mark.parametrize(
    ("fields", "recipe"),
    [
        ({"shortcut_form": "dropout"}, {}),
        ({"survival": 0.5}, {"micro_batch_size": 12, "precision": "bf16"}),
        (
            {"shortcut_form": "dropout", "survival": 0.5},
            {"bn_statistics": "precise", "micro_batch_size": 24},
        ),
        ({"shortcut_form": "exclusive-gating", "survival": 0.8}, {"precision": "fp16"}),
    ],
    ids=["dropout", "stochastic depth", "both, with precise batch norm", "gates"],
)
def test_what_a_network_drops_is_resumed_bit_for_bit(
    tmp_path: Path, fields: dict[str, Any], recipe: dict[str, Any]
) -> None:
    spec = small_spec(recipe, **fields)
    _, uninterrupted = run(spec, tmp_path / "uninterrupted")
    torch.rand(7)  # another process has another state of torch's generator
    _, resumed = run(spec, tmp_path / "resumed", resume=uninterrupted.files[6])
    assert digests(resumed.files[12]) == digests(uninterrupted.files[12])
    assert resumed.values().items() <= uninterrupted.values().items()


@pytest.mark.parametrize(
    "fields",
    [
        {"activation_order": "bn-after-addition"},
        {"activation_order": "relu-before-addition"},
        {"activation_order": "relu-only-preactivation"},
        {"activation_order": "full-preactivation"},
        {"shortcut_form": "constant-scaling"},
        # With a bias of -6 it takes longer: the gate multiplies the branch by 1/404.
        {"shortcut_form": "exclusive-gating", "gate_bias": -1},
        {"shortcut_form": "shortcut-only-gating", "precision": "bf16"},
        {"shortcut_form": "dropout", "activation_order": "full-preactivation"},
        {"survival": 0.5},
        {"survival": 0.5, "shortcut": "B", "activation_order": "full-preactivation"},
    ],
    ids=str,
)
def test_every_variant_of_the_second_paper_learns(tmp_path: Path, fields: dict[str, Any]) -> None:
    recipe = {
        "iterations": 40,
        "evaluate_every": 40,
        "checkpoint_every": 40,
        "milestones": (),
        "warmup_learning_rate": None,
        "warmup_until_error": None,
        "precision": fields.pop("precision", "fp32"),
    }
    outcome, observer = run(small_spec(recipe, **fields), tmp_path)
    losses = [loss for (series, _), loss in observer.points.items() if series == "train/loss"]
    assert losses[-1] < 0.7 * losses[0]
    assert outcome.test_error is not None
    assert outcome.test_error < 80


def test_a_plateau_drops_the_learning_rate(tmp_path: Path) -> None:
    recipe = {
        "schedule": "plateau",
        "select_by": "test",
        "patience": 1,
        "evaluate_every": 2,
        "learning_rate": 1e-9,  # too small to lower an error
        "warmup_learning_rate": None,
        "warmup_until_error": None,
    }
    _, observer = run(small_spec(recipe), tmp_path)
    errors = [observer.values()["test/error", at] for at in range(2, 13, 2)]
    rates = [observer.values()["learning_rate", at] for at in range(2, 13, 2)]
    expected, best, rate = [], math.inf, 1e-9
    for error in errors:
        expected.append(pytest.approx(rate))
        if error < best:
            best = error
        else:
            rate /= 10
    assert rates == expected
    assert rate < 1e-9


class StepClock:
    """Each step takes a second, each evaluation a hundred."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._seconds = 0.0
        monkeypatch.setattr(throughput, "time", self)
        self._delay(monkeypatch, TrainStep, "__call__", 1.0)
        self._delay(monkeypatch, Evaluator, "start", 100.0)

    def monotonic(self) -> float:
        return self._seconds

    def _delay(
        self, monkeypatch: pytest.MonkeyPatch, owner: type, name: str, seconds: float
    ) -> None:
        function = getattr(owner, name)

        def slow(*args: Any, **options: Any) -> Any:
            self._seconds += seconds
            return function(*args, **options)

        monkeypatch.setattr(owner, name, slow)


def test_a_run_ends_with_the_step_after_its_max_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    StepClock(monkeypatch)
    spec = small_spec({"max_seconds": 6})
    outcome, observer = run(spec, tmp_path)
    assert outcome.stopped is None
    assert outcome.budget_end == "used up its max_seconds of 6, after 7.0 s at iteration 7"
    # The evaluation after step 4 does not count; the last step is evaluated and saved as the last.
    assert [saved.iteration for saved in observer.saved] == [6, 7]
    assert observer.values()["test/error", 7] == outcome.test_error
    assert {CheckpointPart.CARD, CheckpointPart.PREDICTIONS} <= observer.files[7].keys()


def test_a_resumed_run_goes_on_counting_its_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = small_spec({"max_seconds": 6})
    StepClock(monkeypatch)
    expected, uninterrupted = run(spec, tmp_path / "uninterrupted")
    _, stopped = run(spec, tmp_path / "stopped", stop_at=5)
    outcome, resumed = run(spec, tmp_path / "resumed", resume=stopped.files[5])
    assert outcome.budget_end == expected.budget_end
    assert digests(resumed.files[7]) == digests(uninterrupted.files[7])

    again, nothing = run(spec, tmp_path / "again", resume=resumed.files[7])
    assert (again, nothing.points) == (outcome, {})
    continued, _ = run(
        small_spec({"max_seconds": 9}),
        tmp_path / "continued",
        resume=resumed.files[7],
        start_mode=StartMode.CONTINUE,
    )
    assert continued.iteration == 10


def test_a_run_ends_with_the_evaluation_that_reaches_its_target(tmp_path: Path) -> None:
    recipe = {"validation_images": 437, "target_error": 99.9}
    outcome, observer = run(small_spec(recipe), tmp_path)
    assert outcome.validation_error is not None
    assert outcome.budget_end == (
        f"reached its target_error of 99.9 % with {outcome.validation_error:g} %, "
        f"after {outcome.step_seconds:.1f} s at iteration 4"
    )
    (saved,) = observer.saved
    assert (saved.iteration, saved.test_error) == (4, outcome.test_error)
    assert {CheckpointPart.CARD, CheckpointPart.PREDICTIONS} <= saved.files.keys()
    assert checkpoint.load(saved.files, spec=small_spec(recipe)).state.budget_end


def test_a_target_that_is_not_reached_changes_no_step(tmp_path: Path) -> None:
    _, expected = run(small_spec({"validation_images": 437}), tmp_path / "expected")
    recipe = {"validation_images": 437, "target_error": 0.0, "max_seconds": 3600}
    outcome, observer = run(small_spec(recipe), tmp_path / "budget")
    assert (outcome.iteration, outcome.budget_end) == (12, None)
    weights = [digests(files)["weights"] for files in (expected.files[12], observer.files[12])]
    assert weights[0] == weights[1]


def test_validation_images_have_series_of_their_own(tmp_path: Path) -> None:
    _, observer = run(small_spec({"validation_images": 437}), tmp_path)
    (environment,) = observer.environments
    assert (environment.train_images, environment.test_images) == (1000, 360)
    series = {name for name, _ in observer.points}
    assert {"validation/loss", "validation/error", "test/error"} <= series


def test_a_run_records_its_precision_and_keeps_it_on_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    _, first = run(small_spec(), tmp_path / "first")
    assert first.environments[0].numerics["precision"] == "bf16"

    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    _, resumed = run(small_spec(), tmp_path / "resumed", resume=first.files[6])
    assert resumed.environments[0].numerics["precision"] == "bf16"
    assert digests(resumed.files[12]) == digests(first.files[12])


@given(iterations=st.integers(1, 10_000_000), evaluate_every=st.integers(1, 10_000))
def test_a_run_makes_about_500_reports(iterations: int, evaluate_every: int) -> None:
    recipe = small_spec({"iterations": iterations, "evaluate_every": evaluate_every}).recipe
    every = trainer.report_every(recipe)
    assert every <= max(5, iterations // 500)
    assert iterations / every <= 1_100 or every <= 5
