"""Records: JSON objects of the service as frozen, typed Python objects."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Protocol, Self, TypeVar

import msgspec

T = TypeVar("T")
Time = Annotated[datetime, msgspec.Meta(tz=True)]


class OpenEnum(StrEnum):
    """A set of values that a newer service may extend: an unknown value is kept as its text."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, str):
            return None
        member = str.__new__(cls, value)
        member._name_ = value
        member._value_ = value
        return member


class Connection(Protocol):
    """Where a record was read, and can read more to show itself."""

    def read_optional(self, path: str, params: Mapping[str, Any]) -> Any:
        """The decoded JSON of one GET request, which is not repeated; None where it fails."""


class Record(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """Base of all records. Fields that this version of the client does not know are ignored."""

    @property
    def document(self) -> Mapping[str, Any]:
        """The JSON object as the service sent it, unknown fields included."""
        document: Mapping[str, Any] = self.__dict__.get("document", {})
        return document

    @property
    def connection(self) -> Connection | None:
        """The connection that has read the record; None where it was made otherwise."""
        return self.__dict__.get("connection")


def parse(kind: type[T], document: Any, connection: Connection | None = None) -> T:
    """Convert decoded JSON to `kind`. ValueError names the first field that does not fit."""
    record = msgspec.convert(document, kind)
    _attach(record, document, connection)
    return record


def _attach(value: Any, document: Any, connection: Connection | None) -> None:
    if isinstance(value, Record):
        value.__dict__.update(document=document, connection=connection)
        for name in value.__struct_fields__:
            if name in document:
                _attach(getattr(value, name), document[name], connection)
    elif isinstance(value, tuple):
        for item, inner in zip(value, document, strict=True):
            _attach(item, inner, connection)
    elif isinstance(value, dict):
        for key, item in value.items():
            _attach(item, document[key], connection)
