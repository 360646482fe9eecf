"""The `resnetd` command: its entry point, global options, and the commands about the service."""

import io
import sys
import traceback
from collections.abc import Sequence
from importlib import metadata
from typing import Annotated

import httpx
import typer

from resnetd.cli import (
    alert_commands,
    analysis_commands,
    dataset_commands,
    exit_codes,
    fair_share_commands,
    help_command,
    job_commands,
    mcp_command,
    messages,
    model_commands,
    people_commands,
    quota_commands,
    render,
    result_card_commands,
    search_commands,
    share_commands,
    study_commands,
    token_commands,
    webhook_commands,
)
from resnetd.cli.exit_codes import ExitCode
from resnetd.cli.session import Output, OutputOption, Session
from resnetd.client import Client
from resnetd.errors import CannotConnect, ResnetdError
from resnetd.exports.forms import ExportForm
from resnetd.retry import Retry

_VERSION_SECONDS = 1.0

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train deep residual networks on a resnetd service.",
    epilog="Example: resnetd submit --depth 20 --shortcut A --dataset digits --watch",
)
app.add_typer(job_commands.commands)
app.add_typer(analysis_commands.commands)
app.add_typer(mcp_command.commands)
app.add_typer(help_command.commands)
app.add_typer(result_card_commands.commands)
app.add_typer(search_commands.commands, name="search")
app.add_typer(study_commands.commands, name="study")
app.add_typer(dataset_commands.commands, name="dataset")
app.add_typer(model_commands.commands, name="model")
app.add_typer(webhook_commands.commands, name="webhook")
app.add_typer(alert_commands.commands, name="alert")
app.add_typer(people_commands.commands, name="people")
app.add_typer(share_commands.commands, name="share")
app.add_typer(token_commands.commands, name="token")
app.add_typer(quota_commands.commands, name="quota")
app.add_typer(fair_share_commands.commands, name="fair-share")


def main() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Names in other scripts must not end a command where the encoding is not UTF-8.
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run(sys.argv[1:]))


def run(
    arguments: Sequence[str],
    *,
    retry: Retry | None = None,
    transport: httpx.BaseTransport | None = None,
) -> int:
    """Run the command and return its exit code. An error is a sentence on standard error."""
    session = Session(retry=retry or Retry(), transport=transport)
    try:
        typer.main.get_command(app).main(args=list(arguments), prog_name="resnetd", obj=session)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else ExitCode.OK
    except Exception as error:  # noqa: BLE001 - the user gets a sentence for every error
        if session.is_debug:
            traceback.print_exc()
        messages.print_error(error)
        return exit_codes.of_error(error)
    finally:
        session.close()
    return ExitCode.OK


def _show_versions(context: typer.Context, is_requested: bool) -> None:  # given by position
    # A shell that completes the line reads what is printed.
    if is_requested and not context.resilient_parsing:
        typer.echo(f"resnetd {metadata.version('resnetd')}")
        typer.echo(_describe_service(context.obj, context.params["url"]))
        raise typer.Exit


def _describe_service(session: Session, url: str | None) -> str:
    """Its versions, or why they are not known. It has a second to respond."""
    try:
        with Client(url, transport=session.transport, timeout_seconds=_VERSION_SECONDS) as client:
            found = client.health()
    except CannotConnect as error:
        return f"the service does not respond: {error}"
    except ResnetdError as error:
        return f"the service is not ready: {error}"
    return f"service {found.version}, API version {found.api_version}, at {client.url}"


@app.callback()
def options(
    context: typer.Context,
    *,
    url: Annotated[
        str | None,
        # Eager: it is read before --version, which needs it.
        typer.Option(
            is_eager=True,
            help="URL of the service. Default: RESNETD_URL, the config file, this machine.",
        ),
    ] = None,
    debug: Annotated[
        bool, typer.Option("--debug", envvar="RESNETD_DEBUG", help="Print tracebacks of errors.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_show_versions,
            help="Print the versions of the client and of the service.",
        ),
    ] = False,
) -> None:
    del version
    context.obj.url = url
    context.obj.is_debug = debug


@app.command(epilog="Example: resnetd whoami")
def whoami(context: typer.Context, *, output: OutputOption = Output.TEXT) -> None:
    """Show whose token this is, and what it permits."""
    session: Session = context.obj
    found = session.client.whoami()
    session.show(output, found, *render.whoami(found))


@app.command(epilog="Example: resnetd audit --user ann")
def audit(
    context: typer.Context,
    *,
    user: Annotated[str | None, typer.Option(help="Only what this person did.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of entries.")] = 50,
    output: OutputOption = Output.TEXT,
) -> None:
    """List sign-ins, changes of people and tokens, and deletions, newest first, as an admin."""
    session: Session = context.obj
    found = list(session.client.audit(user=user, limit=limit))
    session.show_list(output, found, render.audit(found), none="The log has no such entry.")


@app.command("export", epilog="Example: resnetd export 0f3k 0f3m --to parquet runs")
def export_command(
    context: typer.Context,
    run_ids: Annotated[
        list[str],
        typer.Argument(
            metavar="ID...", help="Ids of jobs, searches or studies, or prefixes of them."
        ),
    ],
    *,
    to: Annotated[
        tuple[ExportForm, str],
        typer.Option(
            metavar="FORM TARGET",
            help="html FILE: the page of a job, a study or a comparison;"
            " parquet FOLDER: jobs.parquet and metrics.parquet;"
            " tensorboard FOLDER: a run for each job;"
            " mlflow URL: a run for each job, with its weights;"
            " wandb FOLDER: an offline run of Weights & Biases for each job.",
        ),
    ],
) -> None:
    """Export jobs, and the jobs of searches and studies, for other tools."""
    session: Session = context.obj
    form, target = to
    number = session.client.export(run_ids, form, target)
    messages.print_note(f"Exported {number} job{'' if number == 1 else 's'} to {target}")


@app.command("queue", epilog="Example: resnetd queue")
def queue_command(
    context: typer.Context,
    *,
    limit: Annotated[int, typer.Option(min=1, max=500, help="Maximum number of jobs.")] = 50,
    output: OutputOption = Output.TEXT,
) -> None:
    """List waiting jobs in queue order, with the reason and the expected start."""
    session: Session = context.obj
    waiting = session.client.queue(limit=limit)
    session.show_list(output, waiting, render.queue(waiting), none="No job waits.")


@app.command(epilog="Example: resnetd cluster")
def cluster(context: typer.Context, *, output: OutputOption = Output.TEXT) -> None:
    """Show the CPUs and GPUs of the cluster."""
    session: Session = context.obj
    found = session.client.cluster()
    session.show(output, found, *render.cluster(found))


@app.command(epilog="Example: resnetd recipes")
def recipes(context: typer.Context, *, output: OutputOption = Output.TEXT) -> None:
    """List the recipes with their fields."""
    session: Session = context.obj
    found = session.client.recipes.list()
    session.show(output, found, *render.recipes(found))
