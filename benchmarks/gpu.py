"""`make bench-gpu`: training on one GPU: how fast, and how much of what the chip allows.

RESNETD_BENCH_IMAGES names CIFAR-10's images as for bench-train; without it `var/data/cifar10` is
taken. The photographs are made here. The exit status is 1 where a part could not be measured, and
2 without a GPU; `--rehearse` goes through all of it on the CPU with a step or two, and publishes
nothing.
"""

import statistics
import sys
import tempfile
import time
import traceback
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor

from benchmarks import images, photographs
from benchmarks.results_table import Row, publish
from service.catalog import model_stats
from service.specs.job_spec import JobSpec, parse_job_spec
from workers.training import cuda_graphs, evaluation, precision, trainer
from workers.training.data import data_source
from workers.training.device_context import DeviceContext
from workers.training.models import resnet
from workers.training.observers import NullObserver
from workers.training.optimizer import Optimizer
from workers.training.train_step import TrainStep

CIFAR_DEPTHS = (20, 56, 110)
# Of the photographs' network, on one GPU with memory for it; the paper's 256 came from eight.
PHOTOGRAPHS_A_BATCH = 128
# Enough for some epochs of the decoder's work, few enough to be made in seconds.
PHOTOGRAPHS = 1_024
SIDE = 224
CHIP_SIZE = 8_192
# A step computes the forward pass, and the gradients of maps and of weights: as much each.
PASSES = 3


@dataclass(frozen=True, kw_only=True)
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
    def place(self) -> DeviceContext:
        return DeviceContext(0, 1, self.device, threads=self.threads)


def main() -> int:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--rehearse", action="store_true")
    threads = torch.get_num_threads()
    if parser.parse_args().rehearse:
        scale = Scale(
            device=torch.device("cpu"),
            threads=threads,
            steps=1,
            rounds=1,
            iterations=4,
            photographs=16,
            a_batch=2,
            chip_size=256,
        )
    elif torch.cuda.is_available():
        scale = Scale(
            device=torch.device("cuda", 0),
            threads=threads,
            steps=100,
            rounds=5,
            iterations=64_000,
            photographs=PHOTOGRAPHS,
            a_batch=PHOTOGRAPHS_A_BATCH,
            chip_size=CHIP_SIZE,
        )
    else:
        print("no GPU here: nothing was measured")
        return 2
    rows: list[Row] = []
    failed = 0
    # Published after each part: a machine may be lent for less time than the whole takes.
    for part in (_chip, _cifar, _whole_recipe, _still_photographs, _from_jpeg):
        try:
            rows += part(scale)
        except Exception:  # noqa: BLE001 - the other parts are worth having
            traceback.print_exc()
            failed = 1
        if scale.device.type == "cuda":
            publish("gpu", rows, gpu=torch.cuda.get_device_name(scale.device))
    for row in rows:
        print(f"{row.what}: {row.ours:,.3f} {row.unit}")
    return failed


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
    dataset, data_path = images.to_train_on()
    rows = []
    for depth in CIFAR_DEPTHS:
        spec = _cifar_spec(dataset, depth, scale.iterations)
        source = data_source.open_data_source(
            spec, data_path, device=scale.device, threads=scale.threads
        )
        replayed = _images_per_second(spec, source, scale)
        single = _images_per_second(spec, source, scale, is_replayed=False)
        what = f"resnet-{depth} on CIFAR-10"
        rows += [
            Row(
                f"{what}, replayed steps vs single kernels",
                "images/s",
                replayed,
                single,
                is_more_better=True,
            ),
            _share_of_chip(
                what, spec, (32, 32), classes=source.classes, rate=replayed, scale=scale
            ),
        ]
    return rows


def _cifar_spec(dataset: str, depth: int, iterations: int) -> JobSpec:
    recipe = {"name": "paper-cifar", "iterations": iterations, "exports": []}
    return parse_job_spec(
        {"depth": depth, "shortcut": "A", "dataset": dataset, "family": "cifar", "recipe": recipe}
    )


def _photographs_spec(scale: Scale) -> JobSpec:
    recipe = {"name": "torchvision-v1", "batch_size": scale.a_batch, "micro_batch_size": None}
    return parse_job_spec(
        {"depth": 50, "shortcut": "B", "dataset": "folder:photographs", "recipe": recipe}
    )


def _still_photographs(scale: Scale) -> list[Row]:
    """What ResNet-50 makes of a batch that is there: nobody reads, decodes or cuts."""
    spec = _photographs_spec(scale)
    rate = _images_per_second(spec, _still(scale), scale)
    what = "resnet-50 on a batch that is there"
    return [
        Row(what, "images/s", rate),
        _share_of_chip(
            what, spec, (SIDE, SIDE), classes=len(photographs.CLASSES), rate=rate, scale=scale
        ),
    ]


