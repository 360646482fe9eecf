"""`make bench-stacks`: optimizer steps of several networks as one stack, beside one after another.

On the GPU where there is one, else on all of this machine's processors. Images are random; the
networks take turns, so that a busy minute of the machine hits both.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.sheet import Row, publish
from service.recipes import Precision
from service.spec import JobSpec, parse
from workers.training import graphs, precision, resnet
from workers.training.engine import Engine
from workers.training.optimizer import Optimizer
from workers.training.place import Place
from workers.training.stacked import StackedEngine

BATCH_SIZE = 128
MEMBERS = (2, 4, 8)
ROUNDS = 9
# The first ones choose kernels, allocate memory, and are recorded.
WARM_STEPS = graphs.WARM_STEPS + 2
STEPS = 2
RATE = 0.01


@dataclass(frozen=True)
class Case:
    depth: int
    size: int


# Of digits and of CIFAR.
CASES = (Case(8, 8), Case(20, 8), Case(20, 32))


def main() -> int:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    computed_in = precision.choose(Precision.AUTO, device)
    place = Place(0, 1, device, threads=threads)
    rows = [_row(case, members, place, computed_in) for case in CASES for members in MEMBERS]
    publish("stacks", rows)
    return 0


def _row(case: Case, members: int, place: Place, computed_in: Precision) -> Row:
    batches = [_batch(case, place.device) for _ in range(members)]
    alone = _alone(case, batches, place, computed_in)
    stacked = _stacked(case, batches, place, computed_in)
    seconds: dict[Callable[[], None], list[float]] = {alone: [], stacked: []}
    for step in seconds:
        for _ in range(WARM_STEPS):
            step()
    for _ in range(ROUNDS):
        for step, taken in seconds.items():
            place.wait()
            began = time.perf_counter()
            for _ in range(STEPS):
                step()
            place.wait()
            taken.append((time.perf_counter() - began) / STEPS)
    images = members * BATCH_SIZE
    return Row(
        f"{members} x resnet-{case.depth} of {case.size}x{case.size} on {place.device.type}, "
        f"{computed_in}, as a stack vs one after another",
        "images/s",
        images / statistics.median(seconds[stacked]),
        images / statistics.median(seconds[alone]),
        is_more_better=True,
    )


def _alone(
    case: Case,
    batches: list[tuple[Tensor, Tensor]],
    place: Place,
    computed_in: Precision,
) -> Callable[[], None]:
    recipe = _spec(case).recipe
    engines = [
        Engine(
            model,
            model,
            optimizer,
            recipe,
            computed_in=computed_in,
            device=place.device,
            recorder=graphs.recorder_at(place),
        )
        for model, optimizer in _networks(case, len(batches), place.device)
    ]

    def step() -> None:
        for engine, (images_NCHW, labels_N) in zip(engines, batches, strict=True):
            engine.step(images_NCHW, labels_N, RATE)

    return step


def _stacked(
    case: Case,
    batches: list[tuple[Tensor, Tensor]],
    place: Place,
    computed_in: Precision,
) -> Callable[[], None]:
    recipe = _spec(case).recipe
    models, optimizers = zip(*_networks(case, len(batches), place.device), strict=True)
    engine = StackedEngine(
        models,
        optimizers,
        [recipe for _ in models],
        computed_in=computed_in,
        device=place.device,
        recorder=graphs.recorder_at(place),
    )
    images_MNCHW = [images for images, _ in batches]
    labels_MN = [labels for _, labels in batches]

    def step() -> None:
        engine.step(images_MNCHW, labels_MN, [RATE for _ in models])

    return step


def _spec(case: Case) -> JobSpec:
    return parse(
        {
            "depth": case.depth,
            "shortcut": "A",
            "dataset": "digits",
            "recipe": {"name": "quick", "batch_size": BATCH_SIZE},
        }
    )


def _networks(case: Case, count: int, device: torch.device) -> list[tuple[nn.Module, Optimizer]]:
    networks = []
    for _ in range(count):
        model = resnet.build(_spec(case), 10).to(device).to(memory_format=torch.channels_last)
        networks.append((model, Optimizer(model, _spec(case).recipe)))
    return networks


def _batch(case: Case, device: torch.device) -> tuple[Tensor, Tensor]:
    images_NCHW = torch.randn(BATCH_SIZE, 3, case.size, case.size, device=device)
    labels_N = torch.randint(0, 10, (BATCH_SIZE,), device=device)
    return images_NCHW.contiguous(memory_format=torch.channels_last), labels_N


if __name__ == "__main__":
    sys.exit(main())
