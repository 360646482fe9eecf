"""What a study shows so far: results over seeds beside the paper's, and tested differences.

A report follows from the study and its jobs alone, so that equal results give equal bytes.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean

from sqlalchemy.orm import Session

from service.catalog.architectures import Architecture
from service.catalog.datasets import find_dataset
from service.catalog.model_stats import ModelStats
from service.jobs import analyses, groups, workload
from service.jobs import records as job_records
from service.jobs.analyses import read_responses
from service.jobs.groups import GroupSeries, JobGroup, SampleStatistics
from service.jobs.metric_axes import MetricAxis
from service.specs.study_spec import (
    Column,
    ExpectedDifference,
    NetworkCount,
    Panel,
    PaperValue,
    StudyMetric,
    StudySpec,
)
from service.states import JobState
from service.storage.tables import JobRow, StudyRow
from service.studies import analyses as study_analyses
from service.studies import paired_statistics, records
from service.studies.analyses import ENSEMBLE, MemberAnalysis, is_waiting
from service.studies.paired_statistics import PairedComparison
from service.studies.records import Member
from service.text import count_of

# Points of a curve: as many as a printed figure can show.
_BUCKETS = 200
_SERIES = {"train/error", "test/error"}
# A mean over seeds this near to the paper's number counts as reproduced: what the public
# reproductions with several seeds of 2026 use.
TOLERANCE = 0.5
# The paper prints millions with two digits, billions with one, percent with none after the point.
_COUNT_TOLERANCES = {
    NetworkCount.PARAMETERS: 0.05,
    NetworkCount.MULTIPLY_ADDS: 0.1,
    NetworkCount.SHARE: 1.0,
}


class Verdict(StrEnum):
    """How a mean over seeds, or a count, compares with the paper's number."""

    REPRODUCED = "reproduced"  # within 0.5 points; a count, within what the paper rounds to
    LOWER = "lower"  # by more than that
    HIGHER = "higher"
    TOO_FEW_SEEDS = "too-few-seeds"  # fewer than three
    NOT_COMPARABLE = "not-comparable"  # another scale or dataset than the paper's
    MISSING = "missing"  # no result yet


MIN_SEEDS = 3


@dataclass(frozen=True)
class Cell:
    """A metric of a member, over its finished jobs, or a count of its network.

    `difference`: ours minus the paper's. `paper` is given with every result; `difference` only
    where both can be compared.
    """

    statistics: SampleStatistics | None
    paper: PaperValue | None
    difference: float | None
    verdict: Verdict | None


@dataclass(frozen=True)
class AnalysisReport:
    """Of one analysis of a member. `numbers`: over its finished analyses.

    `jobs`: seed, id and state of those that were submitted; None where the job was deleted.
    """

    name: str
    jobs: list[tuple[int, str | None, JobState | None]]
    numbers: dict[str, SampleStatistics]


@dataclass(frozen=True)
class MemberReport:
    """`parameters`: as its jobs report. `gap`: what is missing, in words, or empty."""

    label: str
    architecture: Architecture
    parameters: int | None
    jobs: list[tuple[int, str | None, JobState | None]]
    cells: dict[Column, Cell]
    analyses: list[AnalysisReport]
    gap: str

    @property
    def network(self) -> str:
        return self.architecture.label


@dataclass(frozen=True)
class EnsembleReport:
    """Of networks whose probabilities are averaged. `jobs`: its analyses, as those of a member."""

    label: str
    members: tuple[str, ...]
    jobs: list[tuple[int, str | None, JobState | None]]
    cells: dict[Column, Cell]
    gap: str

    @property
    def network(self) -> str:
        return f"mean of {len(self.members)} networks"


@dataclass(frozen=True)
class DifferenceReport:
    """`found`: None without a pair of finished jobs of equal seeds. `agrees`: with the paper."""

    expected: ExpectedDifference
    found: PairedComparison | None
    text: str
    agrees: bool | None


@dataclass(frozen=True)
class PanelReport:
    """`curves`: by label and series. `responses`: means over seeds by label and layer, instead."""

    title: str
    curves: dict[str, dict[str, GroupSeries]]
    responses: dict[str, list[float]] | None = None


