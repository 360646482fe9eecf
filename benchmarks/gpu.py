"""`make bench-gpu`: images/s of training on one GPU, and its share of the GPU's peak TFLOP/s.

Peers: the same training without CUDA graphs, with JPEG images decoded by processes, with a fixed
batch, with evaluation between the steps. CIFAR-10's images as in bench-train; JPEG images are
random. The exit status is 1 when a part cannot be measured and 2 without a GPU. `--rehearse` runs
everything on the CPU with one or two steps, and writes no results.
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

from benchmarks import cifar, jpeg_images
from benchmarks.results_table import Result, write_results
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
# For ResNet-50 on one GPU. The paper's batch of 256 is for eight.
IMAGENET_BATCH_SIZE = 128
# Created in seconds, and more than the decoder reads ahead.
NUM_JPEG_IMAGES = 1_024
IMAGE_SIZE = 224
MATRIX_SIZE = 8_192
# The forward pass, the gradients of feature maps and those of weights cost the same.
PASSES_PER_STEP = 3


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is measured. Each rate is the median over `rounds` of `steps` steps."""

    device: torch.device
    threads: int
    steps: int
    rounds: int
    iterations: int
    jpeg_images: int
    batch_size: int
    matrix_size: int

    @property
    def context(self) -> DeviceContext:
        return DeviceContext(0, 1, self.device, threads=self.threads)


def main() -> int:
    parser = ArgumentParser(prog="make bench-gpu", description=__doc__)
    parser.add_argument("--rehearse", action="store_true", help="run on the CPU")
    threads = torch.get_num_threads()
    if parser.parse_args().rehearse:
        scale = Scale(
            device=torch.device("cpu"),
            threads=threads,
            steps=1,
            rounds=1,
            iterations=4,
            jpeg_images=16,
            batch_size=2,
            matrix_size=256,
        )
    elif torch.cuda.is_available():
        scale = Scale(
            device=torch.device("cuda", 0),
            threads=threads,
            steps=100,
            rounds=5,
            iterations=64_000,
            jpeg_images=NUM_JPEG_IMAGES,
            batch_size=IMAGENET_BATCH_SIZE,
            matrix_size=MATRIX_SIZE,
        )
    else:
        print("this machine has no GPU; nothing was measured")
        return 2
    results: list[Result] = []
    exit_status = 0
    # Written after each part: the GPU may be available for a shorter time than all parts take.
    for measure in (
        _measure_peak,
        _measure_cuda_graphs,
        _measure_complete_training,
        _measure_fixed_batch,
        _measure_jpeg_decoding,
    ):
        try:
            results += measure(scale)
        except Exception:  # noqa: BLE001 - the other parts do not depend on this one
            traceback.print_exc()
            exit_status = 1
        if scale.device.type == "cuda":
            write_results("gpu", results, gpu=torch.cuda.get_device_name(scale.device))
    for result in results:
        print(f"{result.name}: {result.ours:,.3f} {result.unit}")
    return exit_status


def _measure_peak(scale: Scale) -> list[Result]:
    return [Result("peak: product of bf16 matrices", "TFLOP/s", _peak_flops(scale) / 1e12)]


@cache
def _peak_flops(scale: Scale) -> float:
    """Floating-point operations per second of a large matrix product."""
    size = scale.matrix_size
    matrix = torch.randn(size, size, device=scale.device, dtype=torch.bfloat16)
    return 2 * size**3 / _seconds_per_step(lambda: torch.mm(matrix, matrix), scale)


def _measure_cuda_graphs(scale: Scale) -> list[Result]:
    """Steps replayed as a CUDA graph, against the same steps launched kernel by kernel."""
    dataset, data_dir = cifar.locate_images()
    results = []
    for depth in CIFAR_DEPTHS:
        spec = _cifar_spec(dataset, depth, scale.iterations)
        source = data_source.open_data_source(
            spec, data_dir, device=scale.device, threads=scale.threads
        )
        replayed = _images_per_second(spec, source, scale)
        launched = _images_per_second(spec, source, scale, is_replayed=False)
        name = f"resnet-{depth} on CIFAR-10"
        results += [
            Result(
                f"{name}, CUDA graph vs kernel launches",
                "images/s",
                replayed,
                launched,
                is_higher_better=True,
            ),
            _share_of_peak(
                name, spec, (32, 32), classes=source.classes, rate=replayed, scale=scale
            ),
        ]
    return results


