"""Replayed steps; on a CPU with a recorder that keeps to the rules of CUDA graphs."""

import gc
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from service.specs.job_spec import JobSpec
from service.states import LogLevel
from tests.workers.training.cpu_graph_recorder import CpuGraphRecorder
from tests.workers.training.support import (
    CPU,
    digests,
    make_step,
    random_batch,
    run,
    small_spec,
)
from workers.training import cuda_graphs
from workers.training.cuda_graphs import WARMUP_STEPS, GraphRecorder
from workers.training.device_context import DeviceContext
from workers.training.models import resnet

# Some equal, some different from the one before: a replay must see both.
RATES = [0.1] * (WARMUP_STEPS + 2) + [0.01] * 2 + [0.1, 0.05, 0.05]


class Log:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, level: LogLevel, message: str) -> None:
        self.lines.append(f"{level}: {message}")


def make_spec(**recipe: Any) -> JobSpec:
    return small_spec({"batch_size": 8, "precision": "fp32"} | recipe)


def make_network(spec: JobSpec) -> nn.Module:
    return resnet.build_network(spec, 10).to(memory_format=torch.channels_last)


def make_batch(number: int) -> tuple[Tensor, Tensor]:
    return random_batch(number, images=8)


def train(
    spec: JobSpec, recorder: GraphRecorder | None, log: Log | None = None
) -> tuple[list[Tensor], list[Tensor]]:
    """The state tensors after one step per rate, and the sums of each step."""
    step = make_step(spec.recipe, make_network(spec), recorder=recorder, log=log or Log())
    sums = [step(*make_batch(number), rate) for number, rate in enumerate(RATES)]
    return step.state_tensors(), sums


def are_equal(tensors: list[Tensor], others: list[Tensor]) -> bool:
    return all(torch.equal(tensor, other) for tensor, other in zip(tensors, others, strict=True))


@pytest.mark.parametrize(
    "recipe",
    [
        {},
        {"precision": "bf16", "micro_batch_size": 4},
        {"precision": "fp16", "label_smoothing": 0.2},
        {"momentum_form": "torch", "nesterov": True, "bias_learning_rate_scale": 64.0},
        {"momentum": 0.0},
    ],
    ids=str,
)
def test_replayed_steps_equal_computed_steps(recipe: dict[str, Any]) -> None:
    recorder = CpuGraphRecorder()
    state, sums = train(make_spec(**recipe), None)
    replayed_state, replayed_sums = train(make_spec(**recipe), recorder)
    assert are_equal(replayed_state, state)
    assert are_equal(replayed_sums, sums)
    assert (recorder.num_recorded, recorder.num_replayed) == (1, len(RATES) - WARMUP_STEPS)


def test_a_run_with_replayed_steps_equals_a_run_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, plain = run(small_spec(), tmp_path / "plain")
    recorders: list[CpuGraphRecorder] = []

    def make_recorder(_context: DeviceContext) -> CpuGraphRecorder:
        recorders.append(CpuGraphRecorder())
        return recorders[-1]

    monkeypatch.setattr(cuda_graphs, "make_recorder", make_recorder)
    _, replayed = run(small_spec(), tmp_path / "replayed")
    assert digests(replayed.files[12]) == digests(plain.files[12])
    assert replayed.values() == plain.values()
    _, resumed = run(small_spec(), tmp_path / "resumed", resume=plain.files[6])
    assert digests(resumed.files[12]) == digests(plain.files[12])
    assert all(recorder.num_replayed > 0 for recorder in recorders)
    assert cuda_graphs.GRAPH_REPLAYED_MESSAGE in replayed.lines


@pytest.mark.parametrize("omitted", ["_fused_sgd_.tensor_lr", "native_batch_norm_backward.default"])
def test_a_graph_that_computes_another_step_is_discarded(omitted: str) -> None:
    recorder, log = CpuGraphRecorder(omit=[omitted]), Log()
    expected, expected_sums = train(make_spec(), None)
    state, sums = train(make_spec(), recorder, log)
    assert are_equal(state, expected)
    assert are_equal(sums, expected_sums)
    assert recorder.num_replayed == 1
    assert [line.split(":")[0] for line in log.lines] == ["warning"]


