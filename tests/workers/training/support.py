"""What the tests of training share: an observer that remembers, and small trainings."""

import json
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from service import spec
from service.recipes import Recipe
from service.reports import CheckpointNote, Facts, Launch, LogLevel, MetricPoint, Part, Progress
from service.spec import How, JobSpec
from service.states import StopReason
from workers.training import checkpoint, loop, precision, ranks
from workers.training.engine import Engine
from workers.training.loop import Outcome
from workers.training.optimizer import Optimizer
from workers.training.place import Place

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
    notes: list[CheckpointNote] = field(default_factory=list)
    files: dict[int, dict[Part, Path]] = field(default_factory=dict)
    told: list[Facts] = field(default_factory=list)
    progresses: list[Progress] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    readings: int = 0

    def facts(self, facts: Facts) -> None:
        self.told.append(facts)

    def launched(self, launch: Launch) -> None: ...

    def progress(self, progress: Progress) -> None:
        self.progresses.append(progress)

    def metrics(self, points: list[MetricPoint]) -> None:
        self.points += points

    def log(self, level: LogLevel, message: str) -> None:
        del level
        self.lines.append(message)

    def saving(self, saved: Future[None]) -> None:
        saved.result()

    def checkpoint(self, note: CheckpointNote, files: dict[Part, Path]) -> None:
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
    return spec.parse(
        {"dataset": "digits", "depth": 8, "shortcut": "A", "recipe": SMALL | (recipe or {})}
        | fields
    )


def engine_of(written: Recipe, model: nn.Module, **options: Any) -> Engine:
    """Steps the network alone, on a CPU."""
    return Engine(
        model,
        model,
        Optimizer(model, written),
        written,
        computed_in=precision.choose(written.precision, CPU),
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
    place: Place | None = None,
    stops_at: int | None = None,
    resume: dict[Part, Path] | None = None,
    how: How | None = None,
    data_path: Path = Path("nowhere"),
    recorder: Recorder | None = None,
) -> tuple[Outcome, Recorder]:
    recorder = recorder or Recorder(stops_at)
    if place is None:
        place = Place(rank=0, world_size=1, device=CPU, threads=1)
    outcome = loop.train(
        job,
        place=place,
        data_path=data_path,
        work_path=work_path,
        observer=recorder,
        resume=resume,
        how=how,
    )
    return outcome, recorder


def digests(files: dict[Part, Path]) -> dict[str, str]:
    """Of the tensors of a checkpoint's weights and state."""
    return {
        part: checkpoint.weights_sha256(safetensors.torch.load_file(files[part]))
        for part in (Part.WEIGHTS, Part.STATE)
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


def play_scenes(folder: Path, place: Place) -> None:
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
            "pids": [facts.pids for facts in recorder.told],
        }
        torch.distributed.barrier()  # the other rank reads what rank 0 has written

    play("whole")
    play("stopped", stops_at=6)
    play("resumed", resume=checkpoint.newest(folder / "stopped"))
    play("late", stops_at=11)
    play("synchronized", NORMALISED | {"synchronized": True})
    play("local", NORMALISED)
    with ranks.join(rank=place.rank, world_size=place.world_size) as joined:
        scenes["gathered"] = {"ranks": joined.gather(torch.tensor(place.rank)).tolist()}
    (folder / f"rank-{place.rank}.json").write_text(json.dumps(scenes))
