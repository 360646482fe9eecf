"""What the tests of training share: an observer that remembers, and small trainings."""

import json
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from service.catalog.recipes import Recipe
from service.specs import job_spec
from service.specs.job_spec import JobSpec, StartMode
from service.specs.protocol import (
    CheckpointManifest,
    LaunchTimes,
    MetricPoint,
    Progress,
    RunEnvironment,
)
from service.states import CheckpointPart, LogLevel, StopReason
from workers.training import checkpoint, distributed, precision, trainer
from workers.training.device_context import DeviceContext
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
    # Over before the run is: a resumed run must know that it is.
    "warmup_learning_rate": 0.01,
    "warmup_until_error": 95.0,
}


Scenes = tuple[Path, list[dict[str, Any]]]


@dataclass
class Recorder:
    """Asks to stop from the reading of `stop` on that comes before step `stops_at`."""

    stops_at: int | None = None
    points: list[MetricPoint] = field(default_factory=list)
    notes: list[CheckpointManifest] = field(default_factory=list)
    files: dict[int, dict[CheckpointPart, Path]] = field(default_factory=dict)
    told: list[RunEnvironment] = field(default_factory=list)
    progresses: list[Progress] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    readings: int = 0

    def environment(self, environment: RunEnvironment) -> None:
        self.told.append(environment)

    def launched(self, launch: LaunchTimes) -> None: ...

    def progress(self, progress: Progress) -> None:
        self.progresses.append(progress)

    def metrics(self, points: list[MetricPoint]) -> None:
        self.points += points

    def log(self, level: LogLevel, message: str) -> None:
        del level
        self.lines.append(message)

    def saving(self, saved: Future[None]) -> None:
        saved.result()

    def checkpoint(self, note: CheckpointManifest, files: dict[CheckpointPart, Path]) -> None:
        self.notes.append(note)
        self.files[note.iteration] = files

    @property
    def stop(self) -> StopReason | None:
        self.readings += 1
        if self.stops_at is None or self.readings <= self.stops_at:
            return None
        return StopReason.CANCEL

    def values(self) -> dict[tuple[str, int], float | None]:
        """Every point but those of speed, which no two runs have alike."""
        return {
            (point.series, point.iteration): point.value
            for point in self.points
            if point.series != "images_per_second"
        }


def small_spec(recipe: dict[str, Any] | None = None, **fields: Any) -> JobSpec:
    return job_spec.parse_job_spec(
        {"dataset": "digits", "depth": 8, "shortcut": "A", "recipe": SMALL | (recipe or {})}
        | fields
    )


def engine_of(written: Recipe, model: nn.Module, **options: Any) -> TrainStep:
    """Steps the network alone, on a CPU."""
    return TrainStep(
        model,
        model,
        Optimizer(model, written),
        written,
        computed_in=precision.resolve_precision(written.precision, CPU),
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
    job: JobSpec,
    work_path: Path,
    *,
    place: DeviceContext | None = None,
    stops_at: int | None = None,
    resume: dict[CheckpointPart, Path] | None = None,
    mode: StartMode | None = None,
    data_path: Path = Path("nowhere"),
    recorder: Recorder | None = None,
) -> tuple[Outcome, Recorder]:
    recorder = recorder or Recorder(stops_at)
    if place is None:
        place = DeviceContext(rank=0, world_size=1, device=CPU, threads=1)
    outcome = trainer.train(
        job,
        place=place,
        data_path=data_path,
        work_path=work_path,
        observer=recorder,
        resume=resume,
        mode=mode,
    )
    return outcome, recorder


def digests(files: dict[CheckpointPart, Path]) -> dict[str, str]:
    """Of the tensors of a checkpoint's weights and state."""
    return {
        part: checkpoint.weights_sha256(safetensors.torch.load_file(files[part]))
        for part in (CheckpointPart.WEIGHTS, CheckpointPart.STATE)
    }


# One step is enough to see over whom batch normalisation goes; three let it grow.
NORMALISED = {
    "iterations": 3,
    "evaluate_every": 3,
    "checkpoint_every": 3,
    "precision": "fp32",
    "learning_rate": 0.01,
    "warmup_learning_rate": None,
    "warmup_until_error": None,
}


def play_scenes(folder: Path, place: DeviceContext) -> None:
    """What several processes are asked, in one go since their start takes longest.

    A whole run, one that stops and goes on, a late wish to stop; batch normalisation over all
    ranks and over each one's own images. Each rank leaves what it saw as JSON.
    """
    scenes = {}

    def play(name: str, recipe: dict[str, Any] | None = None, **options: Any) -> None:
        job = small_spec(recipe, resources={"num_workers": place.world_size})
        outcome, recorder = run(job, folder / name, place=place, **options)
        scenes[name] = {
            "outcome": asdict(outcome) | {"result": outcome.result.model_dump()},
            "points": [[*key, value] for key, value in recorder.values().items()],
            "checkpoints": sorted(recorder.files),
            "pids": [environment.pids for environment in recorder.told],
        }
        torch.distributed.barrier()  # the other rank reads what rank 0 has written

    play("whole")
    play("stopped", stops_at=6)
    play("resumed", resume=checkpoint.find_newest(folder / "stopped"))
    play("late", stops_at=11)
    play("sync_batch_norm", NORMALISED | {"sync_batch_norm": True})
    play("local", NORMALISED)
    with distributed.join_ranks(rank=place.rank, world_size=place.world_size) as joined:
        scenes["gathered"] = {"ranks": joined.gather(torch.tensor(place.rank)).tolist()}
    (folder / f"rank-{place.rank}.json").write_text(json.dumps(scenes))
