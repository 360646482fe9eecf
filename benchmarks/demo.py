"""`make bench-demo`: from POST to the first step and to the weights, beside the bare loop."""

import statistics
import sys
import tempfile
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import torch

import resnetd
from benchmarks.results_table import Row, publish
from deploy.local import LocalService
from service.specs.job_spec import parse_job_spec
from service.specs.protocol import MetricPoint
from workers.training import trainer
from workers.training.device_context import DeviceContext
from workers.training.observers import NullObserver

ITERATIONS = 600


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="rb") as name:
        folder = Path(name)
        with (
            LocalService(folder / "var", logs_path=folder / "logs") as service,
            resnetd.Client(url=service.url, token=service.token) as client,
        ):
            rows = _through_the_service(client, folder)
        ours = rows.pop()
        rows.append(replace(ours, theirs=_bare_images_per_second(folder)))
    publish("demo", rows)
    return 0


def _through_the_service(client: resnetd.Client, folder: Path) -> list[Row]:
    began = time.monotonic()
    job = client.submit(
        depth=20, shortcut="A", dataset="digits", recipe={"name": "quick", "iterations": ITERATIONS}
    )
    client.wait(job.id)
    client.download(job.id, path=folder)
    until_weights = time.monotonic() - began
    (attempt,) = client.attempts(job.id)
    first_word = datetime.fromisoformat(attempt.document["started_at"])
    posted = datetime.fromisoformat(job.document["created_at"])
    rates = client.metrics(job.id)["images_per_second"].values
    median = statistics.median(rate for rate in rates if rate is not None)
    return [
        Row(
            "POST to the training process's first report",
            "s",
            (first_word - posted).total_seconds(),
        ),
        Row(f"POST to the downloaded weights, {ITERATIONS} iterations", "s", until_weights),
        Row("ResNet-20 on digits beside the bare loop", "images/s", median, is_more_better=True),
    ]


def _bare_images_per_second(folder: Path) -> float:
    """The same network, data and threads in this process, told to nobody."""
    spec = parse_job_spec(
        {
            "depth": 20,
            "shortcut": "A",
            "dataset": "digits",
            "recipe": {"name": "quick", "iterations": ITERATIONS},
        }
    )
    place = DeviceContext(rank=0, world_size=1, device=torch.device("cpu"), threads=1)
    listener = _Rates()
    trainer.train(spec, place=place, data_path=folder, work_path=folder / "bare", observer=listener)
    return statistics.median(listener.rates)


class _Rates(NullObserver):
    """An observer that keeps the rates and nothing else."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def metrics(self, points: list[MetricPoint]) -> None:
        self.rates += [
            point.value
            for point in points
            if point.series == "images_per_second" and point.value is not None
        ]


if __name__ == "__main__":
    sys.exit(main())
