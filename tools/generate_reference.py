"""Writes the reference pages that follow from the code; run by `make docs`.

Routes come from the OpenAPI document, specs and settings from their models, commands from their
parsers. Each text of a page is the code's: change it there.
"""

# ruff: noqa: SLF001 - argparse has no other way to list its options

import argparse
import ast
import inspect
import json
import os
import re
import textwrap
from collections.abc import Iterator
from typing import Any, get_args
from unittest import mock

import typer
from pydantic import BaseModel
from typer.core import TyperArgument, TyperGroup, TyperOption

import service.__main__
import workers.__main__
import workers.training.__main__
from api.access_rules import RULES
from api.app import create_app
from resnetd import spec_help
from resnetd.cli import app as cli
from resnetd.cli.exit_codes import ExitCode
from service.catalog import recipes
from service.catalog.architectures import Family
from service.catalog.datasets import DATASETS
from service.catalog.recipes import Recipe
from service.settings import RecordRetention, Settings
from service.specs import job_spec, search_space, search_spec
from service.specs.analysis_spec import ANALYSES
from tools.check_prose import REPOSITORY

REFERENCE = REPOSITORY / "docs" / "reference"
# The same texts for `resnetd help`.
SPEC_HELP = REPOSITORY / "client" / "resnetd" / spec_help.FILE
_NOTE = "<!-- Generated from the code by `make docs`. Do not edit. -->"
_VAR = "/VAR"
# The options of every command that prints a result.
_COMMON_OPTIONS = {"--output", "--help"}


def main() -> None:
    for name, text in make_pages().items():
        (REFERENCE / name).write_text(text, encoding="utf-8")
    SPEC_HELP.write_text(make_spec_help(), encoding="utf-8")


def make_pages() -> dict[str, str]:
    """The generated pages by file name."""
    pages = {
        "api.md": ["# API routes", *_list_routes()],
        "access.md": ["# Who may call which route", *_list_rules()],
        "job-spec.md": ["# Job spec", *_describe_job_spec()],
        "search-spec.md": ["# Search spec", *_describe_search_spec()],
        "recipes.md": ["# Recipes", *_describe_recipes()],
        "datasets.md": ["# Datasets", *_list_datasets()],
        "settings.md": ["# Settings", *_list_settings()],
        "cli.md": ["# Commands", *_list_commands()],
    }
    return {name: "\n\n".join([_NOTE, *blocks]) + "\n" for name, blocks in pages.items()}


def make_spec_help() -> str:
    """The topics of `resnetd help` as JSON, a line for each field."""
    topics = {
        "job": job_spec.JobSpec,
        "recipe": Recipe,
        "resources": job_spec.Resources,
        "num_workers": job_spec.WorkerRange,
        "after": job_spec.Dependency,
        "start_from": job_spec.StartFrom,
        "retention": job_spec.Retention,
        "search": search_spec.SearchSpec,
        "space": search_space.Dimension,
        "scheduler": search_spec.SchedulerSpec,
        "budget": search_spec.Budget,
        **{_kind_of(analysis): analysis for analysis in ANALYSES},
    }
    found = [
        {
            "name": name,
            "text": _plain(_docstring(model)),
            "fields": [
                dict(zip(("name", "type", "default", "text"), map(_plain, row), strict=True))
                for row in _list_fields(model)
            ],
        }
        for name, model in topics.items()
    ]
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def _kind_of(analysis: type[BaseModel]) -> str:
    (kind,) = get_args(analysis.model_fields["kind"].annotation)
    return str(kind)


