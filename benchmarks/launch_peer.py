"""The same training without the service: what bench-launch compares with.

    python -m benchmarks.launch_peer fit   WORKERS MARK         one TorchTrainer.fit()
    python -m benchmarks.launch_peer fits  WORKERS MARKS RUNS   fit() again and again, driver warm
    torchrun ... -m benchmarks.launch_peer plain WORKERS MARK   no Ray at all
    python -m benchmarks.launch_peer small 1 -                  one TorchTrainer.fit() of bench-many
    python -m benchmarks.launch_peer tune  TRIALS -             as many trials, of learning rates

A mark is a file with the time of the first optimizer step, in seconds since 1970; `fits` writes
seconds from the call of fit() instead, one line a run.
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

from service.specs.job_spec import parse_job_spec
from service.specs.protocol import LaunchTimes
from workers.training import trainer
from workers.training.device_context import DeviceContext
from workers.training.observers import NullObserver
from workers.training.trainer import Outcome

_SPEC: dict[str, Any] = {
    "depth": 20,
    "shortcut": "A",
    "dataset": "digits",
    "recipe": {"name": "quick", "iterations": 5},
}
_SMALL_SPEC: dict[str, Any] = _SPEC | {
    "depth": 8,
    "recipe": {"name": "quick", "iterations": 200},
}


class _Mark(NullObserver):
    def __init__(self, path: Path) -> None:
        self.path = path

    def launched(self, launch: LaunchTimes) -> None:
        self.path.write_text(str(launch.first_step_at.timestamp()))


def _train(config: dict[str, Any], *, rank: int, world_size: int) -> Outcome:
    spec = parse_job_spec({**config["spec"], "resources": {"num_workers": world_size}})
    place = DeviceContext(rank=rank, world_size=world_size, device=torch.device("cpu"), threads=1)
    with tempfile.TemporaryDirectory() as folder:
        return trainer.train(
            spec,
            place=place,
            data_path=Path(folder),
            work_path=Path(folder),
            observer=_Mark(Path(config["mark"])) if config["mark"] else NullObserver(),
        )


def _train_on_ray(config: dict[str, Any]) -> None:
    from ray.train import get_context  # noqa: PLC0415 - torchrun's processes do without Ray

    context = get_context()
    _train(config, rank=context.get_world_rank(), world_size=context.get_world_size())


def _fitter(num_workers: int, folder: str, spec: dict[str, Any]) -> Callable[[Path | None], None]:
    """Calls fit(); whatever can be imported is."""
    import ray  # noqa: PLC0415 - as above
    from ray.train import LoggingConfig, RunConfig, ScalingConfig  # noqa: PLC0415
    from ray.train.torch import TorchTrainer  # noqa: PLC0415

    ray.init(address="auto", logging_level="WARNING")

    def fit(mark: Path | None) -> None:
        TorchTrainer(
            _train_on_ray,
            train_loop_config={"mark": mark and str(mark), "spec": spec},
            scaling_config=ScalingConfig(num_workers=num_workers),
            run_config=RunConfig(
                storage_path=folder, logging_config=LoggingConfig(log_level="WARNING")
            ),
        ).fit()

    return fit


def _fits(num_workers: int, marks: Path, runs: int) -> None:
    """One more than `runs`: the first one is cold."""
    with tempfile.TemporaryDirectory() as folder:
        fit = _fitter(num_workers, folder, _SPEC)
        mark = Path(folder) / "mark"
        seconds = []
        for _ in range(runs + 1):
            began = time.time()
            fit(mark)
            seconds.append(float(mark.read_text()) - began)
    marks.write_text("\n".join(str(each) for each in seconds[1:]))


def _tune(*, trials: int) -> None:
    import ray  # noqa: PLC0415 - as above
    from ray import tune  # noqa: PLC0415

    ray.init(address="auto", logging_level="WARNING")

    def trial(config: dict[str, Any]) -> None:
        spec = _SMALL_SPEC | {"recipe": _SMALL_SPEC["recipe"] | config}
        outcome = _train({"mark": None, "spec": spec}, rank=0, world_size=1)
        tune.report({"error": outcome.result.test_error})

    with tempfile.TemporaryDirectory() as folder:
        results = tune.Tuner(
            tune.with_resources(trial, {"cpu": 1}),
            param_space={"learning_rate": tune.loguniform(0.01, 0.5)},
            tune_config=tune.TuneConfig(num_samples=trials),
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        ).fit()
    assert results.num_terminated == trials
    assert results.num_errors == 0


def main(kind: str, num_workers: int, mark: Path, runs: int = 1) -> None:
    if kind == "fits":
        _fits(num_workers, mark, runs)
    elif kind == "fit":
        with tempfile.TemporaryDirectory() as folder:
            _fitter(num_workers, folder, _SPEC)(mark)
    elif kind == "small":
        with tempfile.TemporaryDirectory() as folder:
            _fitter(1, folder, _SMALL_SPEC)(None)
    elif kind == "tune":
        _tune(trials=num_workers)
    else:
        if num_workers > 1:
            dist.init_process_group("gloo")
        rank = int(os.environ["RANK"])
        _train({"mark": str(mark), "spec": _SPEC}, rank=rank, world_size=num_workers)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), *(int(word) for word in sys.argv[4:]))
