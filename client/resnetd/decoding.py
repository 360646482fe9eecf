"""JSON to frozen dataclasses, forgiving what a newer server adds."""

import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from datetime import datetime
from enum import Enum, StrEnum
from functools import cache
from typing import Any, Self, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


class OpenEnum(StrEnum):
    """A set that a newer server may extend: an unknown value is kept, and equals its text."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, str):
            return None
        member = str.__new__(cls, value)
        member._name_ = value
        member._value_ = value
        return member


@dataclass(frozen=True, kw_only=True)
class Record:
    """What the server answered; `document` holds it whole, fields unknown here included."""

    document: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


def decode(kind: type[T], value: Any) -> T:
    """`value`, as json.loads gives it, as a `kind`. ValueError says which field does not fit."""
    decoded: T = _decode(kind, value, place="")
    return decoded


def _decode(kind: Any, value: Any, *, place: str) -> Any:
    if kind is Any:
        return value
    if get_origin(kind) in {types.UnionType, Union}:
        if value is None:
            return None
        (kind,) = (option for option in get_args(kind) if option is not type(None))
    if get_origin(kind) in {tuple, dict}:
        return _container(kind, value, place=place)
    if is_dataclass(kind):
        return _record(kind, value, place=place)
    return _scalar(kind, value, place=place)


def _container(kind: Any, value: Any, *, place: str) -> Any:
    if get_origin(kind) is tuple:
        _expect(list, value, place=place)
        (item, _) = get_args(kind)
        return tuple(
            _decode(item, inner, place=f"{place}[{index}]") for index, inner in enumerate(value)
        )
    _expect(dict, value, place=place)
    (_, item) = get_args(kind)
    return {key: _decode(item, inner, place=f"{place}.{key}") for key, inner in value.items()}


def _record(kind: Any, value: dict[str, Any], *, place: str) -> Any:
    _expect(dict, value, place=place)
    hints = _hints(kind)
    read: dict[str, Any] = {}
    for known in fields(kind):
        inner = f"{place}.{known.name}" if place else known.name
        if known.name == "document":
            read["document"] = value
        elif known.name in value:
            read[known.name] = _decode(hints[known.name], value[known.name], place=inner)
        elif known.default is MISSING and known.default_factory is MISSING:
            raise ValueError(f"{inner} is missing")
    return kind(**read)


def _scalar(kind: Any, value: Any, *, place: str) -> Any:
    if kind is datetime:
        _expect(str, value, place=place)
        return datetime.fromisoformat(value)
    if issubclass(kind, Enum):
        _expect(str, value, place=place)
        return kind(value)
    if kind is float:
        _expect((int, float), value, place=place)
        return float(value)
    _expect(kind, value, place=place)
    return value


def _expect(kind: type | tuple[type, ...], value: Any, *, place: str) -> None:
    if not isinstance(value, kind):
        names = kind.__name__ if isinstance(kind, type) else "number"
        raise ValueError(f"{place or 'the answer'} is not {names}, received {value!r}"[:300])  # noqa: TRY004 - the caller's data, not our types


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)
