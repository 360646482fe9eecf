"""The audit log: sign-ins, tokens, people, roles and deletions; entries are never changed."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from service import ids
from service.states import AuditKind
from service.storage import paging
from service.storage.actors import actor_of
from service.storage.paging import Page
from service.storage.tables import AuditRow


def record(
    session: Session,
    kind: AuditKind,
    subject: str,
    *,
    now: datetime,
    user: str | None = None,
    **data: Any,
) -> None:
    """In the transaction of the change. `user`: by default that of the session's actor."""
    session.add(
        AuditRow(
            id=ids.new_id(now),
            at=now,
            kind=kind,
            user=user or actor_of(session).user,
            subject=subject,
            data=data,
        )
    )


def list_page(
    session: Session,
    *,
    kinds: Sequence[AuditKind],
    user: str | None,
    limit: int,
    token: str | None,
) -> Page[AuditRow]:
    """Newest first. InvalidInput where `token` is not the token of a page."""
    statement = select(AuditRow)
    if kinds:
        statement = statement.where(AuditRow.kind.in_(kinds))
    if user is not None:
        statement = statement.where(AuditRow.user == user)
    return paging.read_newest(session, statement, AuditRow.id, limit=limit, token=token)
