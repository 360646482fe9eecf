"""`make bench-train`: images/s and seconds to a test error of a ResNet-20 on CIFAR-10.

Peers: training scripts in the style of torchvision and akamaster, and a minimal loop, on the same
images. All take turns of some steps, each in its own process. Then two workers against one, and a
job of the service against the minimal loop.

RESNETD_BENCH_IMAGES is an image folder with train/<class>/ and test/<class>/ (default:
var/data/cifar10), RESNETD_BENCH_EPOCHS the number of epochs (default: 1).
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch

from benchmarks import cifar, interleaved, scaling
from benchmarks.baselines import AkamasterStyle, MinimalLoop, Script, TorchvisionStyle
from benchmarks.interleaved import Measurements, Turns
from benchmarks.processes import running_service
from benchmarks.results_table import Result, write_results
from service.catalog.architectures import Stem
from service.catalog.recipes import Recipe
from service.specs.job_spec import JobSpec, parse_job_spec
from service.states import StopReason
from service.text import count_of
from workers.training import trainer
from workers.training.data import datasets
from workers.training.data.datasets import Images
from workers.training.device_context import DeviceContext
from workers.training.observers import NullObserver, StepTime

DEPTH = 20
BATCH_SIZE = 128
# Some seconds, so that images which a loader has read ahead do not matter.
STEPS_PER_TURN = 25
EVALUATIONS = 4
SERVICE_ITERATIONS = 300

_ScriptClass = Callable[[Images, Recipe, int], Script]

EPOCHS = float(os.environ.get("RESNETD_BENCH_EPOCHS", "1"))


def main() -> int:
    dataset, data_dir = cifar.locate_images()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    results: list[Result] = []
    # Written after each part: all parts take some ten minutes.
    for measure in (_measure_scripts, _measure_two_workers, _measure_service):
        results += measure(dataset, data_dir)
        write_results("train", results)
    return 0


def _make_spec(dataset: str, iterations: int, *, evaluations: int = 1, **fields: object) -> JobSpec:
    recipe = {
        "name": "paper-cifar",
        "batch_size": BATCH_SIZE,
        "iterations": iterations,
        "evaluate_every": max(1, round(iterations / evaluations)),
        "checkpoint_every": iterations,
        "exports": [],
    }
    return parse_job_spec(
        {"depth": DEPTH, "shortcut": "A", "dataset": dataset, "family": "cifar", "recipe": recipe}
        | fields
    )


def _measure_scripts(dataset: str, data_dir: Path) -> list[Result]:
    images = _read_images(dataset, data_dir)
    iterations = round(EPOCHS * len(images.train) / BATCH_SIZE)
    spec = _make_spec(dataset, iterations, evaluations=EVALUATIONS)
    scripts: dict[str, _ScriptClass] = {
        "torchvision": TorchvisionStyle,
        "akamaster": AkamasterStyle,
        "minimal": MinimalLoop,
    }
    measurements = interleaved.run_interleaved(
        {name: partial(_run_script, script, spec, data_dir) for name, script in scripts.items()}
        | {"ours": partial(_run_trainer, spec, data_dir)}
    )
    return _compare(measurements)


def _run_script(script_class: _ScriptClass, spec: JobSpec, data_dir: Path, turns: Turns) -> None:
    script = script_class(_read_images(spec.dataset, data_dir), spec.recipe, DEPTH)
    iterations, evaluate_every = spec.recipe.iterations, spec.recipe.evaluate_every
    steps = script.steps()
    # Not measured: the first step allocates memory and starts the data loaders.
    next(steps)
    step, turn_start, started = 1, 1, time.perf_counter()
    while step < iterations:
        step = next(steps)
        is_evaluated = step % evaluate_every == 0 or step == iterations
        if step - turn_start == STEPS_PER_TURN or is_evaluated:
            images = (step - turn_start) * BATCH_SIZE
            turns.measurements.add_turn(images, time.perf_counter() - started)
            if is_evaluated:
                turns.measurements.evaluations.append((step * BATCH_SIZE, script.test()))
            turns.wait_for_next()
            turn_start, started = step, time.perf_counter()


def _run_trainer(spec: JobSpec, data_dir: Path, turns: Turns) -> None:
    context = DeviceContext(0, 1, torch.device("cpu"), threads=torch.get_num_threads())
    observer = _TurnTaker(turns)
    with tempfile.TemporaryDirectory() as work_dir:
        trainer.train(
            spec, context=context, data_dir=data_dir, work_dir=Path(work_dir), observer=observer
        )


def _read_images(dataset: str, data_dir: Path) -> Images:
    return datasets.read_images(dataset, data_dir, stem=Stem.CIFAR)


class _TurnTaker(NullObserver):
    """Ends a turn after each STEPS_PER_TURN steps: the trainer asks before each whether to stop."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._steps = -1
        self._turn_start = 0
        self._started = time.perf_counter()

    @property
    def stop_requested(self) -> StopReason | None:
        self._steps += 1
        if self._steps == 1:
            self._turn_start, self._started = 1, time.perf_counter()
        elif self._steps - self._turn_start == STEPS_PER_TURN:
            self._end_turn()
        return None

    def _end_turn(self) -> None:
        images = (self._steps - self._turn_start) * BATCH_SIZE
        self._turns.measurements.add_turn(images, time.perf_counter() - self._started)
        self._turns.wait_for_next()
        self._turn_start, self._started = self._steps, time.perf_counter()

    def on_metrics(self, step: StepTime, values: Mapping[str, float]) -> None:
        """Called before and after an evaluation, whose time does not count."""
        if "train/loss" in values:
            self._evaluation_started = time.perf_counter()
        if "test/error" in values:
            self._started += time.perf_counter() - self._evaluation_started
            evaluation = (step.iteration * BATCH_SIZE, values["test/error"])
            self._turns.measurements.evaluations.append(evaluation)


