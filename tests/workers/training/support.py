"""Shared by the tests of training: an observer that records, and small runs."""

import json
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from service.catalog.recipes import Recipe
from service.specs import job_spec
from service.specs.job_spec import JobSpec, StartMode
from service.specs.series import is_diagnostic
from service.states import CheckpointPart, LogLevel, StopReason
from workers.training import checkpoint, distributed, precision, trainer
from workers.training.device_context import DeviceContext
from workers.training.observers import (
    LaunchTimes,
    Progress,
    RunEnvironment,
    SavedCheckpoint,
    StepTime,
)
from workers.training.optimizer import Optimizer
from workers.training.train_step import TrainStep
from workers.training.trainer import Outcome

CPU = torch.device("cpu")

SMALL = {
    "name": "quick",
    "iterations": 12,
    "batch_size": 48,
    "evaluate_every": 4,
    "checkpoint_every": 6,
    # Ends within the run: a resumed run must know that it has ended.
    "warmup_learning_rate": 0.01,
    "warmup_until_error": 95.0,
}

# Directory of the files, and what each process reported.
ProcessRuns = tuple[Path, list[dict[str, Any]]]


@dataclass
class RecordingObserver:
    """Requests a stop before step `stop_at` (counted from this run's first step)."""

    stop_at: int | None = None
    points: dict[tuple[str, int], float] = field(default_factory=dict)
    num_points: int = 0
    series_order: list[tuple[str, int]] = field(default_factory=list)
    saved: list[SavedCheckpoint] = field(default_factory=list)
    environments: list[RunEnvironment] = field(default_factory=list)
    progress: list[Progress] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    steps_started: int = 0

    def on_start(self, environment: RunEnvironment) -> None:
        self.environments.append(environment)

    def on_first_step(self, times: LaunchTimes) -> None: ...

    def on_progress(self, progress: Progress) -> None:
        self.progress.append(progress)

    def on_metrics(self, step: StepTime, values: Mapping[str, float]) -> None:
        iteration = step.iteration
        self.num_points += len(values)
        self.points |= {(series, iteration): value for series, value in values.items()}
        self.series_order += [(series, iteration) for series in values]

    def on_log(self, level: LogLevel, message: str) -> None:
        del level
        self.lines.append(message)

    def on_checkpoint_pending(self, written: Future[None]) -> None:
        written.result()

    def on_checkpoint(self, saved: SavedCheckpoint) -> None:
        self.saved.append(saved)

    @property
    def stop_requested(self) -> StopReason | None:
        self.steps_started += 1
        if self.stop_at is None or self.steps_started <= self.stop_at:
            return None
        return StopReason.CANCEL

    @property
    def files(self) -> dict[int, Mapping[CheckpointPart, Path]]:
        """The files of each checkpoint, by iteration."""
        return {saved.iteration: saved.files for saved in self.saved}

    def values(self) -> dict[tuple[str, int], float]:
        """All points but those of speed and machine, which differ between any two runs."""
        return {
            (series, iteration): value
            for (series, iteration), value in self.points.items()
            if series != "images_per_second" and not is_diagnostic(series)
        }

    def newest(self) -> dict[str, float]:
        """The last value of each series."""
        return {series: value for (series, _), value in sorted(self.points.items())}


def small_spec(recipe: dict[str, Any] | None = None, **fields: Any) -> JobSpec:
    return job_spec.parse_job_spec(
        {"dataset": "digits", "depth": 8, "shortcut": "A", "recipe": SMALL | (recipe or {})}
        | fields
    )


def make_step(recipe: Recipe, model: nn.Module, **options: Any) -> TrainStep:
    """Steps the network in this process, on a CPU."""
    return TrainStep(
        model,
        model,
        Optimizer(model, recipe),
        recipe,
        resolved_precision=precision.resolve_precision(recipe.precision, CPU),
        device=CPU,
        **options,
    )


def random_batch(seed: int, *, images: int) -> tuple[Tensor, Tensor]:
    """images_NCHW of 16 pixels a side, channels last in memory, and labels_N of ten classes."""
    generator = torch.Generator().manual_seed(seed)
    images_NCHW = torch.randn(images, 3, 16, 16, generator=generator)
    labels_N = torch.randint(0, 10, (images,), generator=generator)
    return images_NCHW.contiguous(memory_format=torch.channels_last), labels_N


