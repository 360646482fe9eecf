"""`make bench-demo`: seconds from POST to the first report and to the weights of a first job.

Also its images/s. Peer: the same training in this process, without the service.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

import resnetd
from benchmarks.processes import running_service
from benchmarks.results_table import Result, write_results
from service.specs.job_spec import parse_job_spec
from workers.training import trainer
from workers.training.device_context import DeviceContext
from workers.training.observers import NullObserver, StepTime

ITERATIONS = 600
_JOB: dict[str, Any] = {
    "depth": 20,
    "shortcut": "A",
    "dataset": "digits",
    "recipe": {"name": "quick", "iterations": ITERATIONS},
}


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="rb") as temporary:
        folder = Path(temporary)
        with running_service() as client:
            to_report, to_weights, ours = _measure_service(client, folder)
        peer = _measure_in_process(folder)
    name = "ResNet-20 on digits vs training without the service"
    results = [
        Result("POST to the training process's first report", "s", to_report),
        Result(f"POST to the downloaded weights, {ITERATIONS} iterations", "s", to_weights),
        Result(name, "images/s", ours, peer, is_higher_better=True),
    ]
    write_results("demo", results)
    return 0


def _measure_service(client: resnetd.Client, folder: Path) -> tuple[float, float, float]:
    """Seconds to the first report, seconds to the weights, median images/s."""
    started = time.monotonic()
    job = client.submit(_JOB)
    client.jobs.wait(job.id)
    client.jobs.download(job.id, path=folder)
    to_weights = time.monotonic() - started
    (attempt,) = client.jobs.attempts(job.id)
    reported = datetime.fromisoformat(attempt.document["started_at"])
    posted = datetime.fromisoformat(job.document["created_at"])
    rates = client.jobs.metrics(job.id)["images_per_second"].values
    median = statistics.median(rate for rate in rates if rate is not None)
    return (reported - posted).total_seconds(), to_weights, median


def _measure_in_process(folder: Path) -> float:
    """Median images/s of the same network, dataset and number of threads."""
    context = DeviceContext(rank=0, world_size=1, device=torch.device("cpu"), threads=1)
    recorder = _RateRecorder()
    trainer.train(
        parse_job_spec(_JOB),
        context=context,
        data_dir=folder,
        work_dir=folder / "work",
        observer=recorder,
    )
    return statistics.median(recorder.rates)


class _RateRecorder(NullObserver):
    """Keeps the reported images/s."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_metrics(self, step: StepTime, values: Mapping[str, float]) -> None:
        del step
        if "images_per_second" in values:
            self.rates.append(values["images_per_second"])


if __name__ == "__main__":
    sys.exit(main())
