"""`make bench-gpu`: training on one GPU: how fast, and how much of what the chip allows.

RESNETD_BENCH_IMAGES names CIFAR-10's images as for bench-train; without it `var/data/cifar10` is
taken. The photographs are made here. Without a GPU nothing is measured, and the exit status is 2;
`--rehearse` goes through all of it on the CPU with a step or two, and publishes nothing.
"""

import statistics
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor

from benchmarks import photographs
from benchmarks.sheet import Row, publish
from benchmarks.train import images_to_train_on
from service import counts
from service.spec import JobSpec, parse
from workers.training import evaluation, graphs, loop, precision, resnet, sources
from workers.training.engine import Engine
from workers.training.observers import Unheard
from workers.training.optimizer import Optimizer
from workers.training.place import Place

CIFAR_DEPTHS = (20, 56, 110)
# Of the photographs' network, on one GPU with memory for it; the paper's 256 came from eight.
PHOTOGRAPHS_A_BATCH = 128
# Enough for some epochs of the decoder's work, few enough to be made in seconds.
PHOTOGRAPHS = 1_024
CHIP_SIZE = 8_192
# A step computes the forward pass, and the gradients of maps and of weights: as much each.
PASSES = 3


@dataclass(frozen=True)
class Scale:
    """How much is measured. Each rate is the median of so many rounds of steps."""

    device: torch.device
    threads: int
    steps: int
    rounds: int
    iterations: int
    photographs: int
    a_batch: int
    chip_size: int

    @property
    def place(self) -> Place:
        return Place(0, 1, self.device, threads=self.threads)


def main() -> int:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--rehearse", action="store_true")
    threads = torch.get_num_threads()
    if parser.parse_args().rehearse:
        scale = Scale(torch.device("cpu"), threads, 1, 1, 4, 16, 2, 256)
    elif torch.cuda.is_available():
        device = torch.device("cuda", 0)
        scale = Scale(device, threads, 100, 5, 64_000, PHOTOGRAPHS, PHOTOGRAPHS_A_BATCH, CHIP_SIZE)
    else:
        print("no GPU here: nothing was measured")
        return 2
    rows: list[Row] = []
    # Published after each part: a machine may be lent for less time than the whole takes.
    for part in (_chip, _cifar, _from_jpeg, _whole_recipe):
        rows += part(scale)
        if scale.device.type == "cuda":
            publish("gpu", rows, gpu=torch.cuda.get_device_name(scale.device))
    for row in rows:
        print(f"{row.what}: {row.ours:,.3f} {row.unit}")
    return 0


def _chip(scale: Scale) -> list[Row]:
    return [Row("what the chip allows: a bf16 product of matrices", "TFLOP/s", _peak(scale) / 1e12)]


@cache
def _peak(scale: Scale) -> float:
    """Operations a second of a large product."""
    size = scale.chip_size
    one = torch.randn(size, size, device=scale.device, dtype=torch.bfloat16)
    seconds = _seconds_a_step(lambda: torch.mm(one, one), scale)
    return 2 * size**3 / seconds


def _cifar(scale: Scale) -> list[Row]:
    """Replayed steps beside steps one kernel at a time, of the same network on the same images."""
    dataset, data_path = images_to_train_on()
    rows = []
    for depth in CIFAR_DEPTHS:
        spec = _cifar_spec(dataset, depth, scale.iterations)
        source = sources.open_source(spec, data_path, device=scale.device, threads=scale.threads)
        replayed, single = (
            _images_per_second(spec, source, scale, is_replayed=is_replayed)
            for is_replayed in (True, False)
        )
        rows += [
            Row(
                f"resnet-{depth} on CIFAR-10, replayed steps vs single kernels",
                "images/s",
                replayed,
                single,
                is_more_better=True,
            ),
            _share_of_chip(f"resnet-{depth} on CIFAR-10", spec, source, replayed, scale),
        ]
    return rows


def _cifar_spec(dataset: str, depth: int, iterations: int) -> JobSpec:
    recipe = {"name": "paper-cifar", "iterations": iterations, "exports": []}
    return parse(
        {"depth": depth, "shortcut": "A", "dataset": dataset, "family": "cifar", "recipe": recipe}
    )


