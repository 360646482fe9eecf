"""Idempotency keys: a repeated submission returns what the first one created."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, Self, TypeVar

from pydantic import BaseModel
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

    `value`: None without a key. `request_sha256`: of the validated body. `item`: index in a batch.
    """

    user: str
    operation: Operation
    value: str | None
    request_sha256: str
    item: int = 0

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
    create: Callable[[], RowT],
    *,
    key: IdempotencyKey,
) -> Submission[RowT]:
    """Calls `create` unless the key was used before. IdempotencyMismatch for another body."""
    if key.value is None:
        return Submission(row=create(), is_replay=False)
    earlier = _find_earlier(session, row_type, key)
    if earlier is not None:
        return Submission(row=earlier, is_replay=True)
    try:
        with session.begin_nested():
            row = create()
            session.flush()
            session.add(_key_row(key, row))
    except IntegrityError:
        # A concurrent transaction with the same key has committed first.
        earlier = _find_earlier(session, row_type, key)
        if earlier is None:
            raise
        return Submission(row=earlier, is_replay=True)
    return Submission(row=row, is_replay=False)


def _find_earlier(session: Session, row_type: type[RowT], key: IdempotencyKey) -> RowT | None:
    used = session.get(IdempotencyKeyRow, (key.user, key.operation, key.value, key.item))
    if used is None:
        return None
    created = {"job": used.job_id, "search": used.search_id, "study": used.study_id}
    noun, row_id = next((noun, row_id) for noun, row_id in created.items() if row_id is not None)
    if used.request_sha256 != key.request_sha256:
        raise IdempotencyMismatch(
            f"the idempotency key {key.value!r} was used with a different body; "
            f"that request created {noun} {row_id}"
        )
    return session.get(row_type, row_id)


def _key_row(key: IdempotencyKey, row: JobRow | SearchRow | StudyRow) -> IdempotencyKeyRow:
    return IdempotencyKeyRow(
        user=key.user,
        operation=key.operation,
        key=key.value,
        item=key.item,
        request_sha256=key.request_sha256,
        job_id=row.id if isinstance(row, JobRow) else None,
        search_id=row.id if isinstance(row, SearchRow) else None,
        study_id=row.id if isinstance(row, StudyRow) else None,
    )
