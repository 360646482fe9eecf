"""One run of the command: its client, its console, its output."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console, RenderableType

from resnetd.cli import messages
from resnetd.client import Client
from resnetd.records import Record
from resnetd.retry import Retry

# Tables in a pipe are not cut to the width of a terminal.
_PIPE_WIDTH = 1000


class Output(StrEnum):
    TEXT = "text"
    JSON = "json"


JobId = Annotated[str, typer.Argument(metavar="ID", help="The id of a job, or a prefix of it.")]
JobIds = Annotated[
    list[str], typer.Argument(metavar="ID...", help="Ids of jobs, or prefixes of them.")
]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="Text or JSON.")]
# Of downloads, whose -o is the file.
DownloadTarget = Annotated[
    Path | None,
    typer.Option("-o", "--to", help="File or folder. Default: the working directory."),
]
DownloadOutput = Annotated[Output, typer.Option(help="Text or JSON.")]
SettingsOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Set a field of the spec; repeatable."),
]


@dataclass
class Session:
    """One run of the command."""

    retry: Retry
    transport: httpx.BaseTransport | None = None
    url: str | None = None
    is_debug: bool = False

    @cached_property
    def client(self) -> Client:
        return Client(self.url, retry=self.retry, transport=self.transport)

    @cached_property
    def console(self) -> Console:
        console = Console(highlight=False)
        return console if console.is_terminal else Console(highlight=False, width=_PIPE_WIDTH)

    def show(self, output: Output, data: Any, *text: RenderableType) -> None:
        """Print the data as JSON, or the text. Records are printed as the service sent them."""
        if output is Output.JSON:
            typer.echo(json.dumps(data, indent=2, default=attrgetter("document")))
            return
        for part in text:
            if isinstance(part, str):
                typer.echo(part)  # not wrapped: a script may read it from a terminal
            else:
                self._print(part)

    def show_list(
        self, output: Output, rows: Sequence[Record], table: RenderableType, *, none: str
    ) -> None:
        """As `show`; `none` is a note that replaces a table without rows."""
        if output is Output.JSON or rows:
            self.show(output, rows, table)
        else:
            messages.print_note(none)

    def _print(self, part: RenderableType) -> None:
        if self.console.is_terminal:
            self.console.print(part)
            return
        with self.console.capture() as captured:
            self.console.print(part)
        # Rich pads each line of a table to the longest.
        for line in captured.get().splitlines():
            typer.echo(line.rstrip())

    def show_line(self, output: Output, record: Record, text: str) -> None:
        """Print the record as a line of JSON, or the text."""
        typer.echo(json.dumps(record.document) if output is Output.JSON else text)

    def close(self) -> None:
        if "client" in self.__dict__:
            self.client.close()
