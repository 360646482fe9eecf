"""The `resnetd` command. Exit codes are in resnetd.exits, looks in resnetd.render."""

import json
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import DownloadColumn, TaskID, TransferSpeedColumn
from rich.progress import Progress as Bars

from resnetd import exits, hooks, render, search_verbs, telling, writing
from resnetd.errors import NotFinished
from resnetd.exits import ExitCode
from resnetd.models import Job
from resnetd.session import JobId, JobIds, Output, OutputOption, Session, SettingsOption
from resnetd.transport import Retry
from resnetd.verbs import commands
from resnetd.watch import watch

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train deep residual networks on a resnetd service.",
    epilog="Example: resnetd submit --depth 20 --shortcut A --dataset digits --watch",
)

app.add_typer(commands)
app.add_typer(hooks.commands, name="webhook")
app.add_typer(search_verbs.commands, name="search")


def main() -> None:
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str], *, retry: Retry | None = None) -> int:
    """The exit code. Whatever goes wrong is a sentence on standard error."""
    session = Session(retry=retry or Retry())
    try:
        typer.main.get_command(app).main(args=list(arguments), prog_name="resnetd", obj=session)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else ExitCode.OK
    except Exception as error:  # noqa: BLE001 - the last door: a person gets a sentence
        if session.is_debug:
            traceback.print_exc()
        for line in telling.explanation(error):
            telling.say(line)
        return exits.of_error(error)
    finally:
        session.close()
    return ExitCode.OK


