"""Training without the service: the peer of bench-launch, bench-throughput and bench-search.

    python -m benchmarks.training_peer fit   WORKERS FILE        one TorchTrainer.fit()
    python -m benchmarks.training_peer fits  WORKERS FILE RUNS   repeated fit() in one driver
    torchrun ... -m benchmarks.training_peer plain WORKERS FILE  torchrun without Ray
    python -m benchmarks.training_peer small 1 -                 fit() of a small job
    python -m benchmarks.training_peer tune  TRIALS -            Ray Tune trials of small jobs

FILE receives the time of the first optimizer step in seconds since 1970; `fits` writes the seconds
from each call of fit() to that step instead, one per line.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.processes import SMALL_JOB
from service.specs.job_spec import parse_job_spec
from workers.training import trainer
from workers.training.device_context import DeviceContext
from workers.training.observers import LaunchTimes, NullObserver
from workers.training.trainer import Outcome

_LAUNCH_JOB: dict[str, Any] = {
    "depth": 20,
    "shortcut": "A",
    "dataset": "digits",
    "recipe": {"name": "quick", "iterations": 5},
}


class _FirstStepWriter(NullObserver):
    def __init__(self, path: Path) -> None:
        self._path = path

    def on_first_step(self, times: LaunchTimes) -> None:
        self._path.write_text(str(times.first_step_at.timestamp()))


def _train(config: dict[str, Any], *, rank: int, world_size: int) -> Outcome:
    """Trains `config["spec"]`; writes the first step's time to `config["path"]`, or nowhere."""
    spec = parse_job_spec({**config["spec"], "resources": {"num_workers": world_size}})
    context = DeviceContext(rank=rank, world_size=world_size, device=torch.device("cpu"), threads=1)
    path = config["path"]
    with tempfile.TemporaryDirectory() as folder:
        return trainer.train(
            spec,
            context=context,
            data_dir=Path(folder),
            work_dir=Path(folder),
            observer=_FirstStepWriter(Path(path)) if path else NullObserver(),
        )


def _train_on_ray(config: dict[str, Any]) -> None:
    from ray.train import get_context  # noqa: PLC0415 - torchrun's processes need no Ray

    context = get_context()
    _train(config, rank=context.get_world_rank(), world_size=context.get_world_size())


def _make_fit(num_workers: int, folder: str, spec: dict[str, Any]) -> Callable[[Path | None], None]:
    """A function that calls fit(), after all imports."""
    import ray  # noqa: PLC0415 - as above
    from ray.train import LoggingConfig, RunConfig, ScalingConfig  # noqa: PLC0415
    from ray.train.torch import TorchTrainer  # noqa: PLC0415

    ray.init(address="auto", logging_level="WARNING")

    def fit(path: Path | None) -> None:
        TorchTrainer(
            _train_on_ray,
            train_loop_config={"path": path and str(path), "spec": spec},
            scaling_config=ScalingConfig(num_workers=num_workers),
            run_config=RunConfig(
                storage_path=folder, logging_config=LoggingConfig(log_level="WARNING")
            ),
        ).fit()

    return fit


def _fit_repeatedly(num_workers: int, path: Path, runs: int) -> None:
    """Runs once more than asked: the first run is cold and not recorded."""
    with tempfile.TemporaryDirectory() as folder:
        fit = _make_fit(num_workers, folder, _LAUNCH_JOB)
        first_step = Path(folder) / "first_step"
        seconds = []
        for _ in range(runs + 1):
            started = time.time()
            fit(first_step)
            seconds.append(float(first_step.read_text()) - started)
    path.write_text("\n".join(map(str, seconds[1:])))


def _tune(*, trials: int) -> None:
    import ray  # noqa: PLC0415 - as above
    from ray import tune  # noqa: PLC0415

    ray.init(address="auto", logging_level="WARNING")

    def trial(config: dict[str, Any]) -> None:
        spec = SMALL_JOB | {"recipe": SMALL_JOB["recipe"] | config}
        outcome = _train({"path": None, "spec": spec}, rank=0, world_size=1)
        tune.report({"error": outcome.test_error})

    with tempfile.TemporaryDirectory() as folder:
        results = tune.Tuner(
            tune.with_resources(trial, {"cpu": 1}),
            param_space={"learning_rate": tune.loguniform(0.01, 0.5)},
            tune_config=tune.TuneConfig(num_samples=trials),
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        ).fit()
    assert results.num_terminated == trials
    assert results.num_errors == 0


def _train_under_torchrun(num_workers: int, path: Path) -> None:
    if num_workers > 1:
        dist.init_process_group("gloo")
    config = {"path": str(path), "spec": _LAUNCH_JOB}
    _train(config, rank=int(os.environ["RANK"]), world_size=num_workers)


def main(kind: str, count: int, path: Path, runs: int = 1) -> None:
    match kind:
        case "fit":
            with tempfile.TemporaryDirectory() as folder:
                _make_fit(count, folder, _LAUNCH_JOB)(path)
        case "fits":
            _fit_repeatedly(count, path, runs)
        case "plain":
            _train_under_torchrun(count, path)
        case "small":
            with tempfile.TemporaryDirectory() as folder:
                _make_fit(1, folder, SMALL_JOB)(None)
        case "tune":
            _tune(trials=count)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), *map(int, sys.argv[4:]))