@dataclass(frozen=True)
class StudyReport:
    """`finished` of `total` jobs have ended."""

    id: str
    spec: StudySpec
    finished: int
    total: int
    members: list[MemberReport]
    ensembles: list[EnsembleReport]
    paper_only: dict[str, dict[Column, PaperValue]]
    differences: list[DifferenceReport]
    panels: list[PanelReport]

    @property
    def rows(self) -> list[MemberReport | EnsembleReport]:
        """Of the table."""
        return [*self.members, *self.ensembles]


def make_report(session: Session, row: StudyRow, *, has_curves: bool = True) -> StudyReport:
    """Of the jobs as they are now. Without curves `panels` is empty."""
    spec = records.spec_of(row)
    by_label: dict[str, list[Member]] = {label: [] for label in spec.labels}
    by_place = study_analyses.read_analyses(session, row.id)
    for member in records.list_members(session, row.id, by_place):
        by_label[member.label].append(member)
    ensembles = {
        label: {seed: by_place.get((label, seed), {}).get(ENSEMBLE) for seed in spec.all_seeds}
        for label in spec.ensembles
    }
    is_final = [
        final
        for members in by_label.values()
        for member in members
        for final in _list_finality(spec, member)
    ]
    for label, by_seed in ensembles.items():
        awaited = _list_awaited_seeds(spec.ensembles[label], by_label)
        is_final += [
            _is_final(analysis, is_awaited=seed in awaited) for seed, analysis in by_seed.items()
        ]
    definition = spec.definition
    counts = _count_networks(spec) if definition.counts else {}
    return StudyReport(
        id=row.id,
        spec=spec,
        finished=sum(is_final),
        total=len(is_final),
        members=[
            _report_member(spec, label, members, counts.get(label, {}))
            for label, members in by_label.items()
        ],
        ensembles=[_report_ensemble(spec, label, by_seed) for label, by_seed in ensembles.items()],
        paper_only={
            label: values
            for label, values in definition.paper.items()
            if label not in by_label and label not in spec.ensembles
        },
        differences=[
            _report_difference(spec, expected, by_label)
            for expected in definition.comparisons
            if {expected.a, expected.b} <= by_label.keys()
        ],
        panels=_report_panels(session, spec, by_label) if has_curves else [],
    )


def read_paired_values(
    spec: StudySpec, a: Sequence[Member], b: Sequence[Member], metric: StudyMetric
) -> tuple[list[float], list[float]]:
    """Of the seeds for which both have the result, in the order of the seeds."""
    others = {member.seed: _value_of(spec, member, metric) for member in b}
    pairs = [
        (value, other)
        for member in sorted(a, key=lambda member: member.seed)
        if (value := _value_of(spec, member, metric)) is not None
        and (other := others.get(member.seed)) is not None
    ]
    return [value for value, _ in pairs], [other for _, other in pairs]


def describe_difference(expected: ExpectedDifference, found: PairedComparison | None) -> str:
    """A sentence: "test error of resnet-56 against plain-56: smaller by 5.10 ± 0.90 points ..."."""
    title = expected.metric.words
    if found is None:
        return f"{title} of {expected.a} against {expected.b}: no seed has both results yet"
    text = paired_statistics.describe(found)
    return f"{title} of {expected.a} against {expected.b}: {text}"


def _report_member(
    spec: StudySpec,
    label: str,
    members: Sequence[Member],
    counts: Mapping[NetworkCount, float],
) -> MemberReport:
    jobs = [member.job for member in members if member.job is not None]
    # Building a spec takes a millisecond, and a page reads the report again with each change.
    architecture = (
        job_records.architecture_of(jobs[0]) if jobs else spec.make_member(label, 0).architecture
    )
    environments = [job.environment for job in jobs if job.environment is not None]
    return MemberReport(
        label=label,
        architecture=architecture,
        parameters=environments[0]["parameters"] if environments else None,
        jobs=_list_jobs((member.seed, member.job) for member in members),
        cells={
            count: _make_cell(spec, label, count, groups.describe_values([counts.get(count)]))
            for count in spec.definition.counts
        }
        | {
            metric: _make_cell(
                spec,
                label,
                metric,
                groups.describe_values(_value_of(spec, member, metric) for member in members),
            )
            for metric in spec.definition.metrics
        },
        analyses=[_report_analysis(name, members) for name in spec.analyses],
        gap=_describe_gaps(spec, members),
    )