def _plain(text: str) -> str:
    """Without the links and backticks of Markdown."""
    return re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", text).replace("`", "")


# ---- API ----


def _list_routes() -> Iterator[str]:
    yield (
        "JSON unless the route says otherwise. Conventions and examples: [HTTP](http.md). A "
        "running service has this document at `/v1/openapi.json` and, for a browser, at `/v1/docs`."
    )
    document = create_app(Settings()).openapi()
    rows: dict[str, list[list[str]]] = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parameters = operation.get("parameters", ())
            names = [item["name"] for item in parameters if item["in"] != "path"]
            text = _first_line(operation.get("description") or operation["summary"])
            row = [f"`{method.upper()} {path}`", _code(*names), text]
            rows.setdefault(operation["tags"][0], []).append(row)
    for tag, routes in rows.items():
        yield f"## {tag.capitalize()}"
        yield _table(["route", "parameters", "what it does"], routes)


def _list_rules() -> Iterator[str]:
    yield (
        "Roles and scopes include those before them: `viewer`, `member`, `admin`; `shared`, "
        "`read`, `submit`, `full`. A link that shares something has the scope `shared` and sees "
        "only that. Admins own everything. Routes of attempts, runners and drivers take the "
        "tokens of those processes only; `GET /v1/health` and `POST /v1/session` need none."
    )
    rows = [
        [
            f"`{route}`",
            f"`{rule.role}`",
            f"`{rule.scope}`",
            f"the {rule.subject}" if rule.is_owned else "",
            "yes" if rule.is_tagged else "",
        ]
        for route, rule in RULES.items()
    ]
    yield _table(["route", "least role", "least scope", "must own", "tokens of one tag"], rows)
    yield (
        "Tokens of one person: `user` names the person. A token of one tag reaches jobs with the "
        "tag only."
    )


# ---- specs and settings ----


def _describe_job_spec() -> Iterator[str]:
    yield _docstring(job_spec.JobSpec)
    yield _model_table(job_spec.JobSpec)
    for model in (
        Recipe,
        job_spec.Resources,
        job_spec.WorkerRange,
        job_spec.Dependency,
        job_spec.StartFrom,
        job_spec.Retention,
        *ANALYSES,
    ):
        yield from _describe_model(model)


def _describe_search_spec() -> Iterator[str]:
    yield _docstring(search_spec.SearchSpec)
    yield _model_table(search_spec.SearchSpec)
    for model in (search_space.Dimension, search_spec.SchedulerSpec, search_spec.Budget):
        yield from _describe_model(model)
    yield "## Metrics"
    yield _docstring(search_spec.Metric)
    yield _code(*search_spec.Metric)


def _list_settings() -> Iterator[str]:
    yield (
        "The API, the dispatcher and `resnetd-server` read environment variables, or files of the "
        "same name in lower case in `/run/secrets` (or where `RESNETD_SECRETS_DIR` points). An "
        "invalid value ends the process with exit code 1 and a message that names the variable."
    )
    with mock.patch.dict(os.environ, clear=True):
        settings = Settings(var_dir=_VAR)
    rows = []
    for name, text in _field_docs(Settings).items():
        is_root = name == "var_dir"
        default = "`var`" if is_root else _default_of_setting(getattr(settings, name))
        rows.append([f"`RESNETD_{name.upper()}`", default, text])
    yield _table(["variable", "default", "meaning"], rows)
    yield f"`{RecordRetention.__name__}`: {_docstring(RecordRetention)}"
    yield _model_table(RecordRetention)
    yield "The client has variables of its own: [client/README.md](../../client/README.md)."


def _default_of_setting(value: Any) -> str:
    if value is None or value in ({}, ()):
        return "none"
    if isinstance(value, BaseModel):
        return f"`{value.model_dump_json()}`"
    secret = getattr(value, "get_secret_value", None)
    shown = f"{secret() if secret else value}"
    return f"`{shown.replace(_VAR, '<RESNETD_VAR_DIR>')}`"


def _describe_model(model: type[BaseModel]) -> Iterator[str]:
    yield f"## {model.__name__}"
    yield _docstring(model)
    yield _model_table(model)


def _model_table(model: type[BaseModel]) -> str:
    return _table(["field", "type", "default", "meaning"], list(_list_fields(model)))


def _list_fields(model: type[BaseModel]) -> Iterator[list[str]]:
    """Name, type, default and meaning of each."""
    schema = model.model_json_schema()
    docs = _field_docs(model)
    for name, field in schema["properties"].items():
        text = docs.get(name, "")
        default = _default_of_field(model, name, text)
        yield [f"`{name}`", _type_of(field, schema.get("$defs", {})), default, text]


def _default_of_field(model: type[BaseModel], name: str, text: str) -> str:
    field = model.model_fields[name]
    if model is Recipe and field.is_required():
        return "of the recipe" if name != "name" else "derived"
    if field.default_factory is not None or "Default:" in text:
        return "derived"
    if field.is_required():
        return "required"
    default = field.get_default()
    return "its defaults" if isinstance(default, BaseModel) else _code(_json(default))


def _type_of(field: dict[str, Any], definitions: dict[str, Any]) -> str:
    """The JSON type with its range. Whether null is allowed follows from the default."""
    name = field.get("$ref", "").rsplit("/", 1)[-1]
    described = definitions[name] if name else field
    values = described.get("enum", [described["const"]] if "const" in described else None)
    if values or name:
        return _code(*values) if values else f"[{name}](#{name.lower()})"
    alternatives = field.get("anyOf") or field.get("oneOf")
    if alternatives:
        options = [option for option in alternatives if option.get("type") != "null"]
        return " or ".join(_type_of(option, definitions) for option in options)
    if "prefixItems" in field:
        first, *_ = field["prefixItems"]
        return f"array of {len(field['prefixItems'])} {first['type']}s"
    if field["type"] == "array":
        return f"array of {_type_of(field['items'], definitions)}"
    if field["type"] == "object" and isinstance(field["additionalProperties"], dict):
        return f"object of {_type_of(field['additionalProperties'], definitions)}"
    kind: str = field["type"]
    length = f", length up to {field['maxLength']}" if "maxLength" in field else ""
    return kind + length + _range_of(field)


def _range_of(field: dict[str, Any]) -> str:
    if "minimum" in field and "maximum" in field:
        return f", {_number(field['minimum'])} to {_number(field['maximum'])}"
    limits = {
        "minimum": "at least",
        "exclusiveMinimum": "above",
        "maximum": "at most",
        "exclusiveMaximum": "below",
    }
    return "".join(
        f", {phrase} {_number(field[limit])}" for limit, phrase in limits.items() if limit in field
    )


def _number(value: float) -> str:
    return f"{value:,.15g}"


def _field_docs(model: type[BaseModel]) -> dict[str, str]:
    """The string under each field. Pydantic's own reading of them slows down every import."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    assert isinstance(definition, ast.ClassDef)
    docs = {}
    for statement, follower in zip(definition.body, definition.body[1:], strict=False):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        match follower:
            case ast.Expr(value=ast.Constant(value=str(text))):
                docs[statement.target.id] = " ".join(text.split())
    return docs


# ---- recipes and datasets ----


def _describe_recipes() -> Iterator[str]:
    yield (
        "A recipe is a name for values of the [recipe fields](job-spec.md#recipe). The table shows "
        "the fields that differ between recipes, for ResNet-20; a field in the spec overrides it."
    )
    values = {
        name: recipes.build_recipe(name, family=Family.CIFAR, depth=20).model_dump(mode="json")
        for name in recipes.RECIPES
    }
    rows = [
        [f"`{field}`", *(_code(_json(values[name][field])) for name in values)]
        for field in Recipe.model_fields
        if field != "name" and len({str(values[name][field]) for name in values}) > 1
    ]
    yield _table(["field", *(f"`{name}`" for name in values)], rows)
    for name, make in recipes.RECIPES.items():
        yield f"## {name}"
        yield _docstring(make)


def _list_datasets() -> Iterator[str]:
    yield (
        "`folder:NAME` is any other image folder: "
        "[use your own images](../how-to/use-your-own-images.md)."
    )
    rows = [
        [
            f"`{data.name}`",
            data.title,
            "" if data.size is None else f"{data.size} x {data.size}",
            f"{data.classes:,}",
            f"{data.train_images:,}",
            f"{data.test_images:,}",
            data.origin,
            f"`{data.default_recipe}`",
        ]
        for data in DATASETS.values()
    ]
    header = ["name", "images", "pixels", "classes", "training", "test", "origin", "default recipe"]
    yield _table(header, rows)
    yield (
        "Origin `bundled` needs no download. `download`: "
        "`resnetd-worker fetch NAME --data-dir PATH`. `folder`: put the images under the data "
        "directory yourself."
    )


# ---- commands ----


def _list_commands() -> Iterator[str]:
    yield "## resnetd"
    yield (
        "Install: `pip install ./client`. Commands that print a result have `--output json` (`-o "
        "json`; for `download`, `-o` is the file). Connection: "
        "[client/README.md](../../client/README.md)."
    )
    root = typer.main.get_command(cli.app)
    yield _table(["global option", "meaning"], _list_options(root))
    for path, command in _walk(root, "resnetd"):
        arguments = [
            (argument.metavar or argument.name or "").upper()
            for argument in command.params
            if isinstance(argument, TyperArgument)
        ]
        yield f"### {' '.join([path, *arguments])}"
        yield _sentence(command.help or "")
        options = _list_options(command)
        if options:
            yield _table(["option", "meaning"], options)
        if command.epilog:
            yield f"Example: `{command.epilog.removeprefix('Example: ')}`"
    yield "### Exit codes"
    yield _table(
        ["code", "name"],
        [[str(code.value), code.name.lower().replace("_", "-")] for code in ExitCode],
    )
    parsers = (
        service.__main__.make_parser(),
        workers.__main__.make_parser(),
        workers.training.__main__.make_parser(),
        workers.training.__main__.make_detect_parser(),
    )
    for parser in parsers:
        yield f"## {parser.prog}"
        yield _sentence(parser.description or "")
        yield from _describe_parser(parser)
    yield "## resnetd-api"
    yield "Serve the API until SIGTERM or SIGINT. It has [settings](settings.md) and no options."


