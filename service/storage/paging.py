"""Pages of rows, newest first; the id of a page's last row is the token of the next page."""

from dataclasses import dataclass
from typing import Generic, TypeVar

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from service import ids
from service.errors import FieldError, InvalidInput
from service.storage.tables import SubmittedRow

RowT = TypeVar("RowT", bound=SubmittedRow)


@dataclass(frozen=True)
class Page(Generic[RowT]):
    """`next_token`: of the next page; None on the last page."""

    rows: list[RowT]
    next_token: str | None


def read_page(
    session: Session,
    row_type: type[RowT],
    *conditions: ColumnElement[bool],
    limit: int,
    token: str | None = None,
    id_prefix: str | None = None,
) -> Page[RowT]:
    """The rows that meet all conditions. InvalidInput where `token` is not the token of a page."""
    if token is not None and not ids.is_id(token):
        error = FieldError(pointer="/page_token", message=f"is not a valid page token: {token!r}")
        raise InvalidInput("the request is not valid", field_errors=(error,))
    if id_prefix is not None and not ids.is_id(id_prefix):
        return Page(rows=[], next_token=None)
    statement = select(row_type).where(*conditions).order_by(row_type.id.desc()).limit(limit + 1)
    if token is not None:
        statement = statement.where(row_type.id < token)
    if id_prefix is not None:
        statement = statement.where(row_type.id.startswith(id_prefix, autoescape=True))
    rows = list(session.scalars(statement))
    has_more = len(rows) > limit
    return Page(rows=rows[:limit], next_token=rows[limit - 1].id if has_more else None)
