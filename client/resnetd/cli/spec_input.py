"""A spec from a file, options and settings. The service validates it."""

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
import yaml


@contextmanager
def usage_errors() -> Iterator[None]:
    """Turn a ValueError into a wrong option: exit code 2."""
    try:
        yield
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def read_json(name: str) -> Any:
    """The JSON in that file; `-` is standard input. ValueError if it cannot be read."""
    try:
        return json.loads(sys.stdin.read() if name == "-" else Path(name).read_text("utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read {name}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not UTF-8 text") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{name} is not JSON: {error}") from error


def read_definition(text: str) -> str | dict[str, Any]:
    """The definition in that YAML or JSON file; a name of a study that is no file stays as it is.

    ValueError if the file cannot be read.
    """
    path = Path(text)
    if path.suffix not in {".yaml", ".yml", ".json"}:
        return text
    try:
        # JSON is YAML, too.
        definition = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read {text}: {error.strerror}") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{text} is not YAML: {error}") from error
    if not isinstance(definition, dict):
        raise ValueError(f"{text} must have a mapping")  # noqa: TRY004 - wrong usage
    return definition


def read_spec(name: str | None, settings: Iterable[str] | None = None) -> dict[str, Any]:
    """The JSON object in that file, or an empty one, changed by the settings."""
    spec = {} if name is None else read_json(name)
    if not isinstance(spec, dict):
        raise ValueError(f"{name} must have a JSON object")  # noqa: TRY004 - wrong usage
    for setting in settings or ():
        spec = apply_setting(spec, setting)
    return spec


def parse_start_from(text: str) -> dict[str, str]:
    """The fields in `JOB[:CHECKPOINT[:MODE]]` or `MODEL[:MODE]`. ValueError for another form.

    Ids of jobs have neither `@` nor `/`.
    """
    parts = text.split(":")
    is_model = not {"@", "/"}.isdisjoint(parts[0])
    names = ("model", "mode") if is_model else ("job", "checkpoint", "mode")
    fields = dict(zip(names, parts, strict=False))
    if len(parts) > len(names) or not all(fields.values()):
        raise ValueError(
            "expected JOB[:CHECKPOINT[:MODE]], as 0f3k:best:weights, or MODEL[:MODE], as "
            f"resnet-56/course@production:weights; received {text!r}"
        )
    return fields


def parse_workers(text: str) -> int | dict[str, int]:
    """The number in `2`, or the bounds in `1-8`. ValueError for another form."""
    smallest, dash, largest = text.partition("-")
    if not smallest.isdecimal() or (dash and not largest.isdecimal()):
        raise ValueError(f"expected a number of workers, as 2, or 1-8; received {text!r}")
    return {"min": int(smallest), "max": int(largest)} if dash else int(smallest)


def apply_setting(spec: dict[str, Any], setting: str) -> dict[str, Any]:
    """A copy of the spec with one field changed, as by `recipe.iterations=100`.

    The value is JSON, or text if it is not. A recipe that is only a name becomes an object when
    one of its fields is set. ValueError if the path leads through something that is no object.
    """
    path, equals, value = setting.partition("=")
    steps = path.split(".")
    if not equals or not all(steps):
        raise ValueError(f"expected FIELD=VALUE, as recipe.iterations=100; received {setting!r}")
    return _changed(spec, steps, _parse_value(value), setting)


def _changed(spec: dict[str, Any], steps: list[str], value: Any, setting: str) -> dict[str, Any]:
    first, *rest = steps
    if not rest:
        return spec | {first: value}
    inner = spec.get(first, {})
    if first == "recipe" and isinstance(inner, str):
        inner = {"name": inner}
    if not isinstance(inner, dict):
        raise ValueError(f"{setting!r}: {first!r} is {inner!r}, not an object")  # noqa: TRY004 - wrong usage
    return spec | {first: _changed(inner, rest, value, setting)}


def _parse_value(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except ValueError:
        return text


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
