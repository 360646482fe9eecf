"""The jobs and the search that run during faults, how each must end, and uninterrupted runs."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch

from service.specs.job_spec import JobSpec, parse_job_spec
from service.specs.series import is_diagnostic
from service.states import CheckpointPart
from workers.training import checkpoint, spawn, trainer
from workers.training.device_context import DeviceContext
from workers.training.observers import NullObserver, StepTime

# A few seconds of training, with checkpoints in between.
_RECIPE = {"name": "quick", "iterations": 400, "evaluate_every": 100, "checkpoint_every": 50}

# Values by series and iteration.
Points = dict[str, dict[int, float | None]]


@dataclass(frozen=True, eq=False)
class JobCase:
    """A job's spec, and the state, reason and part of the message with which it must end."""

    name: str
    spec: Mapping[str, Any]
    state: str = "succeeded"
    reason: str = "completed"
    message: str = ""
    # Within 30 s of its submission.
    is_cancelled: bool = False

    def halved(self) -> "JobCase":
        """The same with half the iterations."""
        recipe = {**self.spec["recipe"], "iterations": self.spec["recipe"]["iterations"] // 2}
        return replace(self, spec={**self.spec, "recipe": recipe})

    @property
    def parsed_spec(self) -> JobSpec:
        return parse_job_spec(dict(self.spec))


def _digits(name: str, *, recipe: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    return {
        "dataset": "digits",
        "depth": 8,
        "shortcut": "A",
        "name": name,
        "recipe": _RECIPE | (recipe or {}),
    } | fields


ONE_WORKER = JobCase("one worker", _digits("one-worker"))
TWO_WORKERS = JobCase(
    "two workers", _digits("two-workers", shortcut="none", resources={"num_workers": 2})
)
PREEMPTIBLE = JobCase("preemptible", _digits("preemptible", seed=1, priority=10, preemptible=True))
URGENT = JobCase(
    "urgent",
    _digits(
        "urgent", seed=2, priority=90, resources={"num_workers": 3}, recipe={"batch_size": 120}
    ),
)
MISSING_DATASET = JobCase(
    "missing dataset",
    {
        "dataset": "cifar10",
        "depth": 20,
        "shortcut": "A",
        "name": "missing-dataset",
        "resources": {"num_workers": 2},
    },
    state="failed",
    reason="dataset-missing",
    message="resnetd-worker fetch cifar10",
)
DIVERGING = JobCase(
    "diverging",
    _digits("diverging", recipe={"learning_rate": 100.0, "weight_decay": 0.9, "milestones": []}),
    state="failed",
    reason="diverged",
)
_ENDLESS = {"iterations": 60_000, "evaluate_every": 60_000, "checkpoint_every": 200}
TIME_LIMITED = JobCase(
    "time limited",
    _digits("time-limited", recipe=_ENDLESS, time_limit_minutes=0.1),
    state="failed",
    reason="time-limit",
)
CANCELLED = JobCase(
    "cancelled",
    _digits("cancelled", recipe=_ENDLESS),
    state="cancelled",
    reason="cancelled",
    is_cancelled=True,
)

ALL_CASES = (
    ONE_WORKER,
    TWO_WORKERS,
    PREEMPTIBLE,
    URGENT,
    MISSING_DATASET,
    DIVERGING,
    TIME_LIMITED,
    CANCELLED,
)

SEARCH: dict[str, Any] = {
    "job": _digits("trial"),
    "space": {"recipe.learning_rate": {"loguniform": [0.01, 0.2]}},
    "algorithm": "random",
    "budget": {"trials": 6, "concurrent": 2},
}


@dataclass(frozen=True)
class ReferenceRun:
    """What an uninterrupted run of a case reports and leaves."""

    points: Points
    weights_sha256: str


def run_reference(case: JobCase, folder: Path, *, data_dir: Path | None = None) -> ReferenceRun:
    """Trains without the service, in as many new processes as the case has workers.

    `data_dir` None: the dataset is bundled.
    """
    folder.mkdir(parents=True)
    num_workers = case.parsed_spec.worker_counts[-1]
    spawn.run_processes(
        partial(_train, case, folder, data_dir or folder), num_processes=num_workers, threads=1
    )
    rows = json.loads((folder / "points.json").read_text())
    newest = checkpoint.find_newest(folder)
    assert newest is not None
    return ReferenceRun(comparable_points(rows), weights_sha256(newest[CheckpointPart.WEIGHTS]))


def comparable_points(rows: list[tuple[str, int, float | None]]) -> Points:
    """The points of (series, iteration, value) without speed and machine, which differ by run."""
    points: Points = {}
    for series, iteration, value in rows:
        if series != "images_per_second" and not is_diagnostic(series):
            points.setdefault(series, {})[iteration] = value
    return points


def weights_sha256(weights: Path) -> str:
    return checkpoint.weights_sha256(safetensors.torch.load_file(weights))


class _PointRecorder(NullObserver):
    def __init__(self) -> None:
        self.rows: list[tuple[str, int, float]] = []

    def on_metrics(self, step: StepTime, values: Mapping[str, float]) -> None:
        self.rows += [(series, step.iteration, value) for series, value in values.items()]


def _train(case: JobCase, folder: Path, data_dir: Path, context: DeviceContext) -> None:
    recorder = _PointRecorder()
    trainer.train(
        case.parsed_spec, context=context, data_dir=data_dir, work_dir=folder, observer=recorder
    )
    if context.rank == 0:
        (folder / "points.json").write_text(json.dumps(recorder.rows))
