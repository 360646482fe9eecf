"""The commands `resnetd alert ...`."""

from typing import Annotated

import typer

from resnetd.cli import messages, render
from resnetd.cli.session import Output, OutputOption, Session
from resnetd.models import AlertChannel, AlertCondition

_EXAMPLE = "Example: resnetd alert add email ann@example.org --on failed --on silent"
_CONDITIONS = ", ".join(AlertCondition)

commands = typer.Typer(
    no_args_is_help=True,
    help="Manage alerts by webhook, e-mail, Slack and Discord.",
    epilog=_EXAMPLE,
)

AlertId = Annotated[str, typer.Argument(metavar="ID", help="See `resnetd alert list`.")]


@commands.command(epilog=_EXAMPLE)
def add(
    context: typer.Context,
    channel: Annotated[str, typer.Argument(help=f"One of {', '.join(AlertChannel)}.")],
    target: Annotated[
        str, typer.Argument(help="The webhook's URL, also of Slack or Discord; or an address.")
    ],
    *,
    on: Annotated[list[str], typer.Option("--on", help=f"Repeatable: {_CONDITIONS}.")],
    tag: Annotated[
        list[str] | None, typer.Option(help="Only jobs with one of these; repeatable.")
    ] = None,
    all_jobs: Annotated[
        bool, typer.Option("--all-jobs", help="The jobs of all people, as an admin.")
    ] = False,
    minutes: Annotated[
        int, typer.Option(min=1, help="For which a job is silent, or the queue stuck.")
    ] = 5,
    evaluations: Annotated[
        int, typer.Option(min=2, help="Without a lower error, which are a plateau.")
    ] = 10,
    output: OutputOption = Output.TEXT,
) -> None:
    """Add an alert; of a webhook, print the secret, which is not shown again."""
    session: Session = context.obj
    alert = session.client.alerts.create(
        channel,
        target,
        conditions=on,
        tags=tag or (),
        all_jobs=all_jobs,
        minutes=minutes,
        evaluations=evaluations,
    )
    session.show(output, alert, *([alert.secret] if alert.secret else []))
    messages.print_note(f"Added {alert.id}. Test it with: resnetd alert test {alert.id}")


@commands.command("list", epilog="Example: resnetd alert list")
def list_command(context: typer.Context, *, output: OutputOption = Output.TEXT) -> None:
    """List your alerts; as an admin, those of all."""
    session: Session = context.obj
    found = session.client.alerts.list()
    session.show_list(output, found, render.alerts(found), none="There are no alerts.")


@commands.command(epilog="Example: resnetd alert test 0f3k000000000001")
def test(context: typer.Context, alert_id: AlertId) -> None:
    """Send a test delivery."""
    session: Session = context.obj
    session.client.alerts.test(alert_id)
    messages.print_note(f"Sent. See its result with: resnetd alert log {alert_id}")


@commands.command(epilog="Example: resnetd alert log 0f3k000000000001")
def log(context: typer.Context, alert_id: AlertId, *, output: OutputOption = Output.TEXT) -> None:
    """List the deliveries of an alert, newest first."""
    session: Session = context.obj
    found = session.client.alerts.log(alert_id)
    session.show_list(output, found, render.deliveries(found), none="It has no deliveries.")


@commands.command(epilog="Example: resnetd alert rm 0f3k000000000001")
def rm(context: typer.Context, alert_id: AlertId) -> None:
    """Delete an alert with the log of its deliveries."""
    session: Session = context.obj
    session.client.alerts.delete(alert_id)
    session.show(Output.TEXT, None, f"{alert_id} deleted")
