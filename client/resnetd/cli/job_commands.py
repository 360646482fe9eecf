"""The commands about jobs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from resnetd.cli import exit_codes, messages, render, spec_input
from resnetd.cli.download_bar import measure, show_download
from resnetd.cli.exit_codes import ExitCode
from resnetd.cli.session import (
    DownloadOutput,
    DownloadTarget,
    JobId,
    JobIds,
    Output,
    OutputOption,
    Session,
    SettingsOption,
)
from resnetd.cli.spec_options import with_spec_options
from resnetd.cli.watch import JsonScreen, screen_for, watch
from resnetd.errors import NotFinished, ResnetdError
from resnetd.jobs import Jobs
from resnetd.models import ImagePrediction, Job

commands = typer.Typer()


@commands.command(
    epilog="Example: resnetd submit --depth 20 --shortcut A --dataset digits"
    " --set recipe.iterations=100 --watch"
)
@with_spec_options
def submit(
    context: typer.Context,
    spec: dict[str, Any],
    *,
    idempotency_key: Annotated[
        str | None, typer.Option(help="A repeated key returns the same job.")
    ] = None,
    is_watched: Annotated[bool, typer.Option("--watch", help="Wait until the job ends.")] = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Submit a job and print its id."""
    session: Session = context.obj
    with spec_input.usage_errors():
        job = session.client.submit(spec, idempotency_key=idempotency_key)
    if is_watched:
        _watch(session, [job], output)
    else:
        session.show(output, job, job.id)
        messages.print_note(f"Submitted {job.name}. Watch it with: resnetd watch {job.id}")