def run(
    spec: JobSpec,
    work_dir: Path,
    *,
    context: DeviceContext | None = None,
    stop_at: int | None = None,
    resume: Mapping[CheckpointPart, Path] | None = None,
    start_mode: StartMode | None = None,
    data_dir: Path = Path("nowhere"),
    observer: RecordingObserver | None = None,
) -> tuple[Outcome, RecordingObserver]:
    observer = observer or RecordingObserver(stop_at)
    if context is None:
        context = DeviceContext(rank=0, world_size=1, device=CPU, threads=1)
    outcome = trainer.train(
        spec,
        context=context,
        data_dir=data_dir,
        work_dir=work_dir,
        observer=observer,
        resume=resume,
        start_mode=start_mode,
    )
    return outcome, observer


def digests(files: Mapping[CheckpointPart, Path]) -> dict[str, str]:
    """Of the tensors of a checkpoint."""
    return {
        part: checkpoint.weights_sha256(safetensors.torch.load_file(files[part]))
        for part in (CheckpointPart.WEIGHTS, CheckpointPart.STATE)
    }


# One step shows which images batch normalization sees; three let a difference grow.
BATCH_NORM_RECIPE = {
    "iterations": 3,
    "evaluate_every": 3,
    "checkpoint_every": 3,
    "precision": "fp32",
    "learning_rate": 0.01,
    "warmup_learning_rate": None,
    "warmup_until_error": None,
}


# Six steps with small changes: a difference of the ranks shows, rounding does not grow.
STOCHASTIC_RECIPE = BATCH_NORM_RECIPE | {
    "iterations": 6,
    "evaluate_every": 6,
    "checkpoint_every": 3,
}
STOCHASTIC: dict[str, Any] = {
    "survival": 0.3,
    "shortcut_form": "shortcut-only-gating",
    "gate_bias": -2,
}


def run_in_processes(directory: Path, context: DeviceContext) -> None:
    """All runs of the tests with several processes, in one go since processes start slowly.

    Each rank writes what it observed as JSON.
    """
    runs: dict[str, Any] = {}

    def add(
        name: str,
        recipe: dict[str, Any] | None = None,
        fields: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        resources = {"num_workers": context.world_size}
        spec = small_spec(recipe, resources=resources, **fields or {})
        outcome, observer = run(spec, directory / name, context=context, **options)
        runs[name] = {
            "outcome": asdict(outcome),
            "points": [[*key, value] for key, value in observer.values().items()],
            "checkpoints": sorted(observer.files),
            "pids": [environment.pids for environment in observer.environments],
        }
        torch.distributed.barrier()  # other ranks read what rank 0 has written

    add("uninterrupted")
    add("stopped", stop_at=6)
    add("resumed", resume=checkpoint.find_newest(directory / "stopped"))
    add("stopped late", stop_at=11)
    add("limited", {"max_seconds": 1e-6})
    add("target", {"validation_images": 437, "target_error": 99.9})
    add("sync_batch_norm", BATCH_NORM_RECIPE | {"sync_batch_norm": True})
    add("local_batch_norm", BATCH_NORM_RECIPE)
    for name, fields in (("stochastic", STOCHASTIC), ("dropout", {"shortcut_form": "dropout"})):
        add(name, STOCHASTIC_RECIPE, fields)
        saved = directory / name / "00000003"
        files = {part: saved / file for part, file in checkpoint.FILE_NAMES.items()}
        add(f"{name} resumed", STOCHASTIC_RECIPE, fields, resume=files)
    # Its micro-batches are those of "stochastic".
    elastic = (STOCHASTIC_RECIPE | {"micro_batch_size": 16}, STOCHASTIC)
    add("elastic", *elastic, stop_at=1)
    if context.rank == 0:
        alone = replace(context, world_size=1)
        newest = checkpoint.find_newest(directory / "elastic")
        run(
            small_spec(elastic[0], **STOCHASTIC),
            directory / "elastic",
            context=alone,
            stop_at=2,
            resume=newest,
        )
    torch.distributed.barrier()
    add("elastic", *elastic, resume=checkpoint.find_newest(directory / "elastic"))
    with distributed.join_ranks(rank=context.rank, world_size=context.world_size) as ranks:
        runs["gathered"] = ranks.all_gather(torch.tensor(context.rank)).tolist()
    (directory / f"rank-{context.rank}.json").write_text(json.dumps(runs))
