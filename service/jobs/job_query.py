"""Conditions and orders of job lists, by any field of the spec, of the result and of the job."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from pydantic import BaseModel
from sqlalchemy import ColumnElement, and_, func, not_, or_, select

from service.errors import invalid_parameter
from service.specs.fields import list_field_types
from service.specs.job_spec import JobSpec
from service.specs.protocol import TrainingResult
from service.storage.tables import JobRow, TagRow

_CONDITION = re.compile(r"(?P<field>[a-z][a-z0-9_./]*)(?P<operator>!=|<=|>=|:|<|>)(?P<value>.*)")
_COMPARISONS: dict[str, Callable[[Any, Any], ColumnElement[bool]]] = {
    "<": lambda field, value: field < value,
    "<=": lambda field, value: field <= value,
    ">": lambda field, value: field > value,
    ">=": lambda field, value: field >= value,
}


class _Kind(Enum):
    TEXT = "text"
    NUMBER = "a number"
    BOOLEAN = "true or false"
    TIME = "a time such as 2026-11-21T12:00:00Z"


@dataclass(frozen=True)
class _Field:
    expression: ColumnElement[Any]
    kind: _Kind


_COLUMNS = {
    name: _Field(getattr(JobRow, name), kind)
    for kind, names in {
        _Kind.TEXT: ("id", "name", "kind", "user", "state", "reason", "note"),
        _Kind.NUMBER: ("attempts", "restarts", "preemptions", "trained_seconds"),
        _Kind.TIME: ("created_at", "started_at", "finished_at"),
        _Kind.BOOLEAN: ("starred", "archived"),
    }.items()
    for name in names
}


def parse_condition(text: str) -> ColumnElement[bool]:
    """`FIELD:VALUE`, where VALUE may be several with commas, or with !=, <, <=, > or >=.

    InvalidInput where there is no such field, or the value is not of its kind.
    """
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise invalid_parameter(
            "/where", f"must look like depth:20,56 or recipe.batch_size>=128: {text!r}"
        )
    name, operator = match["field"], match["operator"]
    field = _find_field(name, "/where")
    if operator in _COMPARISONS:
        return _COMPARISONS[operator](
            field.expression, _parse_value(name, field.kind, match["value"])
        )
    values = [_parse_value(name, field.kind, value) for value in match["value"].split(",")]
    is_equal = field.expression.in_(values)
    return is_equal if operator == ":" else or_(not_(is_equal), field.expression.is_(None))


def parse_order(text: str) -> list[ColumnElement[Any]]:
    """`FIELD`, ascending, or `-FIELD`; jobs without a value come last."""
    expression = _find_field(text.removeprefix("-"), "/sort").expression
    ordered = expression.desc() if text.startswith("-") else expression.asc()
    return [expression.is_(None), ordered]


def contains_words(text: str) -> ColumnElement[bool]:
    """Each word is a part of the name, the note or a tag, in capitals or not."""
    conditions = []
    for word in text.lower().split():
        columns = (func.lower(column) for column in (JobRow.name, JobRow.note))
        tags = select(TagRow.job_id).where(func.lower(TagRow.tag).contains(word, autoescape=True))
        in_text = (column.contains(word, autoescape=True) for column in columns)
        conditions.append(or_(*in_text, JobRow.id.in_(tags)))
    return and_(True, *conditions)


def _find_field(name: str, pointer: str) -> _Field:
    if name in _COLUMNS:
        return _COLUMNS[name]
    head, _, series = name.partition(".")
    if head == "metrics" and series:
        return _Field(JobRow.latest_metrics[series].as_float(), _Kind.NUMBER)
    model, column, path = (
        (TrainingResult, JobRow.result, series)
        if head == "result"
        else (JobSpec, JobRow.spec, name)
    )
    kind = _kind_of(model, path)
    if kind is None:
        raise invalid_parameter(pointer, f"jobs have no field {name!r} to compare")
    value = column[tuple(path.split("."))]
    expression = {
        _Kind.TEXT: value.as_string,
        _Kind.NUMBER: value.as_float,
        _Kind.BOOLEAN: value.as_boolean,
    }[kind]()
    return _Field(expression, kind)


def _kind_of(model: type[BaseModel], path: str) -> _Kind | None:
    types = list_field_types(model, path)
    if bool in types:
        return _Kind.BOOLEAN
    if {int, float} & types:
        return _Kind.NUMBER
    is_text = any(isinstance(part, type) and issubclass(part, str) for part in types)
    return _Kind.TEXT if is_text else None


def _parse_value(name: str, kind: _Kind, text: str) -> Any:
    try:
        if kind is _Kind.NUMBER:
            return float(text)
        if kind is _Kind.TIME:
            time = datetime.fromisoformat(text)
            return time if time.tzinfo is not None else time.replace(tzinfo=UTC)
        if kind is _Kind.BOOLEAN:
            return {"true": True, "false": False}[text]
    except (ValueError, KeyError):
        raise invalid_parameter(
            "/where", f"{name} must be {kind.value}; received {text!r}"
        ) from None
    return text
