"""The tokens of processes on the cluster: each attempt, runner and search driver has its own."""

import hmac
import re
from enum import StrEnum

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.access import tokens
from service.errors import Unauthorized
from service.storage.tables import AttemptRow, DriverRow, RunnerRow


class CallerKind(StrEnum):
    """What calls the API with a token of its own."""

    ATTEMPT = "attempt"
    RUNNER = "runner"
    DRIVER = "driver"


_TABLES: dict[CallerKind, type[AttemptRow] | type[RunnerRow] | type[DriverRow]] = {
    CallerKind.ATTEMPT: AttemptRow,
    CallerKind.RUNNER: RunnerRow,
    CallerKind.DRIVER: DriverRow,
}
# What no id can be is not worth a query, and PostgreSQL refuses a NUL.
_ID = re.compile(r"[0-9a-z-]{1,32}")


def authenticate(session: Session, kind: CallerKind, caller_id: str, secret: str) -> None:
    """Unauthorized unless `secret` is the present token of that caller.

    The error is the same, and takes the same time, where there is no such caller.
    """
    table = _TABLES[kind]
    known = None
    if _ID.fullmatch(caller_id):
        known = session.scalar(select(table.token_sha256).where(table.id == caller_id))
    # Without a valid token it is empty, which no digest equals.
    if not hmac.compare_digest(known or "", tokens.digest(secret)):
        raise Unauthorized(f"the token is not valid for this {kind}")
