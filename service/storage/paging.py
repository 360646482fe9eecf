"""Pages of rows, newest first; the id of a page's last row is the token of the next page."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from service import ids
from service.errors import invalid_parameter
from service.storage.tables import Base, SubmittedRow

_OFFSET = re.compile(r"[0-9]{1,9}")

RowT = TypeVar("RowT", bound=SubmittedRow)
PagedT = TypeVar("PagedT", bound=Base)


@dataclass(frozen=True)
class Page(Generic[PagedT]):
    """`next_token`: of the next page; None on the last page."""

    rows: list[PagedT]
    next_token: str | None


def read_page(
    session: Session,
    row_type: type[RowT],
    *conditions: ColumnElement[bool],
    limit: int,
    token: str | None = None,
    named: Sequence[str] = (),
    id_prefix: str | None = None,
    archived: bool | None = None,
    order: Sequence[ColumnElement[Any]] = (),
) -> Page[RowT]:
    """The rows that meet all conditions. InvalidInput where `token` is not the token of a page.

    `named`: only these ids. `archived` None: only rows that are not, unless `named` or `id_prefix`
    says which.
    `order`: instead of newest first. Then the token is the number of rows before the page: rows
    that change meanwhile may be missed or come twice.
    """
    is_token = ids.is_id if not order else _OFFSET.fullmatch
    if token is not None and not is_token(token):
        raise invalid_parameter("/page_token", f"is not a valid page token: {token!r}")
    if id_prefix is not None and not ids.is_id(id_prefix):
        return Page(rows=[], next_token=None)
    statement = select(row_type).where(*conditions).limit(limit + 1)
    statement = statement.order_by(*order, row_type.id.desc())
    if token is not None:
        statement = statement.offset(int(token)) if order else statement.where(row_type.id < token)
    if named:
        statement = statement.where(row_type.id.in_(named))
    if archived is not None or not (named or id_prefix is not None):
        statement = statement.where(row_type.archived.is_(archived or False))
    if id_prefix is not None:
        statement = statement.where(row_type.id.startswith(id_prefix, autoescape=True))
    rows = list(session.scalars(statement))
    if len(rows) <= limit:
        return Page(rows=rows, next_token=None)
    next_token = str(int(token or 0) + limit) if order else rows[limit - 1].id
    return Page(rows=rows[:limit], next_token=next_token)
