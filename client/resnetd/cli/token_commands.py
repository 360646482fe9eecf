"""The commands `resnetd token ...`."""

from typing import Annotated

import typer

from resnetd.cli import messages, render
from resnetd.cli.people_commands import DaysOption, expire_after
from resnetd.cli.session import Output, OutputOption, Session
from resnetd.models import TokenScope

commands = typer.Typer(
    no_args_is_help=True,
    help="Manage tokens: your own or, as an admin, those of others.",
    epilog="Example: resnetd token create CI --scope submit --tag nightly --days 90",
)

TokenId = Annotated[str, typer.Argument(metavar="ID", help="See `resnetd token list`.")]
UserOption = Annotated[str | None, typer.Option(help="Whose. Default: your own.")]


@commands.command("list", epilog="Example: resnetd token list --user ann")
def list_command(
    context: typer.Context, *, user: UserOption = None, output: OutputOption = Output.TEXT
) -> None:
    """List tokens, without their secrets."""
    session: Session = context.obj
    found = session.client.tokens.list(user=user)
    session.show_list(output, found, render.tokens(found), none="There are no tokens.")


@commands.command(epilog="Example: resnetd token create CI --scope submit --tag nightly --days 90")
def create(
    context: typer.Context,
    label: Annotated[str, typer.Argument(metavar="LABEL", help="What it is for.")],
    *,
    user: UserOption = None,
    scope: Annotated[
        TokenScope, typer.Option(help="What it permits, as far as the role does.")
    ] = TokenScope.FULL,
    tag: Annotated[str | None, typer.Option(help="Limit it to jobs with this tag.")] = None,
    days: DaysOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Create a token and print it; it is not shown again."""
    session: Session = context.obj
    token = session.client.tokens.create(
        label, user=user, scope=scope, tag=tag, expires_at=expire_after(days)
    )
    session.show(output, token, token.secret or "")
    messages.print_note(f"Created {token.id}. End it with: resnetd token revoke {token.id}")


@commands.command(epilog="Example: resnetd token rotate 0f3k000000000001")
def rotate(
    context: typer.Context, token_id: TokenId, *, output: OutputOption = Output.TEXT
) -> None:
    """Replace the secret of a token and print it; the old one ends at once."""
    session: Session = context.obj
    token = session.client.tokens.rotate(token_id)
    session.show(output, token, token.secret or "")


@commands.command(epilog="Example: resnetd token revoke 0f3k000000000001")
def revoke(context: typer.Context, token_id: TokenId) -> None:
    """Delete a token; it ends at once."""
    session: Session = context.obj
    session.client.tokens.revoke(token_id)
    session.show(Output.TEXT, None, f"{token_id} revoked")
