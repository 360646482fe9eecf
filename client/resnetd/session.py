"""One run of the command: its client, and where it says what to whom."""

import json
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType

from resnetd.client import Client
from resnetd.transport import Retry
from resnetd.watch import JsonScreen, LineScreen, LiveScreen, Screen

# Tables in a pipe are not cut to a terminal's width.
_PIPE_WIDTH = 1000


class Output(StrEnum):
    TEXT = "text"
    JSON = "json"


JobId = Annotated[str, typer.Argument(metavar="ID", help="A job's id, or how it begins.")]
JobIds = Annotated[
    list[str], typer.Argument(metavar="ID...", help="Ids of jobs, or how they begin.")
]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="For people or for machines.")]
SettingsOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Any field; may be repeated."),
]


@dataclass
class Session:
    """One run of the command."""

    retry: Retry
    url: str | None = None
    is_debug: bool = False

    @cached_property
    def client(self) -> Client:
        return Client(self.url, retry=self.retry)

    @cached_property
    def console(self) -> Console:
        console = Console(highlight=False)
        return console if console.is_terminal else Console(highlight=False, width=_PIPE_WIDTH)

    def show(self, output: Output, document: Any, *text: RenderableType) -> None:
        """The document for machines, or the text for people."""
        if output is Output.JSON:
            typer.echo(json.dumps(document, indent=2))
            return
        for part in text:
            if isinstance(part, str):
                typer.echo(part)  # never wrapped: a script may read it from a terminal
            else:
                self.console.print(part)

    def screen(self, output: Output) -> Screen:
        if output is Output.JSON:
            return JsonScreen(self.console)
        return LiveScreen(self.console) if self.console.is_terminal else LineScreen(self.console)

    def close(self) -> None:
        if "client" in self.__dict__:
            self.client.close()
