"""What is submitted while things break, what each job deserves, and what undisturbed runs give."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch

from service.specs.job_spec import JobSpec, parse_job_spec
from service.specs.protocol import MetricPoint
from service.states import CheckpointPart
from workers.training import checkpoint, spawn, trainer
from workers.training.device_context import DeviceContext
from workers.training.observers import NullObserver

# A few seconds of training, with checkpoints in between.
_RECIPE = {"name": "quick", "iterations": 400, "evaluate_every": 100, "checkpoint_every": 50}

Points = dict[str, dict[int, float | None]]


@dataclass(frozen=True, eq=False)
class Order:
    """`reason` and `state`: the end that the spec deserves. `is_cancelled`: as somebody asks."""

    name: str
    spec: Mapping[str, Any]
    state: str = "succeeded"
    reason: str = "completed"
    is_cancelled: bool = False

    def halved(self) -> "Order":
        """Half as many iterations."""
        recipe = {**self.spec["recipe"], "iterations": self.spec["recipe"]["iterations"] // 2}
        return replace(self, spec={**self.spec, "recipe": recipe})

    @property
    def parsed(self) -> JobSpec:
        return parse_job_spec(dict(self.spec))


def _digits(name: str, *, recipe: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    return {
        "dataset": "digits",
        "depth": 8,
        "shortcut": "A",
        "name": name,
        "recipe": _RECIPE | (recipe or {}),
    } | fields


ONE = Order("one", _digits("one"))
TWO = Order("two", _digits("two", shortcut="none", resources={"num_workers": 2}))
MEEK = Order("meek", _digits("meek", seed=1, priority=10, preemptible=True))
URGENT = Order(
    "urgent",
    _digits(
        "urgent", seed=2, priority=90, resources={"num_workers": 3}, recipe={"batch_size": 120}
    ),
)
MISSING = Order(
    "missing",
    {"dataset": "cifar10", "depth": 20, "shortcut": "A", "name": "missing"},
    state="failed",
    reason="dataset-missing",
)
DIVERGING = Order(
    "diverging",
    _digits("diverging", recipe={"learning_rate": 100.0, "weight_decay": 0.9, "milestones": []}),
    state="failed",
    reason="diverged",
)
SEARCH: dict[str, Any] = {
    "job": _digits("searched"),
    "space": {"recipe.learning_rate": {"loguniform": [0.01, 0.2]}},
    "algorithm": "random",
    "budget": {"trials": 6, "concurrent": 2},
}
ENDLESS = {"iterations": 60_000, "evaluate_every": 60_000, "checkpoint_every": 200}
LATE = Order(
    "late",
    _digits("late", recipe=ENDLESS, time_limit_minutes=0.1),
    state="failed",
    reason="time-limit",
)
UNWANTED = Order(
    "unwanted",
    _digits("unwanted", recipe=ENDLESS),
    state="cancelled",
    reason="cancelled",
    is_cancelled=True,
)

ALL = (ONE, TWO, MEEK, URGENT, MISSING, DIVERGING, LATE, UNWANTED)


@dataclass(frozen=True)
class Undisturbed:
    """What a run told and left that nobody disturbed."""

    points: Points
    weights_sha256: str


def run_undisturbed(order: Order, folder: Path) -> Undisturbed:
    """In fresh processes of this machine, as many as the order has workers, without a service."""
    folder.mkdir(parents=True)
    workers = order.parsed.resources.num_workers
    spawn.spawn(partial(_train, order, folder), num_processes=workers, threads=1)
    said = json.loads((folder / "points.json").read_text())
    newest = checkpoint.find_newest(folder)
    assert newest is not None
    return Undisturbed(points_of(said), sha256_of(newest[CheckpointPart.WEIGHTS]))


def points_of(rows: list[tuple[str, int, float | None]]) -> Points:
    """By series and iteration, without what no two runs have alike."""
    points: Points = {}
    for series, iteration, value in rows:
        if series != "images_per_second":
            points.setdefault(series, {})[iteration] = value
    return points


def sha256_of(weights: Path) -> str:
    return checkpoint.weights_sha256(safetensors.torch.load_file(weights))


class _Listener(NullObserver):
    def __init__(self, told: list[MetricPoint]) -> None:
        self._told = told

    def metrics(self, points: list[MetricPoint]) -> None:
        self._told += points


def _train(order: Order, folder: Path, place: DeviceContext) -> None:
    told: list[MetricPoint] = []
    trainer.train(
        order.parsed,
        place=place,
        data_path=folder,
        work_path=folder,
        observer=_Listener(told),
    )
    if place.rank == 0:
        rows = [(point.series, point.iteration, point.value) for point in told]
        (folder / "points.json").write_text(json.dumps(rows))
