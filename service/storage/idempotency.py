"""Idempotency keys: a repeated submission returns what the first one created."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, Self, TypeVar

from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.errors import IdempotencyMismatch
from service.storage.tables import IdempotencyKeyRow, JobRow, SearchRow, StudyRow

RowT = TypeVar("RowT", JobRow, SearchRow, StudyRow)


class Operation(StrEnum):
    SUBMIT_JOB = "submit-job"
    CLONE_JOB = "clone-job"
    SUBMIT_BATCH = "submit-batch"
    SUBMIT_SEARCH = "submit-search"
    SUBMIT_STUDY = "submit-study"
    SUBMIT_ANALYSIS = "submit-analysis"


@dataclass(frozen=True)
class IdempotencyKey:
    """What a client sent with a request. Keys of other users and operations are independent.

    `value`: None without a key. `request_sha256`: of the validated body.
    """

    user: str
    operation: Operation
    value: str | None
    request_sha256: str

    @classmethod
    def of(
        cls, operation: Operation, value: str | None, *, user: str, body: Sequence[BaseModel]
    ) -> Self:
        sha256 = hashlib.sha256()
        for part in body if value is not None else ():
            sha256.update(part.model_dump_json().encode() + b"\n")
        return cls(user, operation, value, sha256.hexdigest())


@dataclass(frozen=True)
class Submission(Generic[RowT]):
    """`is_replay`: an earlier request with the same key has created the row."""

    row: RowT
    is_replay: bool


def submit_once(
    session: Session,
    row_type: type[RowT],
    create: Callable[[], Sequence[RowT]],
    *,
    key: IdempotencyKey,
) -> list[Submission[RowT]]:
    """Calls `create` unless the key was used before. IdempotencyMismatch for another body.

    Of a batch, a replay has the rows that have not been deleted since.
    """
    if key.value is None:
        rows = create()
        # The rows have their defaults then.
        session.flush()
        return [Submission(row=row, is_replay=False) for row in rows]
    if earlier := _find_earlier(session, row_type, key):
        return earlier
    try:
        with session.begin_nested():
            rows = create()
            session.add_all(_key_row(key, item, row) for item, row in enumerate(rows))
    except IntegrityError:
        # A concurrent transaction with the same key has committed first.
        if earlier := _find_earlier(session, row_type, key):
            return earlier
        raise
    else:
        return [Submission(row=row, is_replay=False) for row in rows]


def _find_earlier(
    session: Session, row_type: type[RowT], key: IdempotencyKey
) -> list[Submission[RowT]]:
    used = session.scalars(
        select(IdempotencyKeyRow)
        .where(
            IdempotencyKeyRow.user == key.user,
            IdempotencyKeyRow.operation == key.operation,
            IdempotencyKeyRow.key == key.value,
        )
        .order_by(IdempotencyKeyRow.item)
    ).all()
    row_ids = [row.job_id or row.search_id or row.study_id for row in used]
    if used and used[0].request_sha256 != key.request_sha256:
        noun = "job" if used[0].job_id else "search" if used[0].search_id else "study"
        raise IdempotencyMismatch(
            f"the idempotency key {key.value!r} was used with a different body; "
            f"that request created {noun} {row_ids[0]}"
        )
    rows = [session.get(row_type, row_id) for row_id in row_ids]
    return [Submission(row=row, is_replay=True) for row in rows if row is not None]


def _key_row(
    key: IdempotencyKey, item: int, row: JobRow | SearchRow | StudyRow
) -> IdempotencyKeyRow:
    return IdempotencyKeyRow(
        user=key.user,
        operation=key.operation,
        key=key.value,
        item=item,
        request_sha256=key.request_sha256,
        job_id=row.id if isinstance(row, JobRow) else None,
        search_id=row.id if isinstance(row, SearchRow) else None,
        study_id=row.id if isinstance(row, StudyRow) else None,
    )
