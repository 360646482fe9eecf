"""The options from which commands read the spec of a job, declared once."""

import functools
import inspect
import json
from collections.abc import Callable
from typing import Annotated, Any

import typer

from resnetd.cli import spec_input
from resnetd.cli.session import Session, SettingsOption


def read_spec(
    context: typer.Context,
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE", help="A spec in JSON, - for standard input; options override it."
        ),
    ] = None,
    *,
    depth: Annotated[int | None, typer.Option(help="Layers, as in the paper: 20, 56, 50.")] = None,
    shortcut: Annotated[
        str | None, typer.Option(help="A, B, C, or none for a plain network.")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="See `resnetd dataset list`.")] = None,
    recipe: Annotated[str | None, typer.Option(help="See `resnetd recipes`.")] = None,
    workers: Annotated[
        str | None,
        typer.Option(
            metavar="N|MIN-MAX",
            help="Number of training processes; 1-8: as many of them as are free.",
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Random seed.")] = None,
    priority: Annotated[int | None, typer.Option(help="0 to 100; higher runs first.")] = None,
    name: Annotated[str | None, typer.Option(help="Display name.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="A tag to filter by; repeatable.")] = None,
    start_from: Annotated[
        str | None,
        typer.Option(
            metavar="JOB[:CHECKPOINT[:MODE]]",
            help="Start from a checkpoint of another job: newest, best or its id;"
            " continue its run, take its weights, or deepen its network."
            " Or from a registered model: NAME@ALIAS[:MODE].",
        ),
    ] = None,
    settings: SettingsOption = None,
) -> dict[str, Any]:
    """The spec in the file, changed by the options. ValueError where they have another form."""
    session: Session = context.obj
    fields = {
        "depth": depth,
        "shortcut": shortcut,
        "dataset": dataset,
        "recipe": recipe,
        "seed": seed,
        "priority": priority,
        "name": name,
        "tags": tag or None,
    }
    spec = spec_input.read_spec(file)
    spec |= {field: value for field, value in fields.items() if value is not None}
    if start_from is not None:
        spec["start_from"] = spec_input.parse_start_from(start_from)
        if "job" in spec["start_from"]:
            source = session.client.jobs.find(spec["start_from"]["job"])
            spec["start_from"]["job"] = source.id
    if workers is not None:
        value = json.dumps(spec_input.parse_workers(workers))
        spec = spec_input.apply_setting(spec, f"resources.num_workers={value}")
    for setting in settings or ():
        spec = spec_input.apply_setting(spec, setting)
    return spec


def with_spec_options(command: Callable[..., None]) -> Callable[..., None]:
    """The command has the options of `read_spec` in place of its parameter `spec`."""
    signature = inspect.signature(command)
    declared = dict(inspect.signature(read_spec).parameters)
    own = {name: value for name, value in signature.parameters.items() if name != "spec"}
    parameters = list((declared | own).values())

    @functools.wraps(command)
    def run(**values: Any) -> None:
        options = {name: values[name] for name in declared}
        with spec_input.usage_errors():
            spec = read_spec(**options)
        command(spec=spec, **{name: values[name] for name in own})

    # Typer reads both.
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {value.name: value.annotation for value in parameters}
    return run
