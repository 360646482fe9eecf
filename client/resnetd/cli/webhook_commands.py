"""The commands `resnetd webhook ...`."""

from typing import Annotated

import typer

from resnetd.cli import messages, render
from resnetd.cli.session import Output, OutputOption, Session

commands = typer.Typer(
    no_args_is_help=True,
    help="Manage webhooks for job state changes.",
    epilog="Example: resnetd webhook add https://example.org/hook --state failed",
)

WebhookId = Annotated[str, typer.Argument(metavar="ID", help="See `resnetd webhook list`.")]


@commands.command(epilog="Example: resnetd webhook add https://example.org/hook --state failed")
def add(
    context: typer.Context,
    url: Annotated[str, typer.Argument(help="Receives signed POST requests with JSON.")],
    *,
    state: Annotated[
        list[str] | None, typer.Option(help="Repeatable. Default: all final states.")
    ] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Add a webhook and print its secret, which is not shown again."""
    session: Session = context.obj
    webhook = session.client.webhooks.create(url, states=state or ())
    session.show(output, webhook, webhook.secret or "")
    messages.print_note(f"Added {webhook.id}. Test it with: resnetd webhook ping {webhook.id}")


@commands.command("list", epilog="Example: resnetd webhook list")
def list_command(context: typer.Context, *, output: OutputOption = Output.TEXT) -> None:
    """List webhooks."""
    session: Session = context.obj
    found = session.client.webhooks.list()
    session.show_list(output, found, render.webhooks(found), none="There are no webhooks.")


@commands.command(epilog="Example: resnetd webhook ping 0f3k000000000001")
def ping(context: typer.Context, webhook_id: WebhookId) -> None:
    """Send a test delivery."""
    session: Session = context.obj
    session.client.webhooks.ping(webhook_id)
    messages.print_note(f"Sent. See its result with: resnetd webhook deliveries {webhook_id}")


@commands.command(epilog="Example: resnetd webhook deliveries 0f3k000000000001")
def deliveries(
    context: typer.Context, webhook_id: WebhookId, *, output: OutputOption = Output.TEXT
) -> None:
    """List the deliveries of a webhook, newest first."""
    session: Session = context.obj
    found = session.client.webhooks.deliveries(webhook_id)
    session.show_list(output, found, render.deliveries(found), none="It has no deliveries.")


@commands.command(epilog="Example: resnetd webhook delete 0f3k000000000001")
def delete(context: typer.Context, webhook_id: WebhookId) -> None:
    """Delete a webhook with the log of its deliveries."""
    session: Session = context.obj
    session.client.webhooks.delete(webhook_id)
    session.show(Output.TEXT, None, f"{webhook_id} deleted")