def _from_jpeg(scale: Scale) -> list[Row]:
    """ResNet-50 fed from files, decoded by the GPU and by processes."""
    from workers.training.data import image_decoding  # noqa: PLC0415 - not all machines can decode
    from workers.training.data.image_loader import StreamingSource  # noqa: PLC0415

    spec = _photographs_spec(scale)
    rates = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "photographs"
        photographs.make(folder, count=scale.photographs)
        if not image_decoding.supports_jpeg_decoding(scale.device):
            raise RuntimeError("the device decodes no JPEG")
        for is_there in (True, False):
            source = StreamingSource(
                folder,
                spec.recipe,
                seed=0,
                device=scale.device,
                processes=scale.threads,
                is_decoded_there=is_there,
            )
            rates[is_there] = _images_per_second(spec, source, scale)
    fed = _images_per_second(spec, _still(scale), scale)
    return [
        Row(
            "resnet-50 from JPEG, decoded by the GPU vs by processes",
            "images/s",
            rates[True],
            rates[False],
            is_more_better=True,
        ),
        Row(
            "resnet-50 from JPEG vs a batch that is there",
            "images/s",
            rates[True],
            fed,
            is_more_better=True,
        ),
    ]


def _still(scale: Scale) -> "_Still":
    images_NCHW = torch.randn(scale.a_batch, 3, SIDE, SIDE, device=scale.device)
    labels_N = torch.zeros(scale.a_batch, dtype=torch.int64, device=scale.device)
    return _Still(images_NCHW.contiguous(memory_format=torch.channels_last), labels_N)


class _Still:
    """A source of one batch, again and again."""

    classes = len(photographs.CLASSES)

    def __init__(self, images_NCHW: Tensor, labels_N: Tensor) -> None:
        self._batch = images_NCHW, labels_N

    def batch(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        del start, stop
        return self._batch


def _whole_recipe(scale: Scale) -> list[Row]:
    """The paper's ResNet-20, from its first step to its last test; tests beside it, and in turn."""
    dataset, data_path = images.to_train_on()
    spec = _cifar_spec(dataset, CIFAR_DEPTHS[0], scale.iterations)
    # The first training of a process waits for what is loaded and chosen once.
    _train(_cifar_spec(dataset, CIFAR_DEPTHS[0], 10), data_path, scale)
    beside, error = _train(spec, data_path, scale)
    with mock.patch.object(evaluation, "stream_at", return_value=None):
        in_turn, _ = _train(spec, data_path, scale)
    what = f"resnet-{CIFAR_DEPTHS[0]}, {scale.iterations:,} iterations with tests and checkpoints"
    return [
        Row(f"{what}, tests beside it vs in turn", "s", beside, in_turn),
        Row(f"{what}, test error", "%", error),
    ]


class _Unwaited(NullObserver):
    """An observer that nobody hears, and that waits for no file before all is over."""

    saved: Future[None] | None = None

    def saving(self, saved: Future[None]) -> None:
        self.saved = saved


def _train(spec: JobSpec, data_path: Path, scale: Scale) -> tuple[float, float]:
    """Seconds until the device is free, and the last test error in percent."""
    observer = _Unwaited()
    with tempfile.TemporaryDirectory() as name:
        began = time.perf_counter()
        outcome = trainer.train(
            spec,
            place=scale.place,
            data_path=data_path,
            work_path=Path(name),
            observer=observer,
        )
        seconds = time.perf_counter() - began
        assert observer.saved is not None
        observer.saved.result()
    assert outcome.result.test_error is not None
    return seconds, outcome.result.test_error


def _images_per_second(
    spec: JobSpec,
    source: "data_source.DataSource | _Still",
    scale: Scale,
    *,
    is_replayed: bool = True,
) -> float:
    model = resnet.build_network(spec, source.classes).to(scale.device)
    model.to(memory_format=torch.channels_last)
    said: list[str] = []
    engine = TrainStep(
        model,
        model,
        Optimizer(model, spec.recipe),
        spec.recipe,
        computed_in=precision.resolve_precision(spec.recipe.precision, scale.device),
        device=scale.device,
        recorder=cuda_graphs.make_recorder(scale.place) if is_replayed else None,
        log=lambda _level, message: said.append(message),
    )
    size = spec.recipe.batch_size
    places = iter(count(0, size))

    def step() -> None:
        start = next(places)
        engine.step(*source.batch(start, start + size), spec.recipe.learning_rate)

    seconds = _seconds_a_step(step, scale)
    is_wanted = is_replayed and scale.device.type == "cuda"
    if said != ([cuda_graphs.GRAPH_REPLAYED_MESSAGE] if is_wanted else []):
        raise RuntimeError(f"what was measured is something else: {said}")
    return size / seconds


def _seconds_a_step(step: Callable[[], object], scale: Scale) -> float:
    return statistics.median(_rounds(step, scale))


def _rounds(step: Callable[[], object], scale: Scale) -> Iterator[float]:
    # Kernels are chosen, memory is allocated, a step is recorded.
    for _ in range(cuda_graphs.WARMUP_STEPS + 5):
        step()
    for _ in range(scale.rounds):
        scale.place.wait()
        began = time.perf_counter()
        for _ in range(scale.steps):
            step()
        scale.place.wait()
        yield (time.perf_counter() - began) / scale.steps


def _share_of_chip(
    what: str,
    spec: JobSpec,
    size: tuple[int, int],
    *,
    classes: int,
    rate: float,
    scale: Scale,
) -> Row:
    """Of a training of so many images per second, each of that height and width."""
    height, width = size
    counted = model_stats.compute_model_stats(
        spec.architecture, classes=classes, height=height, width=width
    )
    operations = 2 * PASSES * counted.multiply_adds * rate
    return Row(f"{what}: of what the chip allows", "%", 100 * operations / _peak(scale))


if __name__ == "__main__":
    sys.exit(main())
