"""Shares: links that show a study, or some jobs, without an account, until they expire.

A link is a token of its owner with the scope `shared`: it ends with its owner, and shows nothing
that the owner does not see.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session

from service import ids
from service.access import tokens
from service.access.policy import Principal, require_owned
from service.errors import NotFound, invalid_parameter
from service.states import TokenScope
from service.storage.tables import JobRow, StudyRow, SubmittedRow, TokenRow
from service.storage.visibility import VISIBLE_ROWS, Shared
from service.text import count_of

Shareable = TypeVar("Shareable", JobRow, StudyRow)

_NAMES: dict[type[SubmittedRow], str] = {JobRow: "job", StudyRow: "study"}

DEFAULT_LIFETIME = timedelta(days=30)
MAX_LIFETIME = timedelta(days=366)


def create_share(
    session: Session,
    caller: Principal,
    *,
    job_ids: Sequence[str],
    study_id: str | None,
    expires_at: datetime | None,
    now: datetime,
) -> tuple[TokenRow, str]:
    """The new link and its secret, which is stored nowhere.

    NotFound for what the caller does not see, Forbidden for what belongs to others, InvalidInput
    for a link that does not expire within a year.
    """
    if expires_at is not None and expires_at > now + MAX_LIFETIME:
        raise invalid_parameter(
            "/expires_at", f"must be within {count_of(MAX_LIFETIME.days, 'day')}"
        )
    rows: list[JobRow | StudyRow] = [_find(session, JobRow, job_id) for job_id in job_ids]
    if study_id is not None:
        rows.append(_find(session, StudyRow, study_id))
    for row in rows:
        require_owned(caller, row.name, owner=row.user)
    label = rows[0].name if len(rows) == 1 else count_of(len(rows), "job")
    return tokens.create_token(
        session,
        user=caller.user,
        label=label[:120],
        scope=TokenScope.SHARED,
        tag=None,
        expires_at=expires_at or now + DEFAULT_LIFETIME,
        shared=Shared(job_ids=tuple(job_ids), study_id=study_id),
        now=now,
    )


def list_shares(session: Session, user: str | None) -> Sequence[TokenRow]:
    """Of one person, or all; oldest first."""
    statement = select(TokenRow).where(TokenRow.scope == TokenScope.SHARED).order_by(TokenRow.id)
    if user is not None:
        statement = statement.where(TokenRow.user == user)
    return session.scalars(statement).all()


def find_share(session: Session, share_id: str) -> TokenRow:
    row = session.get(TokenRow, share_id) if ids.is_id(share_id) else None
    if row is None or row.scope is not TokenScope.SHARED:
        raise NotFound(f"no share {share_id!r}")
    return row


def _find(session: Session, row_type: type[Shareable], row_id: str) -> Shareable:
    row = None
    if ids.is_id(row_id):
        row = session.get(row_type, row_id, execution_options=VISIBLE_ROWS)
    if row is None:
        raise NotFound(f"no {_NAMES[row_type]} {row_id!r}")
    return row
