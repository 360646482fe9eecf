"""Names of registered models and of their versions, as users write them."""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

_PART = "[A-Za-z0-9][A-Za-z0-9_.-]*"
_NAME = f"{_PART}(/{_PART})*"
_ALIAS = "[a-z][a-z0-9-]{0,62}"
_NUMBER = "[1-9][0-9]{0,8}"

MAX_VERSION = 999_999_999


def _explained(rule: str) -> WrapValidator:
    """Says the rule in words where a text does not match the pattern."""

    def validate(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError as error:
            if error.errors()[0]["type"] != "string_pattern_mismatch":
                raise
            raise ValueError(rule) from error

    return WrapValidator(validate)


ModelName = Annotated[
    str,
    Field(max_length=120, pattern=f"^{_NAME}$", examples=["resnet-56/course"]),
    _explained(
        "must be letters, digits and '_.-' in parts with '/' between them, each beginning with a "
        "letter or digit, as resnet-56/course"
    ),
]
# It begins with a letter: a number is that of a version.
Alias = Annotated[
    str,
    Field(pattern=f"^{_ALIAS}$", examples=["production"]),
    _explained(
        "must be at most 63 lower-case letters, digits and '-', beginning with a letter, as "
        "production"
    ),
]
ModelReference = Annotated[
    str,
    Field(
        max_length=200,
        pattern=f"^{_NAME}(@({_ALIAS}|{_NUMBER}))?$",
        examples=["resnet-56/course@production"],
    ),
    _explained(
        "must be NAME@ALIAS, NAME@NUMBER or NAME, as resnet-56/course@production; an alias has "
        "lower-case letters"
    ),
]


@dataclass(frozen=True)
class VersionSelector:
    """A parsed reference: the newest version where it has neither an alias nor a number."""

    name: str
    alias: str | None = None
    number: int | None = None


def parse_reference(reference: str) -> VersionSelector:
    """Of a text that is a ModelReference."""
    name, _, selector = reference.partition("@")
    if selector.isdecimal():
        return VersionSelector(name, number=int(selector))
    return VersionSelector(name, alias=selector or None)
