"""Steps that are replayed; on a CPU by a tape, which keeps to a CUDA graph's rules."""

import gc
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from service.specs.job_spec import JobSpec
from service.states import LogLevel
from tests.workers.training.cpu_graph_recorder import Tape
from tests.workers.training.support import (
    CPU,
    digests,
    engine_of,
    random_batch,
    run,
    small_spec,
)
from workers.training import cuda_graphs
from workers.training.cuda_graphs import WARMUP_STEPS
from workers.training.device_context import DeviceContext
from workers.training.models import resnet

# More than one at each, so that replays see changes and none.
RATES = [0.1] * (WARMUP_STEPS + 2) + [0.01] * 2 + [0.1, 0.05, 0.05]


class Log:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, level: LogLevel, message: str) -> None:
        self.lines.append(f"{level}: {message}")


def spec_of(**recipe: Any) -> JobSpec:
    return small_spec({"batch_size": 8, "precision": "fp32"} | recipe)


def network(written: JobSpec) -> nn.Module:
    return resnet.build_network(written, 10).to(memory_format=torch.channels_last)


def batch(number: int) -> tuple[Tensor, Tensor]:
    return random_batch(number, images=8)


def trained(
    written: JobSpec, recorder: cuda_graphs.GraphRecorder | None, log: Log | None = None
) -> tuple[list[Tensor], list[Tensor]]:
    """Weights, statistics and momentum after the steps, and every step's sums."""
    model = network(written)
    engine = engine_of(written.recipe, model, recorder=recorder, log=log or Log())
    sums = [engine.step(*batch(number), rate) for number, rate in enumerate(RATES)]
    return engine.state(), sums


def is_same(some: list[Tensor], others: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(some, others, strict=True))


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
def test_replayed_steps_are_the_steps_themselves(recipe: dict[str, Any]) -> None:
    written = spec_of(**recipe)
    tape = Tape()
    weights, sums = trained(written, None)
    replayed, replayed_sums = trained(written, tape)
    assert is_same(replayed, weights)
    assert torch.equal(torch.stack(replayed_sums), torch.stack(sums))
    assert (tape.recorded, tape.replayed) == (1, len(RATES) - WARMUP_STEPS)


def test_a_run_whose_steps_are_replayed_is_the_run_whose_steps_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, plain = run(small_spec(), tmp_path / "plain")
    tapes: list[Tape] = []

    def taped(_place: DeviceContext) -> Tape:
        tapes.append(Tape())
        return tapes[-1]

    monkeypatch.setattr(cuda_graphs, "make_recorder", taped)
    _, replayed = run(small_spec(), tmp_path / "replayed")
    assert digests(replayed.files[12]) == digests(plain.files[12])
    assert replayed.values() == plain.values()
    _, resumed = run(small_spec(), tmp_path / "resumed", resume=plain.files[6])
    assert digests(resumed.files[12]) == digests(plain.files[12])
    assert all(tape.replayed > 0 for tape in tapes)
    assert cuda_graphs.GRAPH_REPLAYED_MESSAGE in replayed.lines


@pytest.mark.parametrize("skipped", ["_fused_sgd_.tensor_lr", "native_batch_norm_backward.default"])
def test_a_graph_that_takes_another_step_is_not_believed(skipped: str) -> None:
    tape, log = Tape(skips=[skipped]), Log()
    weights, sums = trained(spec_of(), None)
    kept, kept_sums = trained(spec_of(), tape, log)
    assert is_same(kept, weights)
    assert torch.equal(torch.stack(kept_sums), torch.stack(sums))
    assert tape.replayed == 1
    assert [line.split(":")[0] for line in log.lines] == ["warning"]


class Full:
    """A device on which a step cannot be recorded, once it was half done."""

    apart = Tape().apart

    def record(self, work: Any) -> Any:
        tape = Tape()
        tape.record(work)
        raise torch.OutOfMemoryError("no room for a second step")


def test_where_recording_fails_steps_stay_as_they_are() -> None:
    log = Log()
    kept, _ = trained(spec_of(), Full(), log)
    weights, _ = trained(spec_of(), None)
    assert is_same(kept, weights)
    assert log.lines == [
        "warning: steps are not replayed as a CUDA graph: no room for a second step"
    ]


class Waiting:
    """Work whose result goes by way of the processor."""

    def __init__(self) -> None:
        self.total = torch.zeros(1)

    def compute(self, inputs: Sequence[Tensor]) -> Tensor:
        self.total.add_(inputs[0].sum().item())
        return self.total.clone()

    def state(self) -> list[Tensor]:
        return [self.total]

    def forget(self) -> None: ...


def test_work_that_waits_for_the_device_is_not_replayed() -> None:
    log, work = Log(), Waiting()
    repeated = cuda_graphs.GraphedStep(Tape(), log)
    for _ in range(WARMUP_STEPS + 2):
        repeated(work, [torch.ones(1)])
    assert work.total.item() == WARMUP_STEPS + 2
    assert "must not wait" in log.lines[0]


def test_a_network_with_chance_in_it_is_not_recorded() -> None:
    tape, written = Tape(), spec_of()
    model = nn.Sequential(network(written), nn.Dropout())
    engine = engine_of(written.recipe, model, recorder=tape)
    for number in range(WARMUP_STEPS + 2):
        engine.step(*batch(number), 0.1)
    assert tape.recorded == 0


def test_what_was_replayed_is_gone_with_its_engine() -> None:
    written = spec_of()
    model = network(written)
    tape = Tape()
    engine = engine_of(written.recipe, model, recorder=tape)
    known = weakref.ref(engine)
    for number in range(WARMUP_STEPS + 2):
        engine.step(*batch(number), 0.1)
    assert tape.replayed > 0
    gc.disable()
    try:
        del engine
        assert known() is None
    finally:
        gc.enable()


def test_only_a_training_alone_on_a_gpu_is_recorded() -> None:
    assert cuda_graphs.make_recorder(DeviceContext(0, 1, CPU, threads=1)) is None
    assert (
        cuda_graphs.make_recorder(DeviceContext(0, 2, torch.device("cuda", 0), threads=1)) is None
    )


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("recipe", "near"),
    [
        ({"precision": "fp32"}, 0.1),
        ({"precision": "bf16"}, 0.3),
        ({"precision": "fp16", "micro_batch_size": 24}, 0.3),
    ],
    ids=str,
)
def test_on_a_gpu_replayed_steps_are_the_steps_themselves(
    tmp_path: Path,
    gpu: torch.device,
    monkeypatch: pytest.MonkeyPatch,
    recipe: dict[str, Any],
    near: float,
) -> None:
    place = DeviceContext(0, 1, gpu, threads=1)
    spec = small_spec({"iterations": 24} | recipe)
    _, replayed = run(spec, tmp_path / "replayed", place=place)
    assert cuda_graphs.GRAPH_REPLAYED_MESSAGE in replayed.lines
    monkeypatch.setattr(cuda_graphs, "make_recorder", lambda _place: None)
    _, plain = run(spec, tmp_path / "plain", place=place)
    for at, value in plain.values().items():
        assert replayed.values()[at] == pytest.approx(value, rel=near), at
