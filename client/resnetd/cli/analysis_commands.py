"""The commands about analyses of finished jobs."""

from pathlib import Path
from typing import Annotated

import typer

from resnetd.cli import exit_codes, messages, render, spec_input
from resnetd.cli.exit_codes import ExitCode
from resnetd.cli.job_commands import watch_jobs
from resnetd.cli.session import JobId, Output, OutputOption, Session, SettingsOption

commands = typer.Typer()

_FIGURES = {".svg": "svg", ".png": "png"}

FigureOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write the figure to this .svg or .png file."),
]


@commands.command(epilog="Example: resnetd analyse 0f3k layer-responses --figure responses.svg")
def analyse(
    context: typer.Context,
    job_id: JobId,
    kind: Annotated[
        str,
        typer.Argument(
            help="evaluation, ensemble, predictions, layer-responses, lesion, path-gradients, "
            "loss-landscape, interpolation, trajectory, layer-statistics or deepened-twin."
        ),
    ],
    *,
    settings: SettingsOption = None,
    checkpoint: Annotated[str, typer.Option(help="best, newest, or its id.")] = "best",
    dataset: Annotated[
        str | None,
        typer.Option(
            help="Other images: of the same classes, or for predictions of any. Default: the job's."
        ),
    ] = None,
    others: Annotated[
        list[str] | None,
        typer.Option(
            "--other",
            metavar="JOB[:CHECKPOINT]",
            help="Another network of an ensemble (repeatable), or where an interpolation ends.",
        ),
    ] = None,
    priority: Annotated[int, typer.Option(help="0 to 100; higher runs first.")] = 50,
    is_watched: Annotated[
        bool, typer.Option("--watch", help="Wait for the result and print it.")
    ] = False,
    figure: FigureOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Submit an analysis of a job's checkpoint and print its id. --figure waits for the result."""
    session: Session = context.obj
    with spec_input.usage_errors():
        parameters = spec_input.read_spec(None, settings)
        figure_format = _figure_format(figure)
    if others:
        parameters["others"] = [_read_other(session, other) for other in others]
    job = session.client.analyses.submit(
        session.client.jobs.find(job_id).id,
        kind,
        parameters,
        checkpoint=checkpoint,
        dataset=dataset,
        priority=priority,
    )
    if not is_watched and figure is None:
        session.show(output, job, job.id)
        messages.print_note(f"Submitted {job.name}. See it with: resnetd analysis {job.id}")
        return
    code = exit_codes.of_jobs(watch_jobs(session, [job], output))
    if code is not ExitCode.OK:
        raise typer.Exit(code)
    _show(session, job.id, output)
    _write_figure(session, job.id, figure, figure_format)


@commands.command(epilog="Example: resnetd analyses 0f3k")
def analyses(context: typer.Context, job_id: JobId, *, output: OutputOption = Output.TEXT) -> None:
    """List the analyses of a job's checkpoints with their results."""
    session: Session = context.obj
    found = session.client.analyses.list(session.client.jobs.find(job_id).id)
    session.show_list(output, found, render.analyses(found), none="The job has no analyses.")


@commands.command(epilog="Example: resnetd analysis 0f3k --csv > responses.csv")
def analysis(
    context: typer.Context,
    job_id: JobId,
    *,
    is_csv: Annotated[bool, typer.Option("--csv", help="Print a table as CSV.")] = False,
    table: Annotated[
        str | None, typer.Option(help="Of the CSV; numbers, or its name. Default: the first.")
    ] = None,
    figure: FigureOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show the result of an analysis, by the id of its own job."""
    session: Session = context.obj
    with spec_input.usage_errors():
        figure_format = _figure_format(figure)
    found = session.client.jobs.find(job_id).id
    if is_csv:
        typer.echo(session.client.analyses.csv(found, table=table), nl=False)
    elif figure is None:
        _show(session, found, output)
    _write_figure(session, found, figure, figure_format)


def _read_other(session: Session, text: str) -> dict[str, str]:
    """Of JOB[:CHECKPOINT]."""
    job_id, _, checkpoint = text.partition(":")
    found = session.client.jobs.find(job_id).id
    return {"job": found, "checkpoint": checkpoint or "best"}


def _show(session: Session, job_id: str, output: Output) -> None:
    result = session.client.analyses.result(job_id)
    session.show(output, result, *render.analysis(result))


def _figure_format(path: Path | None) -> str:
    """ValueError for a suffix that is none of a figure."""
    if path is None:
        return "svg"
    if path.suffix not in _FIGURES:
        raise ValueError(f"a figure must be a .svg or .png file, received {str(path)!r}")
    return _FIGURES[path.suffix]


def _write_figure(session: Session, job_id: str, path: Path | None, figure_format: str) -> None:
    if path is not None:
        session.client.analyses.figure(job_id, format=figure_format, path=path)
        messages.print_note(f"Saved {path}")
