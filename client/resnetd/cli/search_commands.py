"""The commands `resnetd search ...`."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from resnetd.cli import exit_codes, messages, render, spec_input
from resnetd.cli.exit_codes import ExitCode
from resnetd.cli.session import Output, OutputOption, Session, SettingsOption
from resnetd.errors import raise_if_held
from resnetd.models import Search
from resnetd.searches import Searches

commands = typer.Typer(
    no_args_is_help=True,
    help="Search hyper-parameters; each trial is a job.",
    epilog="Example: resnetd search submit search.json --watch",
)

SearchId = Annotated[
    str, typer.Argument(metavar="ID", help="The id of a search, or a prefix of it.")
]
_POLL_SECONDS = 1.0


@commands.command(epilog="Example: resnetd search submit search.json --set budget.trials=20")
def submit(
    context: typer.Context,
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A spec in JSON, - for standard input.")
    ],
    *,
    settings: SettingsOption = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="A repeated key returns the same search.")
    ] = None,
    is_watched: Annotated[
        bool, typer.Option("--watch", help="Wait until the search ends.")
    ] = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Submit a search and print its id."""
    session: Session = context.obj
    with spec_input.usage_errors():
        spec = spec_input.read_spec(file, settings)
        search = session.client.searches.submit(spec, idempotency_key=idempotency_key)
    session.show(output, search, search.id)
    if is_watched:
        _watch(session, search)


@commands.command(epilog="Example: resnetd search watch 0f3k")
def watch(context: typer.Context, search_id: SearchId) -> None:
    """Print each trial as it ends, until the search ends. Ctrl-C leaves the search running."""
    session: Session = context.obj
    _watch(session, session.client.searches.find(search_id))


@commands.command("list", epilog="Example: resnetd search list")
def list_command(context: typer.Context, *, output: OutputOption = Output.TEXT) -> None:
    """List the newest 50 searches, newest first."""
    session: Session = context.obj
    found = list(session.client.searches.list(limit=50))
    session.show_list(output, found, render.searches(found), none="There are no searches.")


@commands.command(epilog="Example: resnetd search show 0f3k")
def show(
    context: typer.Context, search_id: SearchId, *, output: OutputOption = Output.TEXT
) -> None:
    """Show a search: its state, its best trial, what it varies."""
    session: Session = context.obj
    search = session.client.searches.find(search_id)
    session.show(output, search, render.search(search, now=datetime.now(UTC)))


@commands.command(epilog="Example: resnetd search best 0f3k --download best.safetensors")
def best(
    context: typer.Context,
    search_id: SearchId,
    *,
    download: Annotated[
        Path | None, typer.Option(help="Save the weights of the best trial to this path.")
    ] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show the best trial so far; with several metrics, all trials of the Pareto front."""
    session: Session = context.obj
    trials = session.client.searches.find(search_id).best or ()
    session.show_list(output, trials, render.trials(trials), none="No trial has a value yet.")
    if not trials:
        raise typer.Exit(ExitCode.NOT_FINISHED)
    if download is not None:
        # The newest checkpoint: its network has the value that was measured.
        path = session.client.jobs.download(trials[0].job_id, "newest", path=download)
        messages.print_note(f"Saved {path}")


@commands.command(epilog="Example: resnetd search trials 0f3k --csv")
def trials(
    context: typer.Context,
    search_id: SearchId,
    *,
    is_csv: Annotated[bool, typer.Option("--csv", help="Print the trials as CSV.")] = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """List the trials, best first."""
    session: Session = context.obj
    search = session.client.searches.find(search_id)
    if is_csv:
        typer.echo(session.client.searches.trials_csv(search.id), nl=False)
        return
    found = session.client.searches.trials(search.id)
    session.show_list(output, found, render.trials(found), none="No trial has started.")


@commands.command(epilog="Example: resnetd search importance 0f3k")
def importance(
    context: typer.Context, search_id: SearchId, *, output: OutputOption = Output.TEXT
) -> None:
    """Show how much each field matters for each metric."""
    session: Session = context.obj
    found = session.client.searches.importance(session.client.searches.find(search_id).id)
    if output is Output.JSON or any(importance.shares for importance in found.values()):
        session.show(output, found, render.importance(found))
    else:
        messages.print_note("Fewer than four trials have a value.")


def _add_action(action: Callable[[Searches, str], Search], help_text: str) -> None:
    name = action.__name__

    @commands.command(name, help=help_text, epilog=f"Example: resnetd search {name} 0f3k")
    def command(context: typer.Context, search_id: SearchId) -> None:
        _act(context, search_id, action)


_add_action(Searches.cancel, "Cancel a search and its trials.")
_add_action(Searches.pause, "Pause a search. Its trials save checkpoints and free their workers.")
_add_action(Searches.resume, "Resume a paused search.")


@commands.command(epilog="Example: resnetd search extend 0f3k --trials 50")
def extend(
    context: typer.Context,
    search_id: SearchId,
    *,
    trials: Annotated[int, typer.Option(min=1, help="The new total.")],
) -> None:
    """Raise the number of trials of a search, also of one that has succeeded."""
    _act(context, search_id, lambda searches, found: searches.extend(found, trials=trials))


@commands.command(epilog="Example: resnetd search confirm 0f3k --seeds 6")
def confirm(
    context: typer.Context,
    search_id: SearchId,
    *,
    seeds: Annotated[int, typer.Option(min=1, max=100, help="Pairs of jobs.")] = 6,
) -> None:
    """Compare the best trial with the search's own job over new seeds; print a study's id."""
    session: Session = context.obj
    search = session.client.searches.find(search_id)
    comparison = session.client.searches.confirm(search.id, seeds=seeds)
    session.show(Output.TEXT, None, comparison.id)
    messages.print_note(f"Follow it with: resnetd study watch {comparison.id}")


@commands.command(epilog="Example: resnetd search delete 0f3k")
def delete(context: typer.Context, search_id: SearchId) -> None:
    """Delete a search that has ended, with all its trials."""
    session: Session = context.obj
    search = session.client.searches.find(search_id)
    session.client.searches.delete(search.id)
    session.show(Output.TEXT, None, f"{search.id} deleted")


def _act(context: typer.Context, search_id: str, action: Callable[[Searches, str], Search]) -> None:
    session: Session = context.obj
    searches = session.client.searches
    search = action(searches, searches.find(search_id).id)
    session.show(Output.TEXT, None, f"{search.id} {search.state}")


def _watch(session: Session, search: Search) -> None:
    """Ends the command with the exit code of the outcome."""
    printed: set[int] = set()
    try:
        while True:
            # The search is read before its trials: all that ended with it are then among them.
            search = session.client.searches.get(search.id)
            trials = session.client.searches.trials(search.id)
            for trial in trials:
                if trial.state.is_final and trial.number not in printed:
                    printed.add(trial.number)
                    messages.print_note(render.trial(trial))
            if search.is_final:
                break
            raise_if_held(search, trials)
            time.sleep(_POLL_SECONDS)
    except KeyboardInterrupt as interrupt:
        command = f"resnetd search watch {search.id}"
        messages.print_note(f"\nDetached. The search continues; watch again with: {command}")
        raise typer.Exit(ExitCode.DETACHED) from interrupt
    messages.print_note(": ".join(filter(None, (f"{search.id} {search.state}", search.message))))
    best = search.best or ()
    session.show_list(Output.TEXT, best, render.trials(best), none="No trial has a value.")
    raise typer.Exit(exit_codes.of_search(search))
