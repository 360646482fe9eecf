"""What validation found wrong, in the words of a problem's answer."""

from collections.abc import Iterable
from typing import Any

from service.errors import FieldError


def to_field_errors(findings: Iterable[Any], *, skip: int = 0) -> tuple[FieldError, ...]:
    """Pydantic's findings as JSON pointers and sentences that name what was received.

    `skip` steps of each location are left out: FastAPI puts `body` or `query` first.
    """
    return tuple(
        FieldError(pointer=_pointer(finding["loc"][skip:]), message=_message(finding))
        for finding in findings
        # A default that waits for a field that is wrong: its own fault is named already.
        if finding["type"] != "default_factory_not_called"
    )


def _pointer(location: tuple[int | str, ...]) -> str:
    steps = (str(step).replace("~", "~0").replace("/", "~1") for step in location)
    return "".join(f"/{step}" for step in steps)


def _message(finding: Any) -> str:
    if finding["type"] == "missing":
        return "is required"
    if finding["type"] == "extra_forbidden":
        return "is not a field here"
    message = str(finding["msg"]).removeprefix("Value error, ")
    received = finding["input"]
    if isinstance(received, str | int | float | bool | None) and repr(received) not in message:
        return f"{message}; received {received!r}"[:500]
    return message[:500]