@commands.command(epilog="Example: resnetd clone 0f3k --set depth=32 --set seed=1")
def clone(
    context: typer.Context,
    job_id: JobId,
    *,
    settings: SettingsOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Submit a copy of a job with changed fields and print its id."""
    session: Session = context.obj
    with spec_input.usage_errors():
        changes = spec_input.read_spec(None, settings)
    job = session.client.jobs.clone(session.client.jobs.find(job_id).id, changes)
    session.show(output, job, job.id)


@commands.command(epilog="Example: resnetd batch jobs.json")
def batch(
    context: typer.Context,
    file: Annotated[
        str,
        typer.Argument(metavar="FILE", help="A JSON array of specs, - for standard input."),
    ],
    *,
    idempotency_key: Annotated[
        str | None, typer.Option(help="A repeated key returns the same jobs.")
    ] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Submit all jobs of a file or, with any error, none. In `after`, #0 is the first."""
    session: Session = context.obj
    with spec_input.usage_errors():
        specs = spec_input.read_json(file)
        if not isinstance(specs, list) or not all(isinstance(spec, dict) for spec in specs):
            raise ValueError(f"{file} must have a JSON array of objects")
        jobs = session.client.jobs.submit_batch(specs, idempotency_key=idempotency_key)
    session.show(output, jobs, *(job.id for job in jobs))


@commands.command(epilog="Example: resnetd plan --depth 56 --shortcut A --dataset cifar10")
@with_spec_options
def plan(
    context: typer.Context,
    spec: dict[str, Any],
    *,
    output: OutputOption = Output.TEXT,
) -> None:
    """Estimate a job's size, run time and queue wait."""
    session: Session = context.obj
    estimate = session.client.jobs.plan(spec)
    session.show(output, estimate, render.plan(estimate))


@commands.command(epilog="Example: resnetd ps --state running --state queued")
def ps(
    context: typer.Context,
    *,
    state: Annotated[list[str] | None, typer.Option(help="In any of these; repeatable.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Trained on this dataset.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="With all of these; repeatable.")] = None,
    name: Annotated[str | None, typer.Option(help="Part of the name.")] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(help="training, or a kind of analysis; repeatable. Default: all."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of jobs.")] = 20,
    is_unlimited: Annotated[bool, typer.Option("--all", help="List all jobs.")] = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """List jobs, newest first."""
    session: Session = context.obj
    cut = None if is_unlimited else limit
    found = list(
        session.client.jobs.list(
            state=state or (),
            kind=kind or (),
            dataset=dataset,
            tag=tag or (),
            name=name,
            limit=cut and cut + 1,
        )
    )
    jobs = found[:cut]
    table = render.jobs(jobs, now=datetime.now(UTC), has_bars=session.console.is_terminal)
    session.show_list(output, jobs, table, none="No jobs match.")
    if len(jobs) < len(found):
        messages.print_note(f"Only the newest {limit} are listed; --all lists every job.")


@commands.command(epilog="Example: resnetd show 0f3k")
def show(
    context: typer.Context,
    job_id: JobId,
    *,
    is_full: Annotated[
        bool, typer.Option("--full", help="Print complete messages, such as tracebacks.")
    ] = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show a job with its attempts and checkpoints."""
    session: Session = context.obj
    job = session.client.jobs.find(job_id)
    if output is Output.JSON:
        session.show(output, job)
        return
    attempts = session.client.jobs.attempts(job.id)
    checkpoints = session.client.jobs.checkpoints(job.id)
    parts = render.job(
        job,
        attempts=attempts,
        checkpoints=checkpoints,
        envelope=session.client.jobs.envelope(job.id),
        now=datetime.now(UTC),
        is_full=is_full,
    )
    session.show(output, job, *parts)


@commands.command("watch", epilog="Example: resnetd watch 0f3k 0f3m --timeout 600")
def watch_command(
    context: typer.Context,
    job_ids: JobIds,
    *,
    timeout: Annotated[
        float | None, typer.Option(min=0, help="Leave after these seconds with exit code 101.")
    ] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Watch jobs until they end; the exit code is their outcome. Ctrl-C leaves them running."""
    session: Session = context.obj
    found = [session.client.jobs.find(job_id) for job_id in job_ids]
    jobs = list({job.id: job for job in found}.values())
    _watch(session, jobs, output, timeout_seconds=timeout)


@commands.command(epilog="Example: resnetd logs 0f3k -f")
def logs(
    context: typer.Context,
    job_id: JobId,
    *,
    is_followed: Annotated[
        bool, typer.Option("--follow", "-f", help="Continue until the job ends.")
    ] = False,
    tail: Annotated[
        int | None, typer.Option(min=0, max=1000, help="Begin with the newest lines only.")
    ] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Print the log of a job."""
    session: Session = context.obj
    job = session.client.jobs.find(job_id)
    is_empty = True
    with _detachable([job], f"resnetd logs -f {job.id}"):
        for line in session.client.jobs.logs(job.id, tail=tail, follow=is_followed):
            is_empty = False
            session.show_line(output, line, render.log_line(line))
    if is_empty:
        messages.print_note(f"{job.id} has no log lines; it is {job.state}.")


@commands.command(epilog="Example: resnetd events 0f3k")
def events(context: typer.Context, job_id: JobId, *, output: OutputOption = Output.TEXT) -> None:
    """Print the events of a job."""
    session: Session = context.obj
    for event in session.client.jobs.events(session.client.jobs.find(job_id).id):
        text = f"{event.number or '':>4} {render.time(event.at)} {render.event(event)}"
        session.show_line(output, event, text)


@commands.command(epilog="Example: resnetd metrics 0f3k --csv > metrics.csv")
def metrics(
    context: typer.Context,
    job_id: JobId,
    *,
    series: Annotated[list[str] | None, typer.Option(help="Only this series; repeatable.")] = None,
    is_csv: Annotated[bool, typer.Option("--csv", help="Print all points as CSV.")] = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show the metrics of a job."""
    session: Session = context.obj
    job = session.client.jobs.find(job_id)
    if is_csv:
        text = session.client.jobs.metrics_csv(job.id, series=series or ())
        typer.echo(text, nl=False)
        return
    found = session.client.jobs.metrics(job.id, series=series or ())
    if output is Output.JSON or found:
        session.show(output, {"series": found}, render.metrics(found))
    else:
        messages.print_note(f"{job.id} has no metrics; it is {job.state}.")


@commands.command(epilog="Example: resnetd download 0f3k --which best -o resnet.safetensors")
def download(
    context: typer.Context,
    job_id: JobId,
    *,
    which: Annotated[
        str | None,
        typer.Option(
            help="best, newest, or the id of a checkpoint. Default: best; newest for formats that "
            "only the last checkpoint has."
        ),
    ] = None,
    weights_format: Annotated[
        str,
        typer.Option(
            "--format",
            help="safetensors, or timm: a folder for timm, torch.hub and the Hugging Face "
            "Hub; of a finished job also pt, onnx, pt2, onnx-image, pt2-image, card, predictions.",
        ),
    ] = "safetensors",
    path: DownloadTarget = None,
    output: DownloadOutput = Output.TEXT,
) -> None:
    """Download and verify the weights of a job and print their path."""
    session: Session = context.obj
    job = session.client.jobs.find(job_id)
    with show_download(job.id) as on_progress:
        saved = session.client.jobs.download(
            job.id, which, format=weights_format, path=path, on_progress=on_progress
        )
    document = {"job_id": job.id, "path": str(saved), "size_bytes": measure(saved)}
    session.show(output, document, str(saved))


@commands.command(epilog="Example: resnetd predict 0f3k picture.jpg")
def predict(
    context: typer.Context,
    job_id: JobId,
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGE...",
            help="Image files, such as JPEG or PNG.",
            exists=True,
            dir_okay=False,
            readable=True,
        ),
    ],
    *,
    output: OutputOption = Output.TEXT,
) -> None:
    """Predict what images show, by the exported network of a finished job."""
    session: Session = context.obj
    job = session.client.jobs.find(job_id)
    found: list[tuple[Path, ImagePrediction]] = []
    first_error: ResnetdError | None = None
    for image in images:
        try:
            found.append((image, session.client.jobs.predict(job.id, image)))
        except ResnetdError as error:
            messages.print_error(error, subject=str(image))
            first_error = first_error or error
    documents = [{"image": str(image), **prediction.document} for image, prediction in found]
    session.show(output, documents, *([render.predictions(found)] if found else []))
    if first_error is not None:
        raise typer.Exit(exit_codes.of_error(first_error))


def _add_action(action: Callable[[Jobs, str], Job], help_text: str) -> None:
    name = action.__name__

    @commands.command(name, help=help_text, epilog=f"Example: resnetd {name} 0f3k")
    def command(
        context: typer.Context, job_ids: JobIds, *, output: OutputOption = Output.TEXT
    ) -> None:
        _act(context, job_ids, output, action)


_add_action(Jobs.cancel, "Cancel jobs. Running jobs save a checkpoint and stop at their next step.")
_add_action(Jobs.kill, "End jobs now, without a checkpoint.")
_add_action(Jobs.pause, "Pause jobs. Running jobs save a checkpoint and free their workers.")
_add_action(Jobs.resume, "Return paused jobs to their place in the queue.")
_add_action(Jobs.hold, "Keep waiting jobs from starting.")
_add_action(Jobs.release, "Release held jobs.")


@commands.command(epilog="Example: resnetd priority 90 0f3k")
def priority(
    context: typer.Context,
    priority: Annotated[int, typer.Argument(min=0, max=100, help="Higher runs first.")],
    job_ids: JobIds,
    *,
    output: OutputOption = Output.TEXT,
) -> None:
    """Change the priority of jobs."""
    _act(context, job_ids, output, lambda jobs, job_id: jobs.update(job_id, priority=priority))


@commands.command(epilog="Example: resnetd delete 0f3k")
def delete(context: typer.Context, job_ids: JobIds) -> None:
    """Delete jobs that have ended, with their metrics, logs and checkpoints."""

    def action(jobs: Jobs, job_id: str) -> Job:
        job = jobs.get(job_id)
        jobs.delete(job_id)
        return job

    _act(context, job_ids, Output.TEXT, action, describe=lambda job: f"{job.id} deleted")


def _describe(job: Job) -> str:
    if job.stop_requested is not None:
        return f"{job.id} stops at its next step"
    return f"{job.id} {job.state}"


def _act(
    context: typer.Context,
    job_ids: list[str],
    output: Output,
    action: Callable[[Jobs, str], Job],
    *,
    describe: Callable[[Job], str] = _describe,
) -> None:
    """An error of one job does not keep the action from the others."""
    session: Session = context.obj
    jobs: list[Job] = []
    first_error: ResnetdError | None = None
    for job_id in job_ids:
        try:
            jobs.append(action(session.client.jobs, session.client.jobs.find(job_id).id))
        except ResnetdError as error:
            messages.print_error(error)
            first_error = first_error or error
    session.show(output, jobs, *(describe(job) for job in jobs))
    if first_error is not None:
        raise typer.Exit(exit_codes.of_error(first_error))


def _watch(
    session: Session, jobs: list[Job], output: Output, *, timeout_seconds: float | None = None
) -> None:
    """Ends the command with the exit code of the outcome."""
    ended = watch_jobs(session, jobs, output, timeout_seconds=timeout_seconds)
    raise typer.Exit(exit_codes.of_jobs(ended))


def watch_jobs(
    session: Session, jobs: list[Job], output: Output, *, timeout_seconds: float | None = None
) -> list[Job]:
    """The jobs when they have ended."""
    ids = " ".join(job.id for job in jobs)
    console = session.console
    screen = JsonScreen(console) if output is Output.JSON else screen_for(console)
    with _detachable(jobs, f"resnetd watch {ids}"):
        return watch(session.client.jobs, jobs, screen, timeout_seconds=timeout_seconds)


@contextmanager
def _detachable(jobs: Sequence[Job], command: str) -> Iterator[None]:
    """Ctrl-C and the timeout end the command, never the jobs."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        subject = "The job continues" if len(jobs) == 1 else "The jobs continue"
        messages.print_note(f"\nDetached. {subject}; watch again with: {command}")
        raise typer.Exit(ExitCode.DETACHED) from interrupt
    except NotFinished as error:
        messages.print_note(f"{error}; watch again with: {command}")
        raise typer.Exit(ExitCode.NOT_FINISHED) from error
