"""Jobs that are alike in everything but some fields, with statistics over each group."""

from dataclasses import replace
from typing import Annotated, Any, Self

from fastapi import APIRouter, Depends, Query
from pydantic import Field

from api.dependencies import ReadSession, authorize
from api.queries import ArchivedFilter, FilterText, JobFilterQuery, RangeQuery
from api.views import SampleStatisticsView, View
from service.errors import invalid_parameter
from service.jobs import groups, records
from service.jobs.groups import GroupKey, GroupSeries, JobGroup
from service.jobs.metric_axes import MetricAxis
from service.specs.analysis_spec import TRAINING
from service.specs.study_spec import StudyMetric
from service.states import JobState
from service.storage.tables import JobRow
from service.studies import group_differences
from service.text import count_of

router = APIRouter(prefix="/v1/groups", tags=["metrics"], dependencies=[Depends(authorize)])

_MAX_JOBS = 1000
# The metrics of each are read.
_MAX_JOBS_WITH_SERIES = 100
# Each comparison is a bootstrap with thousands of samples.
_MAX_COMPARED = 10

Values = list[float | None]


class GroupSeriesView(View):
    """Columns of equal length, one row for each bucket that any job of the group has points in.

    `n` to `ci_high` are over the jobs' means of the bucket, `min` and `max` over all points.
    """

    x: Annotated[list[float], Field(description="mean position of the jobs' last points")]
    start: Annotated[list[int], Field(description="first iteration of the bucket")]
    n: list[int]
    mean: list[float]
    std: Values
    ci_low: Values
    ci_high: Values
    min: list[float]
    max: list[float]


class GroupMemberView(View):
    id: str
    name: str
    state: JobState
    seed: int

    @classmethod
    def of(cls, job: JobRow) -> "GroupMemberView":
        return cls(id=job.id, name=job.name, state=job.state, seed=job.spec["seed"])


class GroupView(View):
    fields: Annotated[
        dict[str, Any], Field(description="values of the fields in which the groups differ")
    ]
    jobs: list[GroupMemberView]
    results: Annotated[
        dict[str, SampleStatisticsView], Field(description="`test_error` and others of a result")
    ]
    series: dict[str, GroupSeriesView]


class GroupDifferenceView(View):
    """Of group `a` against group `b`, by their positions, over `n` pairs of equal seeds.

    `mean`: a minus b, in points. `ci_low`, `ci_high`: 95 % interval by the BCa bootstrap. `p`:
    two-sided, by sign flips. All are null without a pair, and all but `mean` with a single one.
    """

    a: int
    b: int
    metric: StudyMetric
    n: int
    mean: float | None
    std: float | None
    ci_low: float | None
    ci_high: float | None
    p: float | None
    is_significant: bool
    text: str

    @classmethod
    def of(cls, compared: list[JobGroup], a: int, b: int, metric: StudyMetric) -> Self:
        found = group_differences.compare_groups(compared[a], compared[b], metric)
        names = ("mean", "std", "ci_low", "ci_high", "p")
        return cls(
            a=a,
            b=b,
            metric=metric,
            n=0 if found is None else found.n,
            is_significant=found is not None and found.is_significant,
            text=group_differences.describe(found, metric),
            **{name: None if found is None else getattr(found, name) for name in names},
        )


class GroupsView(View):
    by: list[str]
    x: MetricAxis
    groups: list[GroupView]
    differences: Annotated[
        list[GroupDifferenceView],
        Field(description="with `metric`: of the first group against each other"),
    ]


@router.get("")
def list_groups(
    session: ReadSession,
    filters: JobFilterQuery,
    range_: RangeQuery,
    archived: ArchivedFilter = None,
    by: Annotated[
        list[FilterText] | None,
        Query(
            max_length=20,
            description="`-FIELD`s of the spec in which a group may differ (default: `-seed`), "
            "FIELDs in which it is alike, or `id`: each job is a group",
        ),
    ] = None,
    series: Annotated[list[FilterText] | None, Query(max_length=100)] = None,
    buckets: Annotated[int, Query(ge=1, le=5000, description="at most, per series")] = 500,
    metric: Annotated[
        StudyMetric | None,
        Query(description="also compare the first group with the others, over pairs of seeds"),
    ] = None,
) -> GroupsView:
    """Groups of the trainings that match all filters, with mean, deviation and 95 % interval.

    Over all points of `series`, in buckets. Fields that do not change what is trained, such as
    name and priority, count only if `by` names them.
    """
    by = by or ["-seed"]
    key = GroupKey(by)
    limit = _MAX_JOBS if series is None else _MAX_JOBS_WITH_SERIES
    wanted = replace(filters.make_filter(archived=archived), kinds=(TRAINING,))
    page = records.list_page(session, wanted, limit=limit)
    if page.next_token is not None:
        raise invalid_parameter("/where", f"must leave at most {count_of(limit, 'job')}")
    found = key.group(page.rows)
    if metric is not None and len(found) > _MAX_COMPARED:
        message = f"compares at most {_MAX_COMPARED} groups; the jobs have {len(found)}"
        raise invalid_parameter("/metric", message)
    return GroupsView(
        by=by,
        x=range_.x,
        groups=[
            _make_view(
                group,
                groups.read_series(
                    session,
                    group,
                    series or (),
                    axis=range_.x,
                    start=range_.from_,
                    stop=range_.to,
                    buckets=buckets,
                ),
            )
            for group in found
        ],
        differences=[
            GroupDifferenceView.of(found, 0, other, metric)
            for other in range(1, len(found))
            if metric is not None
        ],
    )


def _make_view(group: JobGroup, series: dict[str, GroupSeries]) -> GroupView:
    return GroupView(
        fields=group.fields,
        jobs=[GroupMemberView.of(job) for job in group.jobs],
        results={
            name: SampleStatisticsView.model_validate(found)
            for name, found in groups.read_results(group).items()
        },
        series={name: GroupSeriesView.model_validate(found) for name, found in series.items()},
    )
