"""Exports of a search's trials: a CSV table, and logs for TensorBoard's HParams."""

import csv
import io
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from service.searches.ranking import Trial
from service.specs.search_spec import SearchSpec


def format_csv(spec: SearchSpec, trials: Sequence[Trial]) -> str:
    """A line for each trial, in the given order; a missing value is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    fields = list(spec.space)
    writer.writerow(
        ["trial", "job_id", "state", "reason", "rank", *fields, *spec.metric, "stop_reason"]
    )
    for trial in trials:
        writer.writerow(
            # csv writes None as an empty field.
            [
                trial.row.number,
                trial.job.id,
                trial.state,
                trial.reason,
                trial.rank,
                *(trial.row.params[field] for field in fields),
                *(trial.values.get(metric) for metric in spec.metric),
                trial.stop_reason,
            ]
        )
    return text.getvalue()


def pack_tensorboard(trials: Sequence[Trial]) -> bytes:
    """A zip archive of a log directory, with a folder for each trial that has values."""
    packed = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(packed, "w") as archive:
        with _import_writer()(folder) as writer:
            for trial in trials:
                if trial.values:
                    metrics = {metric.value: value for metric, value in trial.values.items()}
                    name = f"trial-{trial.row.number:05d}"
                    writer.add_hparams(dict(trial.row.params), metrics, name=name)
        # Without the writer's own event file beside the folders, which is empty.
        for path in sorted(Path(folder).glob("*/*")):
            archive.write(path, path.relative_to(folder))
    return packed.getvalue()


@cache
def _import_writer() -> Any:
    """Imported on demand: it imports NumPy and protobuf, which takes half a second.

    Where torch is installed it imports torch, too, only to recognize tensors: 500 MB that the API
    would hold until it ends.
    """
    is_imported = "torch" in sys.modules
    if not is_imported:
        sys.modules["torch"] = None  # type: ignore[assignment]  # an import raises ImportError
    try:
        from tensorboardX import SummaryWriter  # noqa: PLC0415
    finally:
        if not is_imported:
            del sys.modules["torch"]
    return SummaryWriter
