"""The commands `resnetd study ...`."""

import time
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import RenderableType

from resnetd.cli import messages, render, spec_input
from resnetd.cli.exit_codes import ExitCode
from resnetd.cli.session import Output, OutputOption, Session, SettingsOption
from resnetd.models import Study

commands = typer.Typer(
    no_args_is_help=True,
    help="Run the paper's experiments, or your own, over seeds.",
    epilog="Example: resnetd study run fig6 --scale smoke --watch",
)

StudyId = Annotated[str, typer.Argument(metavar="ID", help="The id of a study, or a prefix of it.")]
_POLL_SECONDS = 1.0


class Scale(StrEnum):
    SMOKE = "smoke"
    SHORT = "short"
    PAPER = "paper"
    OWN = "own"


class ReportFormat(StrEnum):
    MD = "md"
    TEX = "tex"
    CSV = "csv"
    SVG = "svg"
    PNG = "png"


_BINARY = {ReportFormat.PNG}


@commands.command(epilog="Example: resnetd study run fig6 --scale short --seeds 3")
def run(
    context: typer.Context,
    study: Annotated[
        str,
        typer.Argument(help="A study of the service, or a file with a definition in YAML or JSON."),
    ],
    *,
    scale: Annotated[Scale, typer.Option(help="How long the trainings are.")] = Scale.SMOKE,
    seeds: Annotated[int | None, typer.Option(min=1, help="Default: the scale's.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Default: the scale's.")] = None,
    settings: SettingsOption = None,
    is_watched: Annotated[
        bool, typer.Option("--watch", help="Wait until all jobs have ended.")
    ] = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Submit a study and print its id. Jobs that have trained the same are reused."""
    session: Session = context.obj
    with spec_input.usage_errors():
        job: dict[str, Any] = spec_input.read_spec(None, settings)
        source = spec_input.read_definition(study)
    submitted = session.client.studies.submit(
        source, scale=scale, seeds=seeds, dataset=dataset, job=job
    )
    session.show(output, submitted, submitted.id)
    if is_watched:
        _watch(session, submitted)


@commands.command("list", epilog="Example: resnetd study list")
def list_command(context: typer.Context, *, output: OutputOption = Output.TEXT) -> None:
    """List the newest 50 studies, and the studies that the service can run."""
    session: Session = context.obj
    found = list(session.client.studies.list(limit=50))
    definitions = session.client.studies.definitions()
    known = "\n".join(f"{name}: {title}" for name, title in definitions.items())
    session.show_list(output, found, render.studies(found), none="There are no studies.")
    if output is Output.TEXT:
        session.show(output, None, f"\nresnetd study run NAME:\n{known}")


@commands.command(epilog="Example: resnetd study show 0f3k")
def show(context: typer.Context, study_id: StudyId, *, output: OutputOption = Output.TEXT) -> None:
    """Show the results of a study so far."""
    session: Session = context.obj
    study = session.client.studies.find(study_id)
    session.show(output, study, *_describe(study))


@commands.command(epilog="Example: resnetd study watch 0f3k")
def watch(context: typer.Context, study_id: StudyId) -> None:
    """Wait until all jobs of a study have ended. Ctrl-C leaves them running."""
    session: Session = context.obj
    _watch(session, session.client.studies.find(study_id))


@commands.command(epilog="Example: resnetd study report 0f3k --format svg -f fig6.svg")
def report(
    context: typer.Context,
    study_id: StudyId,
    *,
    report_format: Annotated[
        ReportFormat, typer.Option("--format", help="A table, or the curves as a figure.")
    ] = ReportFormat.MD,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="Write to this file. Default: print.")
    ] = None,
) -> None:
    """Print the results of a study, or write them to a file."""
    session: Session = context.obj
    if file is None and report_format in _BINARY:
        raise typer.BadParameter(f"{report_format} needs --file")
    study = session.client.studies.find(study_id)
    content = session.client.studies.report(study.id, format=report_format, path=file)
    if file is None:
        typer.echo(content.decode(), nl=False)
    else:
        messages.print_note(f"Saved {file}")


@commands.command(epilog="Example: resnetd study delete 0f3k")
def delete(context: typer.Context, study_id: StudyId) -> None:
    """Delete a study. Its jobs stay."""
    session: Session = context.obj
    study = session.client.studies.find(study_id)
    session.client.studies.delete(study.id)
    session.show(Output.TEXT, None, f"{study.id} deleted")


def _watch(session: Session, study: Study) -> None:
    """Ends the command: exit code 0 if all jobs have succeeded."""
    printed = 0
    try:
        while True:
            study = session.client.studies.get(study.id)
            if study.finished != printed:
                printed = study.finished or 0
                messages.print_note(f"{study.id} is {study.state}")
            if study.is_final:
                break
            time.sleep(_POLL_SECONDS)
    except KeyboardInterrupt as interrupt:
        command = f"resnetd study watch {study.id}"
        messages.print_note(f"\nDetached. The study continues; watch again with: {command}")
        raise typer.Exit(ExitCode.DETACHED) from interrupt
    session.show(Output.TEXT, None, *_describe(study))
    if study.has_failed:
        raise typer.Exit(ExitCode.FAILED)


def _describe(study: Study) -> Iterator[RenderableType]:
    yield study.origin
    yield render.study(study)
    if any(analysis.numbers for member in study.members for analysis in member.analyses):
        yield render.study_analyses(study)
    yield "\n".join(difference.text for difference in study.differences)