def _walk(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(command, TyperGroup):
        for name, child in command.commands.items():
            yield from _walk(child, f"{path} {name}")
    else:
        yield path, command


def _list_options(command: Any) -> list[list[str]]:
    rows = []
    for option in command.params:
        if isinstance(option, TyperOption) and not _COMMON_OPTIONS & set(option.opts):
            value = "" if option.is_flag else f" {option.metavar or option.name.upper()}"
            rows.append([_code(", ".join(option.opts) + value), option.help or ""])
    return rows


def _describe_parser(parser: argparse.ArgumentParser) -> Iterator[str]:
    rows = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help for choice in action._choices_actions}
            for name, child in action.choices.items():
                rows.append([f"`{_usage(child)}`", helps[name] or ""])
        elif not isinstance(action, argparse._HelpAction):
            name = ", ".join(action.option_strings) or str(action.metavar or action.dest)
            choices = f"one of {_code(*map(str, action.choices))}" if action.choices else ""
            parts = [str(action.help or ""), choices, "required" if action.required else ""]
            rows.append([f"`{name}`", "; ".join(part for part in parts if part)])
    yield _table(["command or option", "meaning"], rows)


def _usage(parser: argparse.ArgumentParser) -> str:
    return " ".join(parser.format_usage().removeprefix("usage: ").replace("[-h]", "").split())


# ---- Markdown ----


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _code(*texts: Any) -> str:
    return ", ".join(f"`{text}`" for text in texts)


def _json(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _docstring(item: object) -> str:
    return inspect.getdoc(item) or ""


def _first_line(text: str) -> str:
    return text.strip().split("\n")[0]


def _sentence(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    main()
