"""Responses about studies and comparisons."""

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated

from pydantic import Field

from api.views import SampleStatisticsView, View
from service.specs.study_spec import (
    Column,
    PaperValue,
    Scale,
    StudyDefinition,
    StudyMetric,
    StudySpec,
)
from service.states import JobState
from service.storage.tables import StudyRow
from service.studies import formats
from service.studies.paired_statistics import PairedComparison
from service.studies.report import (
    Cell,
    DifferenceReport,
    EnsembleReport,
    MemberReport,
    StudyReport,
    Verdict,
)


class DefinitionList(View):
    """Definitions that the service has."""

    definitions: list[StudyDefinition]


class StudyView(View):
    """A study without its results."""

    id: str
    name: str
    scale: Scale
    dataset: str
    seeds: int
    user: str
    created_at: datetime

    @classmethod
    def of(cls, row: StudyRow) -> "StudyView":
        spec = StudySpec.model_validate(row.spec)
        return cls(
            id=row.id,
            name=row.name,
            scale=spec.scale,
            dataset=spec.dataset,
            seeds=spec.seeds,
            user=row.user,
            created_at=row.created_at,
        )


class StudyPage(View):
    """`next_page_token`: null on the last page."""

    studies: list[StudyView]
    next_page_token: str | None


class MemberJobView(View):
    """`job_id`, `state`: null once the job is deleted. `result_card`: its path, once completed."""

    seed: int
    job_id: str | None
    state: JobState | None
    result_card: str | None

    @classmethod
    def of(cls, seed: int, job_id: str | None, state: JobState | None) -> "MemberJobView":
        is_complete = state is JobState.SUCCEEDED
        card = f"/v1/jobs/{job_id}/result-card" if is_complete else None
        return cls(seed=seed, job_id=job_id, state=state, result_card=card)


class CellView(View):
    """`difference`: ours minus the paper's; null where they cannot be compared."""

    statistics: SampleStatisticsView | None
    paper: PaperValue | None
    difference: float | None
    verdict: Verdict | None

    @classmethod
    def of(cls, cell: Cell) -> "CellView":
        return cls.model_validate(cell)


class MemberAnalysisView(View):
    """`jobs`: of those seeds whose training has succeeded. `numbers`: over the finished ones."""

    name: str
    jobs: list[MemberJobView]
    numbers: dict[str, SampleStatisticsView]


class MemberView(View):
    label: str
    network: str
    parameters: int | None
    jobs: list[MemberJobView]
    results: dict[Column, CellView]
    analyses: list[MemberAnalysisView]
    gap: Annotated[str, Field(description="which jobs have no result; empty if none")]

    @classmethod
    def of(cls, member: MemberReport) -> "MemberView":
        return cls(
            label=member.label,
            network=member.network,
            parameters=member.parameters,
            jobs=[MemberJobView.of(*job) for job in member.jobs],
            results={metric: CellView.of(cell) for metric, cell in member.cells.items()},
            analyses=[
                MemberAnalysisView(
                    name=analysis.name,
                    jobs=_list_analyses(analysis.jobs),
                    numbers={
                        number: SampleStatisticsView.model_validate(found)
                        for number, found in analysis.numbers.items()
                    },
                )
                for analysis in member.analyses
            ],
            gap=member.gap,
        )


class StudyEnsembleView(View):
    """Members whose probabilities are averaged. `jobs`: of the seeds whose trainings succeeded."""

    label: str
    members: list[str]
    jobs: list[MemberJobView]
    results: dict[Column, CellView]
    gap: Annotated[str, Field(description="which jobs have no result; empty if none")]

    @classmethod
    def of(cls, ensemble: EnsembleReport) -> "StudyEnsembleView":
        return cls(
            label=ensemble.label,
            members=list(ensemble.members),
            jobs=_list_analyses(ensemble.jobs),
            results={column: CellView.of(cell) for column, cell in ensemble.cells.items()},
            gap=ensemble.gap,
        )


def _list_analyses(
    jobs: Iterable[tuple[int, str | None, JobState | None]],
) -> list[MemberJobView]:
    """Analyses have no result cards."""
    return [
        MemberJobView(seed=seed, job_id=job_id, state=state, result_card=None)
        for seed, job_id, state in jobs
    ]


class DifferenceView(View):
    """Of the pairs of equal seeds. `mean`: a minus b, in points.

    `ci_low`, `ci_high`: 95 % interval by the BCa bootstrap. `p`: two-sided, by sign flips. All are
    null before there is a pair, and all but `mean` with one. `agrees`: with the paper's claim;
    null without a claim or a significant difference.
    """

    a: str
    b: str
    metric: StudyMetric
    n: int
    mean: float | None
    std: float | None
    ci_low: float | None
    ci_high: float | None
    p: float | None
    is_significant: bool
    agrees: bool | None
    text: str

    @classmethod
    def of(cls, report: DifferenceReport) -> "DifferenceView":
        found: PairedComparison | None = report.found
        names = ("mean", "std", "ci_low", "ci_high", "p")
        return cls(
            a=report.expected.a,
            b=report.expected.b,
            metric=report.expected.metric,
            n=0 if found is None else found.n,
            is_significant=found is not None and found.is_significant,
            agrees=report.agrees,
            text=report.text,
            **{name: None if found is None else getattr(found, name) for name in names},
        )


class StudyReportView(StudyView):
    """A study with its results so far. `finished` of `total` jobs have ended."""

    title: str
    notes: str
    source: str
    origin: Annotated[str, Field(description="scale, data and seeds, in words")]
    finished: int
    total: int
    columns: Annotated[list[Column], Field(description="of the table, in their order")]
    members: list[MemberView]
    ensembles: list[StudyEnsembleView]
    paper_only: Annotated[
        dict[str, dict[Column, PaperValue]],
        Field(description="the paper's numbers of networks that this study does not train"),
    ]
    differences: list[DifferenceView]

    @classmethod
    def of_report(cls, row: StudyRow, report: StudyReport) -> "StudyReportView":
        definition = report.spec.definition
        return cls(
            **StudyView.of(row).model_dump(),
            title=definition.title,
            notes=definition.notes,
            source=definition.source,
            origin=formats.describe_origin(report),
            finished=report.finished,
            total=report.total,
            columns=list(report.spec.columns),
            members=[MemberView.of(member) for member in report.members],
            ensembles=[StudyEnsembleView.of(ensemble) for ensemble in report.ensembles],
            paper_only=report.paper_only,
            differences=[DifferenceView.of(tested) for tested in report.differences],
        )


class ComparisonView(View):
    """Two specs over paired seeds, with their difference so far."""

    id: str
    created_at: datetime
    finished: int
    total: int
    members: list[MemberView]
    difference: DifferenceView

    @classmethod
    def of(cls, row: StudyRow, report: StudyReport) -> "ComparisonView":
        return cls(
            id=row.id,
            created_at=row.created_at,
            finished=report.finished,
            total=report.total,
            members=[MemberView.of(member) for member in report.members],
            difference=DifferenceView.of(report.differences[0]),
        )
