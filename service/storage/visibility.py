"""Which rows a session sees: all, or only those of one person or with one tag.

A condition that SQLAlchemy adds to the session's SELECT statements, so that no query can forget
it. In a session that reads it is added to all but those marked with ALL_ROWS, such as the
scheduler's snapshot of the queue. In a session that writes it is added only to those marked with
VISIBLE_ROWS, which look up what a request names: a job's end concerns the jobs of others, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, event, false, or_, select
from sqlalchemy.orm import ORMExecuteState, Session, with_loader_criteria

from service.storage.tables import (
    AlertRow,
    JobRow,
    ModelRow,
    SearchRow,
    StudyAnalysisRow,
    StudyMemberRow,
    StudyRow,
    SubmittedRow,
    TagRow,
    WebhookRow,
)

_VISIBILITY, _IS_DEFAULT = "visibility", "is_visibility_default"
_OPTION = "resnetd_visible_rows"
# As in service.specs.analysis_spec, which is beside this package.
_TRAINING = "training"

ALL_ROWS: dict[str, Any] = {_OPTION: False}
VISIBLE_ROWS: dict[str, Any] = {_OPTION: True}

_Owned = type[SubmittedRow | ModelRow | WebhookRow | AlertRow]
_PRIVATE: tuple[_Owned, ...] = (WebhookRow, AlertRow)
_OWNED: tuple[_Owned, ...] = (JobRow, SearchRow, StudyRow, ModelRow, *_PRIVATE)


@dataclass(frozen=True)
class Shared:
    """What a link shows: these jobs with their analyses, or this study with its jobs."""

    job_ids: tuple[str, ...] = ()
    study_id: str | None = None

    def criterion_of(self, row_type: type[Any]) -> ColumnElement[bool]:
        if row_type is StudyRow and self.study_id is not None:
            return StudyRow.id == self.study_id
        if row_type is not JobRow:
            return false()
        if self.study_id is None:
            is_analysis = and_(JobRow.source_job_id.in_(self.job_ids), JobRow.kind != _TRAINING)
            return or_(JobRow.id.in_(self.job_ids), is_analysis)
        return or_(
            *(
                JobRow.id.in_(select(member.job_id).where(member.study_id == self.study_id))
                for member in (StudyMemberRow, StudyAnalysisRow)
            )
        )


@dataclass(frozen=True)
class Visibility:
    """`user`: only this person's rows; `tag`: only jobs with this tag, and no searches, ...

    `shared`: only what a link shows.

    `notified`: webhooks and alerts are private; only this person's are visible. None: no limit.
    """

    user: str | None = None
    tag: str | None = None
    shared: Shared | None = None
    notified: str | None = None

    def criteria(self) -> list[Any]:
        found = []
        for row_type in _OWNED:
            owner = self.notified if row_type in _PRIVATE else self.user
            if owner is not None:
                found.append(with_loader_criteria(row_type, row_type.user == owner))
            if self.shared is not None:
                criterion = self.shared.criterion_of(row_type)
                found.append(with_loader_criteria(row_type, criterion))
            if self.tag is not None:
                is_tagged = (
                    JobRow.id.in_(select(TagRow.job_id).where(TagRow.tag == self.tag))
                    if row_type is JobRow
                    else false()
                )
                found.append(with_loader_criteria(row_type, is_tagged))
        return found


def restrict(session: Session, visibility: Visibility, *, is_default: bool) -> None:
    """`is_default`: also for statements without a mark."""
    session.info[_VISIBILITY] = visibility
    session.info[_IS_DEFAULT] = is_default


def find_visible(
    session: Session, row_type: type[JobRow | SearchRow | ModelRow], row_ids: Sequence[str]
) -> set[str]:
    """Those that the caller of the request sees; all where the session is of no request."""
    if session.info.get(_VISIBILITY) is None:
        return set(row_ids)
    statement = select(row_type.id).where(row_type.id.in_(row_ids))
    return set(session.scalars(statement.execution_options(**VISIBLE_ROWS)))


@event.listens_for(Session, "do_orm_execute")
def _add_criteria(state: ORMExecuteState) -> None:
    visibility: Visibility | None = state.session.info.get(_VISIBILITY)
    if visibility is None or not state.is_select or state.is_column_load:
        return
    if state.execution_options.get(_OPTION, state.session.info[_IS_DEFAULT]):
        state.statement = state.statement.options(*visibility.criteria())