def _cifar_spec(dataset: str, depth: int, iterations: int) -> JobSpec:
    recipe = {"name": "paper-cifar", "iterations": iterations, "exports": []}
    return parse_job_spec(
        {"depth": depth, "shortcut": "A", "dataset": dataset, "family": "cifar", "recipe": recipe}
    )


def _imagenet_spec(scale: Scale) -> JobSpec:
    recipe = {"name": "torchvision-v1", "batch_size": scale.batch_size, "micro_batch_size": None}
    return parse_job_spec(
        {"depth": 50, "shortcut": "B", "dataset": "folder:images", "recipe": recipe}
    )


def _measure_fixed_batch(scale: Scale) -> list[Result]:
    """ResNet-50 without loading, decoding or cropping images."""
    spec = _imagenet_spec(scale)
    rate = _images_per_second(spec, _fixed_batch(scale), scale)
    name = "resnet-50 on a fixed batch"
    return [
        Result(name, "images/s", rate),
        _share_of_peak(
            name,
            spec,
            (IMAGE_SIZE, IMAGE_SIZE),
            classes=len(jpeg_images.CLASSES),
            rate=rate,
            scale=scale,
        ),
    ]


def _measure_jpeg_decoding(scale: Scale) -> list[Result]:
    """ResNet-50 on JPEG files that the GPU decodes, or processes."""
    from workers.training.data import image_decoding  # noqa: PLC0415 - needs a decoder
    from workers.training.data.streaming_source import StreamingSource  # noqa: PLC0415

    spec = _imagenet_spec(scale)
    rates = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "images"
        jpeg_images.make_image_folder(folder, count=scale.jpeg_images)
        if not image_decoding.supports_jpeg_decoding(scale.device):
            raise RuntimeError("the device cannot decode JPEG images")
        for on_device in (True, False):
            source = StreamingSource(
                folder,
                spec.recipe,
                seed=0,
                device=scale.device,
                num_processes=scale.threads,
                decodes_on_device=on_device,
            )
            rates[on_device] = _images_per_second(spec, source, scale)
    fixed = _images_per_second(spec, _fixed_batch(scale), scale)
    return [
        Result(
            "resnet-50 on JPEG, decoded by the GPU vs by processes",
            "images/s",
            rates[True],
            rates[False],
            is_higher_better=True,
        ),
        Result(
            "resnet-50 on JPEG vs on a fixed batch",
            "images/s",
            rates[True],
            fixed,
            is_higher_better=True,
        ),
    ]


def _fixed_batch(scale: Scale) -> "_FixedBatch":
    images_NCHW = torch.randn(scale.batch_size, 3, IMAGE_SIZE, IMAGE_SIZE, device=scale.device)
    labels_N = torch.zeros(scale.batch_size, dtype=torch.int64, device=scale.device)
    return _FixedBatch(images_NCHW.contiguous(memory_format=torch.channels_last), labels_N)


