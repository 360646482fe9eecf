"""The commands `resnetd fair-share ...`."""

from typing import Annotated

import typer

from resnetd.cli import render
from resnetd.cli.session import Output, OutputOption, Session

commands = typer.Typer(
    no_args_is_help=True,
    help="Let jobs wait longer whose owner has used much.",
    epilog="Example: resnetd fair-share show",
)


@commands.command(epilog="Example: resnetd fair-share show")
def show(context: typer.Context, *, output: OutputOption = Output.TEXT) -> None:
    """Show the settings, and what people and groups have used."""
    session: Session = context.obj
    found = session.client.fair_share.get()
    session.show(output, found, *render.fair_share(found))


@commands.command("set", epilog="Example: resnetd fair-share set --weight 100")
def set_command(
    context: typer.Context,
    *,
    weight: Annotated[
        float, typer.Option(min=0, help="Points that jobs of the heaviest user lose. 0: off.")
    ],
    half_life_days: Annotated[float, typer.Option(help="Then usage counts by half.")] = 7.0,
) -> None:
    """Change the settings, as an admin."""
    session: Session = context.obj
    session.client.fair_share.set(weight=weight, half_life_days=half_life_days)
    found = session.client.fair_share.get()
    session.show(Output.TEXT, found, *render.fair_share(found))