def _show_version(is_wanted: bool) -> None:  # typer calls it so
    if is_wanted:
        typer.echo(f"resnetd {metadata.version('resnetd')}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    *,
    url: Annotated[
        str | None,
        typer.Option(help="Of the service; else RESNETD_URL, the config file, this machine."),
    ] = None,
    debug: Annotated[
        bool, typer.Option("--debug", envvar="RESNETD_DEBUG", help="Errors with tracebacks.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    del version
    context.obj.url = url
    context.obj.is_debug = debug


@app.command(
    epilog="Example: resnetd submit --depth 20 --shortcut A --dataset digits"
    " --set recipe.iterations=100 --watch"
)
def submit(
    context: typer.Context,
    *,
    depth: Annotated[int | None, typer.Option(help="Layers, as in the paper: 20, 56, 50.")] = None,
    shortcut: Annotated[str | None, typer.Option(help="A, B, C, or none: plain.")] = None,
    dataset: Annotated[str | None, typer.Option(help="See `resnetd datasets`.")] = None,
    recipe: Annotated[str | None, typer.Option(help="See `resnetd recipes`.")] = None,
    workers: Annotated[int | None, typer.Option(help="Training processes.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of all that is random.")] = None,
    priority: Annotated[int | None, typer.Option(help="0 to 100; higher runs first.")] = None,
    name: Annotated[str | None, typer.Option(help="For people.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="To find it by; may be repeated.")] = None,
    start_from: Annotated[
        str | None,
        typer.Option(
            metavar="JOB[:CHECKPOINT[:HOW]]",
            help="Begin with another job's newest, best or named checkpoint:"
            " continue its run, take its weights, or deepen its network.",
        ),
    ] = None,
    settings: SettingsOption = None,
    file: Annotated[
        str | None, typer.Option(help="A spec in JSON, - for standard input; options override it.")
    ] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="The same key again answers the same job.")
    ] = None,
    is_watched: Annotated[bool, typer.Option("--watch", help="Stay until it ends.")] = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Submit a job. Its id goes to standard output."""
    session: Session = context.obj
    with telling.usage_errors():
        spec = writing.read_spec(file) if file is not None else {}
        given = {
            "depth": depth,
            "shortcut": shortcut,
            "dataset": dataset,
            "recipe": recipe,
            "seed": seed,
            "priority": priority,
            "name": name,
            "tags": tag or None,
            "start_from": None if start_from is None else _origin(session, start_from),
        }
        spec |= {field: value for field, value in given.items() if value is not None}
        if workers is not None:
            spec = writing.with_setting(spec, f"resources.num_workers={workers}")
        for setting in settings or ():
            spec = writing.with_setting(spec, setting)
        job = session.client.submit(spec, idempotency_key=idempotency_key)
    if is_watched:
        _watch(session, [job], output)
    else:
        session.show(output, job.document, job.id)
        telling.say(f"Submitted {job.name}. Watch it with: resnetd watch {job.id}")


def _origin(session: Session, written: str) -> dict[str, str]:
    """`start_from` of a spec; the job may be named by the beginning of its id."""
    origin = writing.read_origin(written)
    return origin | {"job": session.client.find_job(origin["job"]).id}


@app.command(epilog="Example: resnetd ps --state running --state queued")
def ps(
    context: typer.Context,
    *,
    state: Annotated[list[str] | None, typer.Option(help="May be repeated.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Trained on this one.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="May be repeated.")] = None,
    name: Annotated[str | None, typer.Option(help="Part of the name.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 20,
    are_all_wanted: Annotated[bool, typer.Option("--all", help="However many.")] = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """List jobs, newest first."""
    session: Session = context.obj
    asked = session.client.jobs(
        state=state or (),
        dataset=dataset,
        tag=tag or (),
        name=name,
        limit=None if are_all_wanted else limit + 1,
    )
    jobs = list(asked)
    is_cut = not are_all_wanted and len(jobs) > limit
    jobs = jobs[:limit] if is_cut else jobs
    table = render.jobs(jobs, now=render.now(), has_bars=session.console.is_terminal)
    session.show(output, telling.documents(jobs), table)
    if is_cut:
        telling.say(f"The newest {limit}; --all lists every job.")


@app.command(epilog="Example: resnetd show 0f3k")
def show(context: typer.Context, job_id: JobId, *, output: OutputOption = Output.TEXT) -> None:
    """Show a job with its attempts and checkpoints."""
    session: Session = context.obj
    job = session.client.find_job(job_id)
    if output is Output.JSON:
        session.show(output, job.document)
        return
    attempts = session.client.attempts(job.id)
    checkpoints = session.client.checkpoints(job.id)
    session.show(
        output,
        job.document,
        *render.job(job, attempts=attempts, checkpoints=checkpoints, now=render.now()),
    )


@app.command(epilog="Example: resnetd logs 0f3k -f")
def logs(
    context: typer.Context,
    job_id: JobId,
    *,
    is_followed: Annotated[
        bool, typer.Option("--follow", "-f", help="Stay until the job ends.")
    ] = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Print a job's log."""
    session: Session = context.obj
    job = session.client.find_job(job_id)
    lines = session.client.follow_logs(job.id) if is_followed else session.client.logs(job.id)
    with _detachable([job], f"resnetd logs -f {job.id}"):
        for line in lines:
            typer.echo(
                json.dumps(line.document) if output is Output.JSON else render.log_line(line)
            )


@app.command(epilog="Example: resnetd events 0f3k")
def events(context: typer.Context, job_id: JobId, *, output: OutputOption = Output.TEXT) -> None:
    """Print what has happened to a job."""
    session: Session = context.obj
    for event in session.client.events(session.client.find_job(job_id).id):
        typer.echo(
            json.dumps(event.document)
            if output is Output.JSON
            else f"{event.number or '':>4} {render.time_of(event.at)} {render.event(event)}"
        )


@app.command("watch", epilog="Example: resnetd watch 0f3k 0f3m --timeout 600")
def watch_command(
    context: typer.Context,
    job_ids: JobIds,
    *,
    timeout: Annotated[
        float | None, typer.Option(min=0, help="Leave after so many seconds, exit code 101.")
    ] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Watch jobs until they end. Ctrl-C leaves them running. The exit code tells how they ended."""
    session: Session = context.obj
    _watch(session, _find_jobs(session, job_ids), output, timeout_seconds=timeout)


@app.command(epilog="Example: resnetd download 0f3k --which best -o resnet.safetensors")
def download(
    context: typer.Context,
    job_id: JobId,
    *,
    which: Annotated[str, typer.Option(help="best, newest, or a checkpoint's id.")] = "best",
    weights_format: Annotated[
        str, typer.Option("--format", help="safetensors, or pt for torch.load.")
    ] = "safetensors",
    path: Annotated[
        Path | None, typer.Option("-o", "--to", help="File or folder; else the working directory.")
    ] = None,
    output: Annotated[Output, typer.Option(help="For people or for machines.")] = Output.TEXT,
) -> None:
    """Download a job's weights and check them. Their path goes to standard output."""
    session: Session = context.obj
    job = session.client.find_job(job_id)
    with Bars(
        *Bars.get_default_columns(),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
    ) as bars:
        task: TaskID = bars.add_task(job.id, total=None)
        saved = session.client.download(
            job.id,
            which,
            format=weights_format,
            path=path,
            on_progress=lambda done, total: bars.update(task, completed=done, total=total),
        )
    document = {"job_id": job.id, "path": str(saved), "size_bytes": saved.stat().st_size}
    session.show(output, document, str(saved))


@app.command(epilog="Example: resnetd metrics 0f3k --csv > metrics.csv")
def metrics(
    context: typer.Context,
    job_id: JobId,
    *,
    series: Annotated[list[str] | None, typer.Option(help="Only this; may be repeated.")] = None,
    points: Annotated[int | None, typer.Option(min=1, help="At most so many of each.")] = None,
    is_csv: Annotated[
        bool, typer.Option("--csv", help="All points: series,iteration,value.")
    ] = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show a job's metrics."""
    session: Session = context.obj
    job = session.client.find_job(job_id)
    if is_csv:
        text = session.client.metrics_csv(job.id, series=series or (), points=points)
        typer.echo(text, nl=False)
        return
    found = session.client.metrics(job.id, series=series or (), points=points)
    document = {"series": {name: points.document for name, points in found.items()}}
    session.show(output, document, render.metrics(found))


@app.command(epilog="Example: resnetd datasets")
def datasets(context: typer.Context, *, output: OutputOption = Output.TEXT) -> None:
    """List the data sets known by name."""
    session: Session = context.obj
    found = session.client.datasets()
    session.show(output, telling.documents(found), render.datasets(found))


@app.command(epilog="Example: resnetd recipes")
def recipes(context: typer.Context, *, output: OutputOption = Output.TEXT) -> None:
    """List the recipes with their fields."""
    session: Session = context.obj
    found = session.client.recipes()
    session.show(output, telling.documents(found), *render.recipes(found))


@app.command(epilog="Example: resnetd cluster")
def cluster(context: typer.Context, *, output: OutputOption = Output.TEXT) -> None:
    """Show the cluster's CPUs and GPUs."""
    session: Session = context.obj
    found = session.client.cluster()
    session.show(output, found.document, *render.cluster(found))


def _watch(
    session: Session, jobs: list[Job], output: Output, *, timeout_seconds: float | None = None
) -> None:
    """Ends the command with the code that tells how they ended."""
    ids = " ".join(job.id for job in jobs)
    with _detachable(jobs, f"resnetd watch {ids}"):
        ended = watch(session.client, jobs, session.screen(output), timeout_seconds=timeout_seconds)
    raise typer.Exit(exits.of_jobs(ended))


def _find_jobs(session: Session, job_ids: Iterable[str]) -> list[Job]:
    """Each once, in the order given."""
    found = [session.client.find_job(job_id) for job_id in job_ids]
    return list({job.id: job for job in found}.values())


@contextmanager
def _detachable(jobs: Sequence[Job], way_back: str) -> Iterator[None]:
    """Ctrl-C ends the watching, never the job."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        who = "The job goes" if len(jobs) == 1 else "The jobs go"
        telling.say(f"\nDetached. {who} on; come back with: {way_back}")
        raise typer.Exit(ExitCode.DETACHED) from interrupt
    except NotFinished as error:
        telling.say(f"{error}; come back with: {way_back}")
        raise typer.Exit(ExitCode.NOT_FINISHED) from error
