"""The commands `resnetd dataset ...`."""

from typing import Annotated

import typer

from resnetd.cli import render
from resnetd.cli.session import Output, OutputOption, Session

commands = typer.Typer(
    no_args_is_help=True,
    help="List datasets, and delete your uploads.",
    epilog="Example: resnetd dataset list",
)


@commands.command("list", epilog="Example: resnetd dataset list")
def list_command(context: typer.Context, *, output: OutputOption = Output.TEXT) -> None:
    """List the datasets."""
    session: Session = context.obj
    found = session.client.datasets.list()
    session.show_list(output, found, render.datasets(found), none="There are no datasets.")


@commands.command(epilog="Example: resnetd dataset delete folder:birds")
def delete(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="folder:NAME of the list.")],
) -> None:
    """Delete an upload of your own or, as an admin, of anybody, unless a job needs it."""
    session: Session = context.obj
    session.client.datasets.delete(name)
    session.show(Output.TEXT, None, f"{name} deleted")
