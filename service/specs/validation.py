"""Pydantic's validation errors as field errors with JSON pointers."""

from collections.abc import Iterable
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from service.errors import FieldError, InputLocation, InvalidInput

_MAX_MESSAGE_LENGTH = 500
# The fields whose model follows from their value; pydantic puts the model's tag into locations.
_TAGGED_FIELDS = frozenset({"analysis", "num_workers"})

Model = TypeVar("Model", bound=BaseModel)


def validate(model: type[Model], value: Any, *, message: str) -> Model:
    """The model of a decoded JSON value. InvalidInput with one field error per invalid field."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        field_errors = to_field_errors(error.errors(include_url=False))
        raise InvalidInput(message, field_errors=field_errors) from error


def to_field_errors(errors: Iterable[Any], *, is_request: bool = False) -> tuple[FieldError, ...]:
    """Field errors for the errors that pydantic lists; messages include the received scalar.

    `is_request`: FastAPI lists them, and puts `body`, `query` or `header` first.
    """
    return tuple(
        FieldError(
            pointer=_pointer(error["loc"][1:] if is_request else error["loc"]),
            message=_message(error),
            location=InputLocation(error["loc"][0]) if is_request else InputLocation.BODY,
        )
        for error in errors
        # A default that depends on an invalid field, which has its own error.
        if error["type"] != "default_factory_not_called"
    )


def _pointer(location: tuple[int | str, ...]) -> str:
    written = (
        step
        for previous, step in zip((None, *location), location, strict=False)
        if previous not in _TAGGED_FIELDS
    )
    steps = (str(step).replace("~", "~0").replace("/", "~1") for step in written)
    return "".join(f"/{step}" for step in steps)


def _message(error: Any) -> str:
    if error["type"] == "missing":
        return "is required"
    if error["type"] == "extra_forbidden":
        return "is not a known field"
    message = str(error["msg"]).removeprefix("Value error, ")
    received = error["input"]
    is_scalar = isinstance(received, str | int | float | bool | None)
    if is_scalar and repr(received) not in message:
        message = f"{message}; received {received!r}"
    return message[:_MAX_MESSAGE_LENGTH]
