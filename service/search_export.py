"""A search's trials as a table, for other programs."""

import csv
import io
from collections.abc import Sequence

from service.search_spec import SearchSpec
from service.trials import Trial


def as_csv(spec: SearchSpec, trials: Sequence[Trial]) -> str:
    """A line for each trial, the best first; empty where there is no value."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    fields = list(spec.space)
    writer.writerow(["trial", "job_id", "state", "reason", "rank", *fields, *spec.metric, "why"])
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
                one.row.why or "",
            ]
        )
    return text.getvalue()
