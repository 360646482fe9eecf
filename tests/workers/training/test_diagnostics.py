"""Where the time of steps goes, as real trainings report it."""

import json
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from service.jobs.bottleneck import Bottleneck, BottleneckCode, find_bottleneck
from service.specs import job_spec
from service.specs.job_spec import JobSpec
from service.specs.series import StepSeries
from tests.workers.training.support import RecordingObserver, run, small_spec
from workers.training import spawn
from workers.training.data.resident_source import ResidentSource
from workers.training.device_context import DeviceContext
from workers.training.models import resnet
from workers.training.train_step import TrainStep

RECIPE = {"iterations": 5, "evaluate_every": 5, "checkpoint_every": 5, "exports": []}
# Of the slow worker: several times as long as a step of the network takes.
DELAY_SECONDS = 0.3


def _bottleneck(observer: RecordingObserver) -> Bottleneck | None:
    return find_bottleneck(dict(observer.newest()))


def test_a_slow_data_source_is_the_bottleneck(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_batch = ResidentSource.load_batch
    returned_at = time.perf_counter()

    def load_slowly(source: ResidentSource, start: int, stop: int) -> tuple[Tensor, Tensor]:
        nonlocal returned_at
        # Three times as long as everything between two batches: three quarters of a step.
        time.sleep(min(3 * (time.perf_counter() - returned_at), 0.5))
        batch = load_batch(source, start, stop)
        returned_at = time.perf_counter()
        return batch

    monkeypatch.setattr(ResidentSource, "load_batch", load_slowly)
    _, observer = run(small_spec(RECIPE), tmp_path)
    found = _bottleneck(observer)
    assert found is not None
    assert found.code is BottleneckCode.DATA_LOADING


def test_a_training_from_memory_has_no_bottleneck(tmp_path: Path) -> None:
    _, observer = run(small_spec(RECIPE), tmp_path)
    assert _bottleneck(observer) is None
    assert observer.newest()[StepSeries.SYNCHRONIZE] == 0.0


def test_the_parts_of_a_step_are_together_its_duration(tmp_path: Path) -> None:
    spec = small_spec()
    _, observer = run(spec, tmp_path)
    for iteration in (4, 8, 12):
        parts = [observer.points[series, iteration] for series in StepSeries]
        duration = spec.recipe.batch_size / observer.points["images_per_second", iteration]
        assert all(part >= 0 for part in parts)
        assert sum(parts) == pytest.approx(duration)


def _run_with_slow_ranks(directory: Path, context: DeviceContext) -> None:
    """Trains once with each rank as the slow one, in processes that start once."""
    compute = TrainStep.compute

    def compute_slowly(self: TrainStep, inputs: Sequence[Tensor]) -> Tensor:
        time.sleep(DELAY_SECONDS)
        return compute(self, inputs)

    spec = small_spec(RECIPE, resources={"num_workers": context.world_size})
    for slow_rank in range(context.world_size):
        is_slow = context.rank == slow_rank
        TrainStep.compute = compute_slowly if is_slow else compute  # type: ignore[method-assign]
        _, observer = run(spec, directory / str(slow_rank), context=context)
        if context.rank == 0:
            (directory / f"{slow_rank}.json").write_text(json.dumps(observer.newest()))


@pytest.mark.slow
def test_a_slow_worker_makes_synchronization_the_bottleneck(tmp_path: Path) -> None:
    spawn.run_processes(partial(_run_with_slow_ranks, tmp_path), num_processes=2, threads=1)
    for slow_rank in (0, 1):
        newest = json.loads((tmp_path / f"{slow_rank}.json").read_text())
        # The other worker waits for all of the delay: half of it in the mean of both.
        assert newest[StepSeries.SYNCHRONIZE] > 0.8 * DELAY_SECONDS / 2
        found = find_bottleneck(newest)
        assert found is not None
        assert found.code is BottleneckCode.SYNCHRONIZATION


@pytest.mark.parametrize(
    "fields",
    [
        {"depth": 8, "shortcut": "A"},
        {"depth": 8, "shortcut": "none"},
        {"depth": 8, "shortcut": "B", "activation_order": "full-preactivation"},
        {"depth": 8, "shortcut": "A", "shortcut_form": "exclusive-gating"},
        {"depth": 18, "shortcut": "B", "family": "imagenet"},
        {"depth": 50, "shortcut": "B", "family": "imagenet"},
    ],
)
def test_the_first_layer_of_a_network_has_its_gradient_last(fields: dict[str, Any]) -> None:
    spec: JobSpec = job_spec.parse_job_spec({"dataset": "digits"} | fields)
    model = resnet.build_network(spec, 10)
    order: list[str] = []
    for name, parameter in model.named_parameters():
        parameter.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
            lambda _, name=name: order.append(name)
        )
    model(torch.randn(2, 3, 64, 64)).sum().backward()
    assert order[-1] == next(name for name, _ in model.named_parameters())
    assert sorted(order) == sorted(name for name, _ in model.named_parameters())