def _compare(measurements: dict[str, Measurements]) -> list[Result]:
    ours = measurements["ours"]
    titles = {
        "torchvision": "torchvision-style script",
        "akamaster": "akamaster-style script",
        "minimal": "a minimal loop",
    }
    results = []
    for name, title in titles.items():
        peer = measurements[name]
        # The lowest error that both attained.
        error = max(ours.lowest_error, peer.lowest_error)
        results += [
            Result(
                f"resnet-{DEPTH} images/s vs {title}",
                "images/s",
                ours.images_per_second,
                peer.images_per_second,
                is_higher_better=True,
            ),
            Result(
                f"seconds to {error:.1f} % error vs {title}",
                "s",
                ours.seconds_to(error),
                peer.seconds_to(error),
            ),
            Result(
                f"test error after {count_of(EPOCHS, 'epoch')} vs {title}",
                "%",
                ours.last_error,
                peer.last_error,
            ),
        ]
    return results


def _measure_two_workers(dataset: str, data_dir: Path) -> list[Result]:
    spec = _make_spec(dataset, SERVICE_ITERATIONS, resources={"num_workers": 2})
    alone, shared = scaling.measure_rates(spec, data_dir)
    name = "2 workers vs 1 with both cores"
    return [Result(name, "images/s", shared, alone, is_higher_better=True)]


def _measure_service(dataset: str, data_dir: Path) -> list[Result]:
    """A job's images/s, between two runs of the minimal loop."""
    before = _measure_minimal_loop(dataset, data_dir)
    with running_service(RESNETD_DATA_DIR=str(data_dir.absolute())) as client:
        spec = _make_spec(
            dataset,
            SERVICE_ITERATIONS,
            resources={"num_workers": 1, "cpus_per_worker": torch.get_num_threads()},
        )
        job = client.submit(spec.model_dump(mode="json"))
        client.jobs.wait(job.id)
        values = client.jobs.metrics(job.id)["images_per_second"].values
    rates = [rate for rate in values if rate is not None]
    peer = statistics.mean([before, _measure_minimal_loop(dataset, data_dir)])
    name = "a job of the service vs a minimal loop"
    return [Result(name, "images/s", statistics.median(rates), peer, is_higher_better=True)]


def _measure_minimal_loop(dataset: str, data_dir: Path) -> float:
    spec = _make_spec(dataset, SERVICE_ITERATIONS // 2)
    training = partial(_run_script, MinimalLoop, spec, data_dir)
    return interleaved.run_interleaved({"minimal": training})["minimal"].images_per_second


if __name__ == "__main__":
    sys.exit(main())
