"""The commands `resnetd search ...`."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from resnetd import exits, render, telling, writing
from resnetd.client import Client
from resnetd.exits import ExitCode
from resnetd.search_models import Search, Trial
from resnetd.session import Output, OutputOption, Session, SettingsOption

commands = typer.Typer(
    no_args_is_help=True,
    help="Search hyper-parameters: every trial is a job.",
    epilog="Example: resnetd search submit search.json --watch",
)

SearchId = Annotated[str, typer.Argument(metavar="ID", help="A search's id, or how it begins.")]
_POLL_SECONDS = 1.0


@commands.command(epilog="Example: resnetd search submit search.json --set budget.trials=20")
def submit(
    context: typer.Context,
    file: Annotated[str, typer.Argument(help="A search's spec in JSON, - for standard input.")],
    *,
    settings: SettingsOption = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="The same key again answers the same search.")
    ] = None,
    is_watched: Annotated[bool, typer.Option("--watch", help="Stay until it ends.")] = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Submit a search. Its id goes to standard output."""
    session: Session = context.obj
    with telling.usage_errors():
        spec = writing.read_spec(file)
        for setting in settings or ():
            spec = writing.with_setting(spec, setting)
        search = session.client.submit_search(spec, idempotency_key=idempotency_key)
    session.show(output, search.document, search.id)
    if is_watched:
        _watch(session, search)


@commands.command(epilog="Example: resnetd search watch 0f3k")
def watch(context: typer.Context, search_id: SearchId) -> None:
    """Tell each trial's end until the search ends. Ctrl-C ends the watching only."""
    session: Session = context.obj
    _watch(session, session.client.find_search(search_id))


@commands.command(epilog="Example: resnetd search best 0f3k --download best.safetensors")
def best(
    context: typer.Context,
    search_id: SearchId,
    *,
    download: Annotated[
        Path | None, typer.Option(help="Save the best trial's weights there.")
    ] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show the best trial so far; of several metrics all that none beats in all of them."""
    session: Session = context.obj
    search = session.client.find_search(search_id)
    found = search.best or ()
    session.show(output, telling.documents(found), _table(found))
    if download is not None and found:
        # The network as it was when its value was measured.
        telling.say(f"saved {session.client.download(found[0].job_id, 'newest', path=download)}")
    if not found:
        raise typer.Exit(ExitCode.NOT_FINISHED)


@commands.command(epilog="Example: resnetd search trials 0f3k --csv")
def trials(
    context: typer.Context,
    search_id: SearchId,
    *,
    is_csv: Annotated[bool, typer.Option("--csv", help="A line for each trial.")] = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """List the trials, the best first."""
    session: Session = context.obj
    search = session.client.find_search(search_id)
    if is_csv:
        typer.echo(session.client.trials_csv(search.id), nl=False)
        return
    found = session.client.trials(search.id)
    session.show(output, telling.documents(found), _table(found))


@commands.command("list", epilog="Example: resnetd search list")
def list_command(context: typer.Context, *, output: OutputOption = Output.TEXT) -> None:
    """List searches, newest first."""
    session: Session = context.obj
    found = session.client.searches()
    table = Table("id", "name", "state", "ended by", box=None)
    for one in found:
        table.add_row(one.id, Text(render.printable(one.name)), one.state, one.end_reason or "")
    session.show(output, telling.documents(found), table)


@commands.command(epilog="Example: resnetd search importance 0f3k")
def importance(
    context: typer.Context, search_id: SearchId, *, output: OutputOption = Output.TEXT
) -> None:
    """Show how much each field matters for each metric."""
    session: Session = context.obj
    found = session.client.importance(session.client.find_search(search_id).id)
    table = Table("metric", "field", "share", box=None)
    for metric, one in found.items():
        for field, share in one.shares.items():
            table.add_row(metric, field, f"{100 * share:.1f} %")
    session.show(output, {name: one.document for name, one in found.items()}, table)


@commands.command(epilog="Example: resnetd search cancel 0f3k")
def cancel(context: typer.Context, search_id: SearchId) -> None:
    """Cancel a search with its trials."""
    _steer(context, search_id, Client.cancel_search)


@commands.command(epilog="Example: resnetd search pause 0f3k")
def pause(context: typer.Context, search_id: SearchId) -> None:
    """Pause a search: its trials save checkpoints and free their workers."""
    _steer(context, search_id, Client.pause_search)


@commands.command(epilog="Example: resnetd search resume 0f3k")
def resume(context: typer.Context, search_id: SearchId) -> None:
    """Let a paused search go on."""
    _steer(context, search_id, Client.resume_search)


@commands.command(epilog="Example: resnetd search extend 0f3k --trials 50")
def extend(
    context: typer.Context,
    search_id: SearchId,
    *,
    trials: Annotated[int, typer.Option(min=1, help="In all.")],
) -> None:
    """Give a search more trials, also one that has succeeded."""
    _steer(context, search_id, lambda client, at: client.extend_search(at, trials=trials))


@commands.command(epilog="Example: resnetd search delete 0f3k")
def delete(context: typer.Context, search_id: SearchId) -> None:
    """Delete a search that has ended, with all its trials."""
    session: Session = context.obj
    search = session.client.find_search(search_id)
    session.client.delete_search(search.id)
    session.show(Output.TEXT, None, f"{search.id} deleted")


def _steer(context: typer.Context, search_id: str, ask: Callable[[Client, str], Search]) -> None:
    session: Session = context.obj
    search = ask(session.client, session.client.find_search(search_id).id)
    session.show(Output.TEXT, None, f"{search.id} {search.state}")


def _watch(session: Session, search: Search) -> None:
    """Ends the command with the code that tells how the search ended."""
    told: set[int] = set()
    try:
        while True:
            # Asked before the trials: what ended before it is then among them.
            search = session.client.search(search.id)
            for trial in session.client.trials(search.id):
                if trial.state.is_final and trial.number not in told:
                    told.add(trial.number)
                    telling.say(_line(trial))
            if search.is_final:
                break
            time.sleep(_POLL_SECONDS)
    except KeyboardInterrupt as interrupt:
        telling.say(
            f"\nDetached. The search goes on; come back with: resnetd search watch {search.id}"
        )
        raise typer.Exit(ExitCode.DETACHED) from interrupt
    telling.say(f"{search.id} {search.state}: {search.message or ''}")
    session.show(Output.TEXT, None, _table(search.best or ()))
    raise typer.Exit(exits.of_search(search))


def _line(trial: Trial) -> str:
    values = ", ".join(f"{metric} {value:g}" for metric, value in trial.values.items())
    params = ", ".join(f"{field}={value}" for field, value in trial.params.items())
    return f"#{trial.number} {trial.reason or trial.state}: {values or 'nothing'} ({params})"


def _table(found: "tuple[Trial, ...] | list[Trial]") -> Table:
    fields = list(found[0].params) if found else []
    metrics = list(dict.fromkeys(metric for trial in found for metric in trial.values))
    table = Table("trial", "job", "ended", *metrics, *fields, box=None)
    for trial in found:
        table.add_row(
            str(trial.number),
            trial.job_id,
            str(trial.reason or trial.state),
            *(_figure(trial.values.get(metric)) for metric in metrics),
            *(_figure(trial.params.get(field)) for field in fields),
        )
    return table


def _figure(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else render.printable(str(value))
