"""`make bench-train`: training beside plain scripts, on the same machine, data and run.

RESNETD_BENCH_IMAGES names the images: a folder with train/<class>/ and test/<class>/. Without it
`var/data/cifar10` is taken. RESNETD_BENCH_EPOCHS is how long each network trains (default 1).

The networks take turns of some steps, each in a process of its own.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

import resnetd
from benchmarks import images, interleaved, scaling
from benchmarks.baselines import AkamasterStyle, BareLoop, Script, TorchvisionStyle
from benchmarks.interleaved import Score, Turns
from benchmarks.results_table import Row, publish
from deploy.local import LocalService
from service.catalog.architectures import Family
from service.catalog.recipes import Recipe
from service.specs.job_spec import JobSpec, parse_job_spec
from service.specs.protocol import MetricPoint
from service.states import StopReason
from workers.training import trainer
from workers.training.data import datasets
from workers.training.data.datasets import Images
from workers.training.device_context import DeviceContext
from workers.training.observers import NullObserver

DEPTH = 20
BATCH_SIZE = 128
# Steps of a turn: some seconds, so that what a loader has read ahead does not count.
TURN = 25
# Of each network on the way.
TESTS = 4
# Of a run through the service.
SERVICE_ITERATIONS = 300

_Make = Callable[[Images, Recipe, int], Script]

EPOCHS = float(os.environ.get("RESNETD_BENCH_EPOCHS", "1"))


def main() -> int:
    dataset, data_path = images.to_train_on()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    rows: list[Row] = []
    # Published after each part: the whole takes some ten minutes.
    for part in (_beside_scripts, _two_workers, _through_the_service):
        rows += part(dataset, data_path)
        publish("train", rows)
    return 0


def _spec(dataset: str, iterations: int, *, tests: int = 1, **fields: object) -> JobSpec:
    recipe = {
        "name": "paper-cifar",
        "batch_size": BATCH_SIZE,
        "iterations": iterations,
        "evaluate_every": max(1, round(iterations / tests)),
        "checkpoint_every": iterations,
        "exports": [],
    }
    return parse_job_spec(
        {"depth": DEPTH, "shortcut": "A", "dataset": dataset, "family": "cifar", "recipe": recipe}
        | fields
    )


def _beside_scripts(dataset: str, data_path: Path) -> list[Row]:
    images = _read(dataset, data_path)
    iterations = round(EPOCHS * len(images.train) / BATCH_SIZE)
    spec = _spec(dataset, iterations, tests=TESTS)
    scripts: dict[str, _Make] = {
        "torchvision": TorchvisionStyle,
        "akamaster": AkamasterStyle,
        "bare": BareLoop,
    }
    scores = interleaved.hold(
        {name: partial(_run_script, make, spec, data_path) for name, make in scripts.items()}
        | {"ours": partial(_run_ours, spec, data_path)}
    )
    return _rows(scores)


def _run_script(make: _Make, spec: JobSpec, data_path: Path, turns: Turns) -> None:
    script = make(_read(spec.dataset, data_path), spec.recipe, DEPTH)
    iterations, every = spec.recipe.iterations, spec.recipe.evaluate_every
    steps = script.steps()
    next(steps)  # the first, with its allocations and its loaders' start, counts for nobody
    done, since, began = 1, 1, time.perf_counter()
    while done < iterations:
        done = next(steps)
        is_tested = done % every == 0 or done == iterations
        if done - since == TURN or is_tested:
            turns.score.count((done - since) * BATCH_SIZE, time.perf_counter() - began)
            if is_tested:
                turns.score.tests.append((done * BATCH_SIZE, script.test()))
            turns.pass_on()
            since, began = done, time.perf_counter()


def _run_ours(spec: JobSpec, data_path: Path, turns: Turns) -> None:
    place = DeviceContext(0, 1, torch.device("cpu"), threads=torch.get_num_threads())
    observer = _TakingTurns(turns)
    with tempfile.TemporaryDirectory() as work_path:
        trainer.train(
            spec, place=place, data_path=data_path, work_path=Path(work_path), observer=observer
        )


def _read(dataset: str, data_path: Path) -> Images:
    return datasets.read_images(dataset, data_path, family=Family.CIFAR)


class _TakingTurns(NullObserver):
    """An observer that lets the others train after each of our turns."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._steps = -1
        self._since = 0
        self._began = time.perf_counter()

    @property
    def stop(self) -> StopReason | None:
        self._steps += 1
        if self._steps == 1:
            self._since, self._began = 1, time.perf_counter()
        elif self._steps - self._since == TURN:
            self._pause()
        return None

    def _pause(self) -> None:
        images = (self._steps - self._since) * BATCH_SIZE
        self._turns.score.count(images, time.perf_counter() - self._began)
        self._turns.pass_on()
        self._since, self._began = self._steps, time.perf_counter()

    def metrics(self, points: list[MetricPoint]) -> None:
        """Told when a test is over: its time is nobody's."""
        for point in points:
            if point.series == "train/loss":
                self._tested_from = time.perf_counter()
            if point.series == "test/error":
                self._began += time.perf_counter() - self._tested_from
                self._turns.score.tests.append((point.iteration * BATCH_SIZE, point.value or 0.0))


