"""Converts what training observes into the models of the worker protocol."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from service.specs import protocol
from service.specs.protocol import CheckpointManifest, MetricPoint, PartDigest
from service.states import CheckpointPart
from workers.training.observers import (
    LaunchTimes,
    Progress,
    RunEnvironment,
    SavedCheckpoint,
    StepTime,
)


def make_environment(environment: RunEnvironment) -> protocol.RunEnvironment:
    return protocol.RunEnvironment(**asdict(environment))


def make_launch_times(times: LaunchTimes) -> protocol.LaunchTimes:
    return protocol.LaunchTimes(**asdict(times))


def make_progress(progress: Progress) -> protocol.Progress:
    return protocol.Progress(**asdict(progress))


def make_points(step: StepTime, values: Mapping[str, float]) -> list[MetricPoint]:
    """A value that is not finite becomes None: JSON has no other way to store it."""
    return [
        MetricPoint(
            series=series,
            iteration=step.iteration,
            value=value if math.isfinite(value) else None,
            seconds=step.seconds,
            at=step.at,
        )
        for series, value in values.items()
    ]


def make_manifest(saved: SavedCheckpoint) -> CheckpointManifest:
    """Reads each file once. OSError if one cannot be read."""
    return CheckpointManifest(
        iteration=saved.iteration,
        test_error=saved.test_error,
        selection_error=saved.selection_error,
        train_error=saved.train_error,
        parts=[_make_digest(part, path) for part, path in saved.files.items()],
    )


def _make_digest(part: CheckpointPart, path: Path) -> PartDigest:
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return PartDigest(part=part, sha256=sha256, size_bytes=path.stat().st_size)
