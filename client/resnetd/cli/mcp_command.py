"""The command `resnetd mcp`."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from resnetd.cli.session import Session
from resnetd.errors import BadConfiguration

commands = typer.Typer()


@commands.command(epilog="Example: resnetd mcp --max-jobs 12 --max-seconds 600 --folder ~/weights")
def mcp(
    context: typer.Context,
    *,
    max_jobs: Annotated[
        int, typer.Option(min=0, help="Jobs that this server may submit until it ends.")
    ] = 10,
    max_seconds: Annotated[
        float, typer.Option(min=1, help="Largest recipe.max_seconds of a job.")
    ] = 3600.0,
    folder: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, writable=True, help="Weights are downloaded to it."
        ),
    ] = None,
) -> None:
    """Serve tools for agents over standard input and output, by the Model Context Protocol."""
    if find_spec("mcp") is None:
        raise BadConfiguration(
            "`resnetd mcp` needs the package mcp, which is not installed: "
            "pip install 'resnetd[mcp]'"
        )
    # An extra, which takes a second to import.
    from resnetd.mcp_server import Limits, make_server  # noqa: PLC0415

    session: Session = context.obj
    limits = Limits(jobs=max_jobs, seconds=max_seconds, folder=folder)
    make_server(session.client, limits).run("stdio")
