"""A search's trials for other programs: a table, and TensorBoard's HParams."""

import csv
import io
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from service.searches.trials import Trial
from service.specs.search_spec import SearchSpec


def as_csv(spec: SearchSpec, trials: Sequence[Trial]) -> str:
    """A line for each trial, the best first; empty where there is no value."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    fields = list(spec.space)
    writer.writerow(
        ["trial", "job_id", "state", "reason", "rank", *fields, *spec.metric, "stop_reason"]
    )
    for one in trials:
        writer.writerow(
            [
                one.row.number,
                one.job.id,
                one.job.state,
                one.job.reason or "",
                "" if one.rank is None else one.rank,
                *("" if (value := one.row.params[field]) is None else value for field in fields),
                *(one.values.get(metric, "") for metric in spec.metric),
                one.stop_reason or "",
            ]
        )
    return text.getvalue()


def as_tensorboard(trials: Sequence[Trial]) -> bytes:
    """A zip with a folder for each trial that was measured: unpacked, a log directory."""
    # It imports NumPy and protobuf, half a second that only this answer is worth.
    from tensorboardX import SummaryWriter  # noqa: PLC0415

    packed = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(packed, "w") as archive:
        with SummaryWriter(folder) as writer:
            for one in trials:
                if one.values:
                    metrics = {metric.value: value for metric, value in one.values.items()}
                    name = f"trial-{one.row.number:05d}"
                    writer.add_hparams(dict(one.row.params), metrics, name=name)
        # What lies beside the folders is the writer's own, and empty.
        for path in sorted(Path(folder).glob("*/*")):
            archive.write(path, path.relative_to(folder))
    return packed.getvalue()