def _from_jpeg(scale: Scale) -> list[Row]:
    """ResNet-50 fed from files, decoded by the GPU, by processes, and not at all."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "photographs"
        photographs.make(folder, count=scale.photographs)
        spec = parse(
            {
                "depth": 50,
                "shortcut": "B",
                "dataset": "folder:photographs",
                "recipe": {
                    "name": "torchvision-v1",
                    "batch_size": scale.a_batch,
                    "images_per_pass": None,
                },
            }
        )
        by_gpu, by_processes = (
            _streamed_per_second(spec, folder, scale, is_decoded_there=is_there)
            for is_there in (True, False)
        )
        there = _streamed(spec, folder, scale, is_decoded_there=False)
        still = _Still(*there.batch(0, scale.a_batch))
        fed = _images_per_second(spec, still, scale, is_replayed=True)
        return [
            Row(
                "resnet-50 from JPEG, decoded by the GPU vs by processes",
                "images/s",
                by_gpu,
                by_processes,
                is_more_better=True,
            ),
            Row(
                "resnet-50 from JPEG vs from a batch that is there",
                "images/s",
                max(by_gpu, by_processes),
                fed,
                is_more_better=True,
            ),
            _share_of_chip("resnet-50 from a batch that is there", spec, there, fed, scale),
        ]


def _streamed_per_second(
    spec: JobSpec, folder: Path, scale: Scale, *, is_decoded_there: bool
) -> float:
    source = _streamed(spec, folder, scale, is_decoded_there=is_decoded_there)
    return _images_per_second(spec, source, scale, is_replayed=True)


def _streamed(
    spec: JobSpec, folder: Path, scale: Scale, *, is_decoded_there: bool
) -> sources.Source:
    from workers.training.streams import Streamed  # noqa: PLC0415 - torchcodec may not be there

    return Streamed(
        folder,
        spec.recipe,
        seed=0,
        device=scale.device,
        processes=scale.threads,
        is_decoded_there=is_decoded_there,
    )


class _Still:
    """A source of one batch, again and again."""

    classes = 2

    def __init__(self, images_NCHW: Tensor, labels_N: Tensor) -> None:
        self._batch = images_NCHW, labels_N

    def batch(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        del start, stop
        return self._batch


def _whole_recipe(scale: Scale) -> list[Row]:
    """The paper's ResNet-20, from its first step to its last test; tests beside it, and in turn."""
    dataset, data_path = images_to_train_on()
    spec = _cifar_spec(dataset, CIFAR_DEPTHS[0], scale.iterations)
    seconds = {}
    error = 0.0
    for is_beside in (True, False):
        began = time.perf_counter()
        in_turn = mock.patch.object(evaluation, "stream_at", return_value=None)
        with nullcontext() if is_beside else in_turn, tempfile.TemporaryDirectory() as name:
            outcome = loop.train(
                spec,
                place=scale.place,
                data_path=data_path,
                work_path=Path(name),
                observer=Unheard(),
            )
        seconds[is_beside] = time.perf_counter() - began
        error = outcome.result.test_error or 0.0
    what = f"resnet-{CIFAR_DEPTHS[0]}, {scale.iterations:,} iterations with tests and checkpoints"
    return [
        Row(f"{what}, tests beside it vs in turn", "s", seconds[True], seconds[False]),
        Row(f"{what}, test error", "%", error),
    ]


def _images_per_second(
    spec: JobSpec, source: "sources.Source | _Still", scale: Scale, *, is_replayed: bool
) -> float:
    model = resnet.build(spec, source.classes).to(scale.device)
    model.to(memory_format=torch.channels_last)
    engine = Engine(
        model,
        model,
        Optimizer(model, spec.recipe),
        spec.recipe,
        computed_in=precision.choose(spec.recipe.precision, scale.device),
        device=scale.device,
        recorder=graphs.recorder_at(scale.place) if is_replayed else None,
        log=lambda level, message: print(f"  {level}: {message}"),
    )
    size = spec.recipe.batch_size
    places = iter(count(0, size))

    def step() -> None:
        start = next(places)
        engine.step(*source.batch(start, start + size), spec.recipe.learning_rate)

    return size / _seconds_a_step(step, scale)


def _seconds_a_step(step: Callable[[], object], scale: Scale) -> float:
    return statistics.median(_rounds(step, scale))


def _rounds(step: Callable[[], object], scale: Scale) -> Iterator[float]:
    # Kernels are chosen, memory is allocated, a step is recorded.
    for _ in range(graphs.WARM_STEPS + 5):
        step()
    for _ in range(scale.rounds):
        _wait_for(scale.device)
        began = time.perf_counter()
        for _ in range(scale.steps):
            step()
        _wait_for(scale.device)
        yield (time.perf_counter() - began) / scale.steps


def _share_of_chip(
    what: str, spec: JobSpec, source: sources.Source, images_per_second: float, scale: Scale
) -> Row:
    (images_NCHW, *_), _ = next(source.views(of_validation=False, rank=0, world_size=1))
    height, width = images_NCHW.shape[2:]
    counted = counts.count(spec.architecture, classes=source.classes, height=height, width=width)
    operations = 2 * PASSES * counted.multiply_adds * images_per_second
    return Row(f"{what}: of what the chip allows", "%", 100 * operations / _peak(scale))


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    sys.exit(main())
