"""The commands `resnetd share ...`."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from resnetd.cli import messages, render
from resnetd.cli.session import Output, OutputOption, Session

_EXAMPLE = "Example: resnetd share create --study 0f3k000000000001 --days 14"

commands = typer.Typer(
    no_args_is_help=True,
    help="Manage read-only links to jobs and studies, for people without an account.",
    epilog=_EXAMPLE,
)


@commands.command(epilog=_EXAMPLE)
def create(
    context: typer.Context,
    job: Annotated[
        list[str] | None, typer.Argument(metavar="[JOB]...", help="Several are a comparison.")
    ] = None,
    *,
    study: Annotated[str | None, typer.Option(help="Share a study with its jobs.")] = None,
    days: Annotated[int, typer.Option(min=1, max=366, help="Until the link expires.")] = 30,
    output: OutputOption = Output.TEXT,
) -> None:
    """Create a link and print it; it is not shown again."""
    session: Session = context.obj
    share = session.client.shares.create(
        jobs=[session.client.jobs.find(name).id for name in job or ()],
        study=study,
        expires_at=datetime.now(UTC) + timedelta(days=days),
    )
    session.show(output, share, f"{session.client.url}/shared#{share.secret}")
    messages.print_note(f"Created {share.id}. End it with: resnetd share revoke {share.id}")


@commands.command("list", epilog="Example: resnetd share list")
def list_command(context: typer.Context, *, output: OutputOption = Output.TEXT) -> None:
    """List your links; as an admin, those of all."""
    session: Session = context.obj
    found = session.client.shares.list()
    session.show_list(output, found, render.shares(found), none="There are no links.")


@commands.command(epilog="Example: resnetd share revoke 0f3k000000000001")
def revoke(
    context: typer.Context,
    share_id: Annotated[str, typer.Argument(metavar="ID", help="See `resnetd share list`.")],
) -> None:
    """End a link, and the browsers that opened it."""
    session: Session = context.obj
    session.client.shares.revoke(share_id)
    session.show(Output.TEXT, None, f"{share_id} revoked")
