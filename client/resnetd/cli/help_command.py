"""The command `resnetd help`."""

import textwrap
from collections.abc import Iterator
from typing import Annotated

import msgspec
import typer

from resnetd import spec_help
from resnetd.cli.session import Output, OutputOption, Session
from resnetd.spec_help import Field, Topic

commands = typer.Typer()

_MAX_WIDTH = 100
_INDENT = "    "


@commands.command("help", epilog="Example: resnetd help recipe.max_seconds")
def help_command(
    context: typer.Context,
    topic: Annotated[
        str | None,
        typer.Argument(metavar="TOPIC", help="A part of a spec, or a field. Default: list them."),
    ] = None,
    *,
    output: OutputOption = Output.TEXT,
) -> None:
    """Explain the fields of specs, without the service."""
    session: Session = context.obj
    width = min(_MAX_WIDTH, session.console.width)
    found = spec_help.read_topics() if topic is None else spec_help.find_topics(topic)
    lines = _list_topics(found, width) if topic is None else _describe_topics(found, width)
    session.show(output, msgspec.to_builtins(found), "\n".join(lines))


def _list_topics(topics: tuple[Topic, ...], width: int) -> Iterator[str]:
    for topic in topics:
        yield f"resnetd help {topic.name}"
        yield from _wrap(topic.text.partition("\n\n")[0], width)


def _describe_topics(topics: tuple[Topic, ...], width: int) -> Iterator[str]:
    for topic in topics:
        if topic.text:
            yield from (*textwrap.wrap(topic.text, width), "")
        for field in topic.fields:
            head = f"{topic.name}.{field.name}: {_describe_values(field)}"
            yield from textwrap.wrap(head, width, subsequent_indent=2 * _INDENT)
            yield from _wrap(field.text, width)


def _describe_values(field: Field) -> str:
    if field.default == "required":
        return f"{field.type}; required"
    return f"{field.type}; default: {field.default}"


def _wrap(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, initial_indent=_INDENT, subsequent_indent=_INDENT)
