"""The commands that steer jobs: hold, release, pause, resume, cancel, kill, priority, clone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from resnetd import exits, render, telling, writing
from resnetd.client import Client
from resnetd.errors import ResnetdError
from resnetd.models import Job
from resnetd.session import JobId, JobIds, Output, OutputOption, Session, SettingsOption

commands = typer.Typer()


def _add(name: str, ask: Callable[[Client, str], Job], help_text: str) -> None:
    @commands.command(name, help=help_text, epilog=f"Example: resnetd {name} 0f3k")
    def steer(
        context: typer.Context, job_ids: JobIds, *, output: OutputOption = Output.TEXT
    ) -> None:
        _steer(context, job_ids, output, ask)


for _name, _ask, _help in (
    ("cancel", Client.cancel, "Cancel jobs: waiting ones at once, others at their next step."),
    ("kill", Client.kill, "End jobs now, without waiting for a checkpoint."),
    ("pause", Client.pause, "Pause jobs: they save a checkpoint and keep their place."),
    ("resume", Client.resume, "Put paused jobs back at their place in the queue."),
    ("hold", Client.hold, "Keep waiting jobs from starting."),
    ("release", Client.release, "Let jobs go that were held, by somebody or by the service."),
):
    _add(_name, _ask, _help)


@commands.command(epilog="Example: resnetd delete 0f3k")
def delete(context: typer.Context, job_ids: JobIds) -> None:
    """Delete jobs that have ended, with their metrics, logs and checkpoints."""

    def forget(client: Client, job_id: str) -> Job:
        job = client.job(job_id)
        client.delete(job_id)
        return job

    _steer(context, job_ids, Output.TEXT, forget, told=lambda job: f"{job.id} deleted")


@commands.command(epilog="Example: resnetd priority 90 0f3k")
def priority(
    context: typer.Context,
    priority: Annotated[int, typer.Argument(min=0, max=100, help="Higher goes first.")],
    job_ids: JobIds,
    *,
    output: OutputOption = Output.TEXT,
) -> None:
    """Change the priority of jobs."""
    _steer(context, job_ids, output, lambda client, at: client.change_priority(at, priority))


@commands.command(epilog="Example: resnetd clone 0f3k --set depth=32 --set seed=1")
def clone(
    context: typer.Context,
    job_id: JobId,
    *,
    settings: SettingsOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Submit a job like another, with what is set changed. Its id goes to standard output."""
    session: Session = context.obj
    with telling.usage_errors():
        changes: dict[str, Any] = {}
        for setting in settings or ():
            changes = writing.with_setting(changes, setting)
    job = session.client.clone(session.client.find_job(job_id).id, changes)
    session.show(output, job.document, job.id)


@commands.command(epilog="Example: resnetd batch jobs.json")
def batch(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A JSON array of specs.")],
    *,
    idempotency_key: Annotated[
        str | None, typer.Option(help="The same key again answers the same jobs.")
    ] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Submit all jobs of a file or, with any error, none. In `after`, #0 is the first."""
    session: Session = context.obj
    with telling.usage_errors():
        specs = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(specs, list) or not all(isinstance(spec, dict) for spec in specs):
            raise ValueError(f"{file} holds no JSON array of objects")
        jobs = session.client.submit_batch(specs, idempotency_key=idempotency_key)
    session.show(output, telling.documents(jobs), *(job.id for job in jobs))


@commands.command(
    epilog="Example: resnetd plan --set depth=56 --set shortcut=A --set dataset=cifar10"
)
def plan(
    context: typer.Context,
    *,
    settings: SettingsOption = None,
    file: Annotated[
        str | None, typer.Option(help="A spec in JSON, - for standard input; --set overrides it.")
    ] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Tell what a job would weigh, take and wait, without submitting it."""
    session: Session = context.obj
    with telling.usage_errors():
        spec = writing.read_spec(file) if file is not None else {}
        for setting in settings or ():
            spec = writing.with_setting(spec, setting)
    made = session.client.plan(spec)
    session.show(output, made.document, render.plan(made))


@commands.command("queue", epilog="Example: resnetd queue")
def queue_command(
    context: typer.Context,
    *,
    limit: Annotated[int, typer.Option(min=1, max=500, help="The first so many.")] = 50,
    output: OutputOption = Output.TEXT,
) -> None:
    """List what waits, in its order, with why and until when."""
    session: Session = context.obj
    found = session.client.queue(limit=limit)
    session.show(output, telling.documents(found), render.queue(found))


def _steer(
    context: typer.Context,
    job_ids: list[str],
    output: Output,
    ask: Callable[[Client, str], Job],
    *,
    told: Callable[[Job], str] | None = None,
) -> None:
    """Each job by itself: one that cannot be steered does not save the others."""
    session: Session = context.obj
    steered: list[Job] = []
    first_error: ResnetdError | None = None
    for job_id in job_ids:
        try:
            steered.append(ask(session.client, session.client.find_job(job_id).id))
        except ResnetdError as error:
            for line in telling.explanation(error):
                telling.say(line)
            first_error = first_error or error
    session.show(output, telling.documents(steered), *((told or _told)(job) for job in steered))
    if first_error is not None:
        raise typer.Exit(exits.of_error(first_error))


def _told(job: Job) -> str:
    if job.stop_requested is not None:
        return f"{job.id} stops at its next step boundary"
    return f"{job.id} {job.state}"