def _report_analysis(name: str, members: Sequence[Member]) -> AnalysisReport:
    due = {member.seed: member.analyses[name] for member in members if name in member.analyses}
    names = dict.fromkeys(number for analysis in due.values() for number in analysis.numbers)
    numbers = {
        number: groups.describe_values(found.numbers.get(number) for found in due.values())
        for number in names
    }
    return AnalysisReport(
        name,
        jobs=_list_jobs((seed, analysis.job) for seed, analysis in due.items()),
        numbers={number: found for number, found in numbers.items() if found is not None},
    )


def _list_awaited_seeds(
    labels: Sequence[str], by_label: Mapping[str, Sequence[Member]]
) -> set[int]:
    """Seeds of which no training has ended without success."""
    return set.intersection(
        *({member.seed for member in by_label[label] if is_waiting(member.job)} for label in labels)
    )


def _report_ensemble(
    spec: StudySpec, label: str, by_seed: Mapping[int, MemberAnalysis | None]
) -> EnsembleReport:
    due = {seed: analysis for seed, analysis in by_seed.items() if analysis is not None}
    problems = sorted({found.problem for found in due.values() if found.problem is not None})
    gap = _describe_gap([found.job for found in due.values() if found.problem is None])
    return EnsembleReport(
        label,
        spec.ensembles[label],
        _list_jobs((seed, analysis.job) for seed, analysis in due.items()),
        {
            metric: _make_cell(
                spec,
                label,
                metric,
                groups.describe_values(
                    found.numbers.get(metric.result_field) for found in due.values()
                ),
            )
            for metric in spec.definition.metrics
        },
        "; ".join([*filter(None, [gap]), *problems]),
    )


def _list_jobs(
    jobs: Iterable[tuple[int, JobRow | None]],
) -> list[tuple[int, str | None, JobState | None]]:
    return [(seed, None, None) if job is None else (seed, job.id, job.state) for seed, job in jobs]


def _count_networks(spec: StudySpec) -> dict[str, dict[NetworkCount, float]]:
    """By label; without those of a dataset whose classes are not counted."""
    labels = dict.fromkeys([*spec.labels, *filter(None, [spec.definition.share_of])])
    stats = {label: found for label in labels if (found := _compute_stats(spec, label)) is not None}
    compared = stats.get(spec.definition.share_of or "")
    counts: dict[str, dict[NetworkCount, float]] = {}
    for label, found in stats.items():
        counts[label] = {
            NetworkCount.PARAMETERS: found.parameters / 1e6,
            NetworkCount.MULTIPLY_ADDS: found.multiply_adds / 1e9,
        }
        if compared is not None:
            share = 100 * found.multiply_adds / compared.multiply_adds
            counts[label][NetworkCount.SHARE] = share
    return counts


def _compute_stats(spec: StudySpec, label: str) -> ModelStats | None:
    member = spec.make_member(label, 0)
    dataset = find_dataset(member.dataset)
    assert dataset is not None, "validated"
    return workload.model_stats_of(member, dataset)


def _make_cell(spec: StudySpec, label: str, column: Column, found: SampleStatistics | None) -> Cell:
    paper = spec.definition.paper.get(label, {}).get(column)
    if paper is None:
        return Cell(found, None, None, None)
    if found is None:
        return Cell(None, paper, None, Verdict.MISSING)
    if not spec.is_paper_comparable:
        return Cell(found, paper, None, Verdict.NOT_COMPARABLE)
    difference = found.mean - paper.value
    if isinstance(column, NetworkCount):
        tolerance, needed = _COUNT_TOLERANCES[column], 1
    else:
        tolerance, needed = TOLERANCE, MIN_SEEDS
    if found.n < needed:
        verdict = Verdict.TOO_FEW_SEEDS
    elif abs(difference) <= tolerance:
        verdict = Verdict.REPRODUCED
    else:
        verdict = Verdict.LOWER if difference < 0 else Verdict.HIGHER
    return Cell(found, paper, difference, verdict)