def _rows(scores: dict[str, Score]) -> list[Row]:
    ours = scores["ours"]
    titles = {
        "torchvision": "torchvision-style script",
        "akamaster": "akamaster-style script",
        "bare": "a bare loop",
    }
    rows = []
    for name, title in titles.items():
        theirs = scores[name]
        # The lowest error that both attained; each network's seconds are its own training's.
        error = max(min(each for _, each in one.tests) for one in (ours, theirs))
        rows += [
            Row(
                f"resnet-{DEPTH} images/s vs {title}",
                "images/s",
                ours.images_per_second,
                theirs.images_per_second,
                is_more_better=True,
            ),
            Row(
                f"seconds to {error:.1f} % error vs {title}",
                "s",
                ours.seconds_to(error),
                theirs.seconds_to(error),
            ),
            Row(f"test error after {EPOCHS:g} epochs vs {title}", "%", ours.error, theirs.error),
        ]
    return rows


def _two_workers(dataset: str, data_path: Path) -> list[Row]:
    spec = _spec(dataset, SERVICE_ITERATIONS, resources={"num_workers": 2})
    one, two = scaling.rates(spec, data_path)
    what = "2 workers vs 1 with both their cores"
    return [Row(what, "images/s", two, one, is_more_better=True)]


def _through_the_service(dataset: str, data_path: Path) -> list[Row]:
    """A job's rate, beside bare loops before and after it."""
    bare = _bare_rate(dataset, data_path)
    with tempfile.TemporaryDirectory(prefix="rb") as name:
        folder = Path(name)
        settings = {"RESNETD_DATA_DIR": str(data_path.absolute())}
        with (
            LocalService(folder / "var", logs_path=folder / "logs", settings=settings) as service,
            resnetd.Client(url=service.url, token=service.token) as client,
        ):
            spec = _spec(
                dataset,
                SERVICE_ITERATIONS,
                resources={"num_workers": 1, "cpus_per_worker": torch.get_num_threads()},
            )
            job = client.submit(**spec.model_dump(mode="json"))
            client.wait(job.id)
            values = client.metrics(job.id)["images_per_second"].values
    rates = [rate for rate in values if rate is not None]
    bare = statistics.mean([bare, _bare_rate(dataset, data_path)])
    what = "a job's images/s vs a bare loop"
    return [Row(what, "images/s", statistics.median(rates), bare, is_more_better=True)]


def _bare_rate(dataset: str, data_path: Path) -> float:
    spec = _spec(dataset, SERVICE_ITERATIONS // 2)
    scores = interleaved.hold({"bare": partial(_run_script, BareLoop, spec, data_path)})
    return scores["bare"].images_per_second


if __name__ == "__main__":
    sys.exit(main())
