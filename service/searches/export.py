"""A search's trials as a CSV table."""

import csv
import io
from collections.abc import Sequence

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