def _describe_gaps(spec: StudySpec, members: Sequence[Member]) -> str:
    """Which jobs have no result: "of 3 seeds: 1 running, 1 failed"."""
    gaps = [_describe_gap([member.job for member in members])]
    for name in spec.analyses:
        due = [member.analyses[name] for member in members if name in member.analyses]
        gap = _describe_gap([analysis.job for analysis in due if analysis.problem is None])
        gaps.append(gap and f"{name} {gap}")
        gaps += sorted({f"{name}: {found.problem}" for found in due if found.problem is not None})
    return "; ".join(filter(None, gaps))


def _describe_gap(jobs: Sequence[JobRow | None]) -> str:
    counts: dict[str, int] = {}
    for job in jobs:
        if job is None or job.state is not JobState.SUCCEEDED:
            state = "deleted" if job is None else job.state
            counts[state] = counts.get(state, 0) + 1
    if not counts:
        return ""
    parts = ", ".join(f"{number} {state}" for state, number in sorted(counts.items()))
    return f"of {count_of(len(jobs), 'seed')}: {parts}"


def _report_difference(
    spec: StudySpec, expected: ExpectedDifference, by_label: dict[str, list[Member]]
) -> DifferenceReport:
    a, b = read_paired_values(spec, by_label[expected.a], by_label[expected.b], expected.metric)
    found = paired_statistics.compare_pairs(a, b) if a else None
    agrees = None
    if expected.lower is not None and found is not None and found.is_significant:
        agrees = (found.mean < 0) == (expected.lower == expected.a)
    return DifferenceReport(expected, found, describe_difference(expected, found), agrees)


def _report_panels(
    session: Session, spec: StudySpec, by_label: dict[str, list[Member]]
) -> list[PanelReport]:
    definition = spec.definition
    panels = definition.panels or (Panel(title=definition.title, members=spec.labels),)
    found = []
    for panel in panels:
        if panel.analysis is not None:
            found += _report_responses(session, panel, panel.analysis, by_label)
            continue
        curves: dict[str, dict[str, GroupSeries]] = {}
        for label in panel.members:
            jobs = [member.job for member in by_label.get(label, []) if member.job is not None]
            started = [job for job in jobs if job.latest_metrics]
            if not started:
                continue
            series = groups.read_series(
                session,
                JobGroup({}, started),
                sorted(_SERIES),
                axis=MetricAxis.ITERATION,
                buckets=_BUCKETS,
            )
            if series:
                curves[label] = series
        if any(label in by_label for label in panel.members):
            found.append(PanelReport(panel.title, curves))
    return found


def _report_responses(
    session: Session, panel: Panel, analysis: str, by_label: dict[str, list[Member]]
) -> list[PanelReport]:
    """In the order of the layers, and sorted by magnitude."""
    original, ranked = {}, {}
    for label in panel.members:
        due = [member.analyses.get(analysis) for member in by_label.get(label, [])]
        measured = [
            read_responses(analyses.read_result(session, found.job))
            for found in due
            if found is not None and found.job is not None and found.numbers
        ]
        if measured:
            original[label] = [fmean(seeds) for seeds in zip(*measured, strict=True)]
            by_magnitude = [sorted(stds, reverse=True) for stds in measured]
            ranked[label] = [fmean(seeds) for seeds in zip(*by_magnitude, strict=True)]
    return [
        PanelReport(f"{panel.title}, layers in their order", {}, original),
        PanelReport(f"{panel.title}, sorted by magnitude", {}, ranked),
    ]


def _list_finality(spec: StudySpec, member: Member) -> Iterator[bool]:
    """Of the member's training, and of each of its analyses."""
    yield member.job is None or member.job.state.is_final
    for name in spec.analyses:
        yield _is_final(member.analyses.get(name), is_awaited=is_waiting(member.job))


def _is_final(analysis: MemberAnalysis | None, *, is_awaited: bool) -> bool:
    """Whether an analysis has ended, or never comes."""
    if analysis is None:
        return not is_awaited
    return analysis.job is None or analysis.job.state.is_final


def _value_of(spec: StudySpec, member: Member, metric: StudyMetric) -> float | None:
    evaluation = spec.definition.evaluated_by
    if evaluation is not None and metric.is_of_test:
        analysis = member.analyses.get(evaluation)
        return None if analysis is None else analysis.numbers.get(metric.result_field)
    job = member.job
    if job is None or job.state is not JobState.SUCCEEDED or job.result is None:
        return None
    value: float | None = job.result.get(metric.result_field)
    return value