class _FixedBatch:
    """A data source that returns the same batch each time."""

    classes = len(jpeg_images.CLASSES)

    def __init__(self, images_NCHW: Tensor, labels_N: Tensor) -> None:
        self._batch = images_NCHW, labels_N

    def load_batch(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        del start, stop
        return self._batch


def _measure_complete_training(scale: Scale) -> list[Result]:
    """The paper's ResNet-20, with evaluation on a second CUDA stream and between the steps."""
    dataset, data_dir = cifar.locate_images()
    spec = _cifar_spec(dataset, CIFAR_DEPTHS[0], scale.iterations)
    # Not measured: the first training of a process loads libraries and chooses kernels.
    _train(_cifar_spec(dataset, CIFAR_DEPTHS[0], 10), data_dir, scale)
    overlapped, error = _train(spec, data_dir, scale)
    with mock.patch.object(evaluation, "stream_at", return_value=None):
        sequential, _ = _train(spec, data_dir, scale)
    iterations = f"{scale.iterations:,} iterations with evaluations and checkpoints"
    name = f"resnet-{CIFAR_DEPTHS[0]}, {iterations}"
    return [
        Result(f"{name}, overlapped vs sequential evaluation", "s", overlapped, sequential),
        Result(f"{name}, test error", "%", error),
    ]


class _SaveWaiter(NullObserver):
    """Keeps the last checkpoint's future, so that training is measured without its write."""

    written: Future[None] | None = None

    def on_checkpoint_pending(self, written: Future[None]) -> None:
        self.written = written


def _train(spec: JobSpec, data_dir: Path, scale: Scale) -> tuple[float, float]:
    """Seconds until the GPU is free, and the last test error in percent."""
    observer = _SaveWaiter()
    with tempfile.TemporaryDirectory() as temporary:
        started = time.perf_counter()
        outcome = trainer.train(
            spec,
            context=scale.context,
            data_dir=data_dir,
            work_dir=Path(temporary),
            observer=observer,
        )
        seconds = time.perf_counter() - started
        assert observer.written is not None
        observer.written.result()
    assert outcome.test_error is not None
    return seconds, outcome.test_error


def _images_per_second(
    spec: JobSpec,
    source: "data_source.DataSource | _FixedBatch",
    scale: Scale,
    *,
    is_replayed: bool = True,
) -> float:
    model = resnet.build_network(spec, source.classes).to(scale.device)
    model.to(memory_format=torch.channels_last)
    messages: list[str] = []
    train_step = TrainStep(
        model,
        model,
        Optimizer(model, spec.recipe),
        spec.recipe,
        resolved_precision=precision.resolve_precision(spec.recipe.precision, scale.device),
        device=scale.device,
        recorder=cuda_graphs.make_recorder(scale.context) if is_replayed else None,
        log=lambda _level, message: messages.append(message),
    )
    batch_size = spec.recipe.batch_size
    positions = iter(count(0, batch_size))

    def step() -> None:
        start = next(positions)
        train_step(*source.load_batch(start, start + batch_size), spec.recipe.learning_rate)

    seconds = _seconds_per_step(step, scale)
    is_graph_expected = is_replayed and scale.device.type == "cuda"
    expected = [cuda_graphs.GRAPH_REPLAYED_MESSAGE] if is_graph_expected else []
    if messages != expected:
        raise RuntimeError(f"expected the messages {expected}, the training logged {messages}")
    return batch_size / seconds


def _seconds_per_step(step: Callable[[], object], scale: Scale) -> float:
    return statistics.median(_measure_rounds(step, scale))


def _measure_rounds(step: Callable[[], object], scale: Scale) -> Iterator[float]:
    # These choose kernels, allocate memory and record the graph.
    for _ in range(cuda_graphs.WARMUP_STEPS + 5):
        step()
    for _ in range(scale.rounds):
        scale.context.synchronize()
        started = time.perf_counter()
        for _ in range(scale.steps):
            step()
        scale.context.synchronize()
        yield (time.perf_counter() - started) / scale.steps


def _share_of_peak(
    name: str,
    spec: JobSpec,
    size: tuple[int, int],
    *,
    classes: int,
    rate: float,
    scale: Scale,
) -> Result:
    """`rate` is in images/s, `size` their height and width."""
    height, width = size
    stats = model_stats.compute_model_stats(
        spec.architecture, classes=classes, height=height, width=width
    )
    flops = 2 * PASSES_PER_STEP * stats.multiply_adds * rate
    return Result(f"{name}, share of peak", "%", 100 * flops / _peak_flops(scale))


if __name__ == "__main__":
    sys.exit(main())
