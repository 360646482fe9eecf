"""Shared by the tests of the reporter: a reporter with short intervals, and observations."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.states import CheckpointPart
from tests.support.fake_api import TOKEN, FakeApi
from tests.support.training import make_step
from workers.reporting.api_client import AttemptClient
from workers.reporting.reporter import Reporter
from workers.training.observers import RunEnvironment, SavedCheckpoint

ENVIRONMENT = RunEnvironment(
    parameters=1,
    classes=10,
    train_images=1,
    test_images=1,
    device="cpu",
    num_workers=1,
    host="here",
    pids=[1],
    versions={},
    numerics={},
)


def client_of(api: FakeApi, *, report_seconds: float = 0.5) -> AttemptClient:
    return AttemptClient(
        api_url=api.url,
        attempt_id=api.attempt.attempt_id,
        token=TOKEN,
        report_seconds=report_seconds,
        part_seconds=0.5,
    )


@contextmanager
def started(
    api: FakeApi,
    work_dir: Path,
    *,
    flush_seconds: float = 0.02,
    heartbeat_seconds: float = 60.0,
    limit_bytes: int = 1 << 30,
    report_seconds: float = 0.5,
) -> Iterator[Reporter]:
    with client_of(api, report_seconds=report_seconds) as client:
        reporter = Reporter(
            client,
            work_dir=work_dir,
            last_sequence=api.last_sequence,
            flush_seconds=flush_seconds,
            heartbeat_seconds=heartbeat_seconds,
            limit_bytes=limit_bytes,
        )
        reporter.start()
        try:
            yield reporter
        finally:
            reporter.close(deadline_seconds=0.0)


def report_loss(reporter: Reporter, *iterations: int) -> None:
    for iteration in iterations:
        reporter.on_metrics(make_step(iteration), {"train/loss": 1 / (iteration + 1)})


def iterations(api: FakeApi) -> list[int]:
    return [point.iteration for point in api.points]


def save(work_dir: Path, iteration: int, *, test_error: float | None = 50.0) -> SavedCheckpoint:
    folder = work_dir / f"checkpoint-{iteration}"
    folder.mkdir(parents=True)
    files = {part: folder / part for part in (CheckpointPart.WEIGHTS, CheckpointPart.STATE)}
    for part, path in files.items():
        path.write_bytes(f"{part} of {iteration}".encode() * 1000)
    return SavedCheckpoint(
        iteration, test_error, selection_error=test_error, train_error=None, files=files
    )


def files_below(path: Path) -> list[Path]:
    return [entry for entry in path.rglob("*") if entry.is_file()]