class FullDeviceRecorder(CpuGraphRecorder):
    """Runs out of memory in the middle of a recording."""

    def record(self, compute: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        super().record(compute)
        raise torch.OutOfMemoryError("no memory for a second step")


def test_steps_are_computed_if_recording_fails() -> None:
    log = Log()
    state, _ = train(make_spec(), FullDeviceRecorder(), log)
    expected, _ = train(make_spec(), None)
    assert are_equal(state, expected)
    assert log.lines == [
        "warning: steps are not replayed as a CUDA graph: no memory for a second step"
    ]


class WaitingStep:
    """Reads a number back from the device."""

    def __init__(self) -> None:
        self.total = torch.zeros(1)

    def compute(self, inputs: Sequence[Tensor]) -> Tensor:
        self.total.add_(inputs[0].sum().item())
        return self.total.clone()

    def state_tensors(self) -> list[Tensor]:
        return [self.total]

    def discard_gradients(self) -> None: ...


def test_a_step_that_waits_for_the_device_is_not_replayed() -> None:
    log, step = Log(), WaitingStep()
    graphed = cuda_graphs.GraphedStep(CpuGraphRecorder(), log)
    for _ in range(WARMUP_STEPS + 2):
        graphed(step, [torch.ones(1)])
    assert step.total.item() == WARMUP_STEPS + 2
    assert "must not wait" in log.lines[0]


def test_a_network_with_dropout_is_not_recorded() -> None:
    recorder, spec = CpuGraphRecorder(), make_spec()
    model = nn.Sequential(make_network(spec), nn.Dropout())
    step = make_step(spec.recipe, model, recorder=recorder)
    for number in range(WARMUP_STEPS + 2):
        step(*make_batch(number), 0.1)
    assert recorder.num_recorded == 0


def test_a_network_that_drops_branches_is_not_recorded() -> None:
    recorder, spec = CpuGraphRecorder(), small_spec(survival=0.5)
    step = make_step(spec.recipe, resnet.build_network(spec, 10), recorder=recorder)
    for number in range(WARMUP_STEPS + 2):
        step(*make_batch(number), 0.1)
    assert recorder.num_recorded == 0


def test_a_graph_is_freed_with_its_step() -> None:
    recorder, spec = CpuGraphRecorder(), make_spec()
    step = make_step(spec.recipe, make_network(spec), recorder=recorder)
    reference = weakref.ref(step)
    for number in range(WARMUP_STEPS + 2):
        step(*make_batch(number), 0.1)
    assert recorder.num_replayed > 0
    gc.disable()
    try:
        del step
        assert reference() is None
    finally:
        gc.enable()


def test_only_a_single_rank_on_a_gpu_records() -> None:
    gpu = torch.device("cuda", 0)
    assert cuda_graphs.make_recorder(DeviceContext(0, 1, CPU, threads=1)) is None
    assert cuda_graphs.make_recorder(DeviceContext(0, 2, gpu, threads=1)) is None


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("recipe", "tolerance"),
    [
        ({"precision": "fp32"}, 0.1),
        ({"precision": "bf16"}, 0.3),
        ({"precision": "fp16", "micro_batch_size": 24}, 0.3),
    ],
    ids=str,
)
def test_replayed_steps_on_a_gpu_are_close_to_computed_ones(
    tmp_path: Path,
    gpu: torch.device,
    monkeypatch: pytest.MonkeyPatch,
    recipe: dict[str, Any],
    tolerance: float,
) -> None:
    context = DeviceContext(0, 1, gpu, threads=1)
    spec = small_spec({"iterations": 24} | recipe)
    _, replayed = run(spec, tmp_path / "replayed", context=context)
    assert cuda_graphs.GRAPH_REPLAYED_MESSAGE in replayed.lines
    monkeypatch.setattr(cuda_graphs, "make_recorder", lambda _context: None)
    _, plain = run(spec, tmp_path / "plain", context=context)
    for key, value in plain.values().items():
        assert replayed.values()[key] == pytest.approx(value, rel=tolerance), key
