"""Differences between groups of jobs, over pairs of equal seeds."""

import math

from service.jobs.groups import JobGroup
from service.specs.study_spec import StudyMetric
from service.studies import paired_statistics
from service.studies.paired_statistics import PairedComparison


def compare_groups(a: JobGroup, b: JobGroup, metric: StudyMetric) -> PairedComparison | None:
    """None without a pair of results. Where jobs of a group share a seed, the newest counts."""
    values, others = _values_by_seed(a, metric), _values_by_seed(b, metric)
    seeds = sorted(values.keys() & others.keys())
    if not seeds or len({job.spec["dataset"] for job in (*a.jobs, *b.jobs)}) > 1:
        return None
    return paired_statistics.compare_pairs(
        [values[seed] for seed in seeds], [others[seed] for seed in seeds]
    )


def describe(found: PairedComparison | None, metric: StudyMetric) -> str:
    """A sentence on a against b."""
    if found is None:
        return f"{metric.words}: the groups have no pair of results of one seed and dataset"
    return f"{metric.words}: {paired_statistics.describe(found)}"


def _values_by_seed(group: JobGroup, metric: StudyMetric) -> dict[int, float]:
    """The jobs of a group are newest first."""
    values: dict[int, float] = {}
    for job in group.jobs:
        value = (job.result or {}).get(metric.result_field)
        if value is not None and math.isfinite(value):
            values.setdefault(job.spec["seed"], value)
    return values
