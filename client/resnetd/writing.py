"""A spec out of a file, options and settings; whether it is valid is for the service to say."""

import json
import sys
from pathlib import Path
from typing import Any


def read_spec(name: str) -> dict[str, Any]:
    """The JSON object in that file; `-` is standard input. ValueError where there is none."""
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"cannot read {name}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not text") from error
    try:
        spec = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{name} is not JSON: {error}") from error
    if not isinstance(spec, dict):
        raise ValueError(f"{name} holds no JSON object")  # noqa: TRY004 - the writer's mistake
    return spec


def read_origin(written: str) -> dict[str, str]:
    """The fields in `JOB[:CHECKPOINT[:HOW]]`. ValueError where it is not of that form."""
    fields = dict(zip(("job", "checkpoint", "mode"), written.split(":"), strict=False))
    if written.count(":") > 2 or not all(fields.values()):  # noqa: PLR2004 - three fields
        raise ValueError(f"write it as JOB:best:weights, received {written!r}")
    return fields


def with_setting(spec: dict[str, Any], setting: str) -> dict[str, Any]:
    """The spec with one place changed, as in `recipe.iterations=100`.

    The value is JSON, or text where it is none. A recipe that is only named becomes an object
    when a field of it is set. ValueError where a step leads through what is no object.
    """
    path, equals, written = setting.partition("=")
    steps = path.split(".")
    if not equals or not all(steps):
        raise ValueError(f"write it as recipe.iterations=100, received {setting!r}")
    return _changed(spec, steps, _value(written), setting)


def _changed(place: dict[str, Any], steps: list[str], value: Any, setting: str) -> dict[str, Any]:
    first, *rest = steps
    if not rest:
        return place | {first: value}
    inner = place.get(first, {})
    if first == "recipe" and isinstance(inner, str):
        inner = {"name": inner}
    if not isinstance(inner, dict):
        raise ValueError(f"{setting!r} leads through {first!r}, which is {inner!r}")  # noqa: TRY004 - the writer's mistake
    return place | {first: _changed(inner, rest, value, setting)}


def _value(written: str) -> Any:
    try:
        return json.loads(written, parse_constant=_refuse_constant)
    except ValueError:
        return written


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
