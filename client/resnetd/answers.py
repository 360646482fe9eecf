"""Where a job lies, and how the service's answers become records."""

import uuid
from typing import Any, TypeVar
from urllib.parse import quote

from resnetd.decoding import Record, decode
from resnetd.errors import UnexpectedAnswer

R = TypeVar("R", bound=Record)


def read(kind: type[R], answer: Any) -> R:
    try:
        return decode(kind, answer)
    except ValueError as error:
        name = kind.__name__.removeprefix("_")
        raise UnexpectedAnswer(f"the service answered no {name}: {error}") from error


def read_list(kind: type[R], name: str, answer: Any) -> list[R]:
    """A list comes in an object, under its name."""
    if not isinstance(answer, dict) or not isinstance(answer.get(name), list):
        raise UnexpectedAnswer(f"the answer holds no list {name!r}")
    return [read(kind, element) for element in answer[name]]


def job_path(job_id: str, *steps: str) -> str:
    return "/".join(["/v1/jobs", *(quote(step, safe="") for step in (job_id, *steps))])


def key_header(idempotency_key: str | None) -> dict[str, str]:
    """Without a key only this call's own retries share one. ValueError for strange letters."""
    key = idempotency_key or str(uuid.uuid4())
    if not (key.isascii() and key.isprintable()):
        raise ValueError(f"an idempotency key is plain letters, received {key!r}")
    return {"Idempotency-Key": key}
