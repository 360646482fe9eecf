"""Names of registered models and of their versions, as users write them."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

_PART = "[A-Za-z0-9][A-Za-z0-9_.-]*"
_NAME = f"{_PART}(/{_PART})*"
_ALIAS = "[a-z][a-z0-9-]{0,62}"
_NUMBER = "[1-9][0-9]{0,8}"

MAX_VERSION = 999_999_999

ModelName = Annotated[
    str, Field(max_length=120, pattern=f"^{_NAME}$", examples=["resnet-56/course"])
]
# It begins with a letter: a number is that of a version.
Alias = Annotated[str, Field(pattern=f"^{_ALIAS}$", examples=["production"])]
ModelReference = Annotated[
    str,
    Field(
        max_length=200,
        pattern=f"^{_NAME}(@({_ALIAS}|{_NUMBER}))?$",
        examples=["resnet-56/course@production"],
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
