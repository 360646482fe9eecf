"""The commands `resnetd webhook ...`."""

from typing import Annotated

import typer

from resnetd import render, telling
from resnetd.session import Output, OutputOption, Session

commands = typer.Typer(
    no_args_is_help=True,
    help="Have jobs' new states told to a URL.",
    epilog="Example: resnetd webhook add https://example.org/hook --state failed",
)

WebhookId = Annotated[str, typer.Argument(metavar="ID", help="See `resnetd webhook list`.")]


@commands.command(epilog="Example: resnetd webhook add https://example.org/hook --state failed")
def add(
    context: typer.Context,
    url: Annotated[str, typer.Argument(help="It is sent a POST with JSON, signed.")],
    *,
    state: Annotated[
        list[str] | None, typer.Option(help="May be repeated; else all final ones.")
    ] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Add a webhook. Its secret goes to standard output, this once."""
    session: Session = context.obj
    made = session.client.add_webhook(url, states=state or ())
    session.show(output, made.document, made.secret or "")
    telling.say(f"Added {made.id}. Try it with: resnetd webhook ping {made.id}")


@commands.command("list", epilog="Example: resnetd webhook list")
def list_command(context: typer.Context, *, output: OutputOption = Output.TEXT) -> None:
    """List webhooks."""
    session: Session = context.obj
    found = session.client.webhooks()
    session.show(output, telling.documents(found), render.webhooks(found))


@commands.command(epilog="Example: resnetd webhook ping 0f3k000000000001")
def ping(context: typer.Context, webhook_id: WebhookId) -> None:
    """Send a webhook a delivery that tells nothing."""
    session: Session = context.obj
    session.client.ping_webhook(webhook_id)
    telling.say(f"Sent. See what came of it with: resnetd webhook deliveries {webhook_id}")


@commands.command(epilog="Example: resnetd webhook deliveries 0f3k000000000001")
def deliveries(
    context: typer.Context, webhook_id: WebhookId, *, output: OutputOption = Output.TEXT
) -> None:
    """List what a webhook was told, newest first."""
    session: Session = context.obj
    found = session.client.deliveries(webhook_id)
    session.show(output, telling.documents(found), render.deliveries(found))


@commands.command(epilog="Example: resnetd webhook delete 0f3k000000000001")
def delete(context: typer.Context, webhook_id: WebhookId) -> None:
    """Delete a webhook with the log of its deliveries."""
    session: Session = context.obj
    session.client.delete_webhook(webhook_id)
    session.show(Output.TEXT, None, f"{webhook_id} deleted")
