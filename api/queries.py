"""Query parameters that several routes share."""

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Header, Query, Request

from service.jobs.metric_axes import MetricAxis
from service.jobs.records import JobFilter
from service.specs.base import MAX_NAME_LENGTH, Line
from service.states import JobState

_MAX_NUMBER = 2**31 - 1

T = TypeVar("T")


def _made_at_once(parameters: type[T]) -> Callable[..., Awaitable[T]]:
    """A dependency that makes them in the event loop: FastAPI calls a class in a thread."""

    async def make(**values: Any) -> T:
        return parameters(**values)

    make.__signature__ = inspect.signature(parameters)  # type: ignore[attr-defined]
    return make


FilterText = Annotated[Line, Query(max_length=MAX_NAME_LENGTH)]
ArchivedFilter = Annotated[
    bool | None, Query(description="default: false, and both where ids are given")
]
FieldsQuery = Annotated[
    Line | None,
    Query(
        max_length=4000,
        description="only these members of each, by dotted paths: `id,name,result.test_error`",
    ),
]
AfterNumber = Annotated[
    int, Query(ge=0, le=_MAX_NUMBER, description="only entries with a higher number")
]


@dataclass(frozen=True)
class PageParameters:
    limit: Annotated[int, Query(ge=1, le=1000)] = 50
    page_token: Annotated[str | None, Query(description="`next_page_token` of a page")] = None
    id_prefix: Annotated[str | None, Query(max_length=16)] = None
    archived: ArchivedFilter = None


PageQuery = Annotated[PageParameters, Depends(_made_at_once(PageParameters))]


@dataclass(frozen=True)
class JobFilterParameters:
    job: Annotated[list[FilterText] | None, Query(max_length=100, description="ids")] = None
    state: Annotated[list[JobState] | None, Query()] = None
    kind: Annotated[
        list[FilterText] | None, Query(description="`training`, or kinds of analyses")
    ] = None
    dataset: FilterText | None = None
    tag: Annotated[list[FilterText] | None, Query()] = None
    name: Annotated[FilterText | None, Query(description="a part of the name")] = None
    text: Annotated[FilterText | None, Query(description="words of name, note or tags")] = None
    where: Annotated[
        list[FilterText] | None,
        Query(max_length=20, description="FIELD:VALUE,VALUE or with !=, <, <=, >, >="),
    ] = None

    def make_filter(
        self, *, archived: bool | None = None, id_prefix: str | None = None
    ) -> JobFilter:
        return JobFilter(
            ids=self.job or (),
            states=self.state or (),
            kinds=self.kind or (),
            dataset=self.dataset,
            tags=self.tag or (),
            name=self.name,
            text=self.text,
            where=self.where or (),
            archived=archived,
            id_prefix=id_prefix,
        )


JobFilterQuery = Annotated[JobFilterParameters, Depends(_made_at_once(JobFilterParameters))]


@dataclass(frozen=True)
class RangeParameters:
    x: MetricAxis = MetricAxis.ITERATION
    from_: Annotated[float, Query(alias="from", ge=0, description="in units of x")] = 0
    to: Annotated[float | None, Query(ge=0, description="in units of x")] = None


RangeQuery = Annotated[RangeParameters, Depends(_made_at_once(RangeParameters))]


@dataclass(frozen=True)
class EventParameters:
    """`last_event_id`: sent by an EventSource that reconnects."""

    request: Request
    after: AfterNumber = 0
    limit: Annotated[int, Query(ge=1, le=1000)] = 1000
    last_event_id: Annotated[int | None, Header(ge=0, le=_MAX_NUMBER)] = None

    @property
    def is_stream(self) -> bool:
        return "text/event-stream" in self.request.headers.get("Accept", "")

    @property
    def stream_after(self) -> int:
        return self.after if self.last_event_id is None else self.last_event_id


EventQuery = Annotated[EventParameters, Depends(_made_at_once(EventParameters))]
