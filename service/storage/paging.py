"""Pages of rows, newest first; the id of a page's last row is the token of the next page."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, Select, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from service import ids
from service.errors import invalid_parameter
from service.storage.tables import Base, SubmittedRow

_OFFSET = re.compile(r"[0-9]{1,9}")

# Conditions that callers combine make statements without end, of 50 KiB each. Compiling one again
# takes less than a millisecond.
_NOT_KEPT: dict[str, Any] = {"compiled_cache": None}

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
    _require_token(token, _OFFSET.fullmatch if order else ids.is_id)
    if id_prefix is not None and not ids.is_id(id_prefix):
        return Page(rows=[], next_token=None)
    is_form_fixed = not (conditions or named or order) and id_prefix is None
    statement = select(row_type).where(*conditions)
    if named:
        statement = statement.where(row_type.id.in_(named))
    if archived is not None or not (named or id_prefix is not None):
        statement = statement.where(row_type.archived.is_(archived or False))
    if id_prefix is not None:
        statement = statement.where(row_type.id.startswith(id_prefix, autoescape=True))
    if not order:
        return read_newest(
            session, statement, row_type.id, limit=limit, token=token, is_form_fixed=is_form_fixed
        )
    offset = int(token or 0)
    statement = statement.order_by(*order, row_type.id.desc()).offset(offset).limit(limit + 1)
    rows = list(session.scalars(statement, execution_options=_NOT_KEPT))
    return Page(rows[:limit], str(offset + limit) if len(rows) > limit else None)


def read_newest(
    session: Session,
    statement: Select[PagedT],
    row_id: InstrumentedAttribute[str],
    *,
    limit: int,
    token: str | None,
    is_form_fixed: bool = True,
) -> Page[PagedT]:
    """The statement's rows, newest first. InvalidInput as in `read_page`.

    `is_form_fixed`: its conditions are always the same, with other values.
    """
    _require_token(token, ids.is_id)
    if token is not None:
        statement = statement.where(row_id < token)
    statement = statement.order_by(row_id.desc()).limit(limit + 1)
    options = {} if is_form_fixed else _NOT_KEPT
    rows = list(session.scalars(statement, execution_options=options))
    next_token = getattr(rows[limit - 1], row_id.key) if len(rows) > limit else None
    return Page(rows[:limit], next_token)


def _require_token(token: str | None, is_token: Callable[[str], object]) -> None:
    if token is not None and not is_token(token):
        raise invalid_parameter("/page_token", f"is not a valid page token: {token!r}")
