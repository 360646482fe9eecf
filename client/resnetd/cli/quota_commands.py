"""The commands `resnetd quota ...`."""

from typing import Annotated

import typer

from resnetd.cli import render
from resnetd.cli.session import Output, OutputOption, Session

commands = typer.Typer(
    no_args_is_help=True,
    help="Limit what people, groups and tags may have.",
    epilog="Example: resnetd quota set user:ann --jobs 4 --gpus 2",
)

Key = Annotated[
    str,
    typer.Argument(
        metavar="KEY", help="user:NAME, group:NAME or tag:TAG; user:*, ... for the rest."
    ),
]


@commands.command("list", epilog="Example: resnetd quota list")
def list_command(context: typer.Context, *, output: OutputOption = Output.TEXT) -> None:
    """List quotas."""
    session: Session = context.obj
    found = session.client.quotas.list()
    session.show_list(output, found, render.quotas(found), none="There are no quotas.")


@commands.command("set", epilog="Example: resnetd quota set 'user:*' --jobs 2 --waiting 20")
def set_command(
    context: typer.Context,
    key: Key,
    *,
    jobs: Annotated[int | None, typer.Option(min=0, help="Running jobs.")] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Workers of running jobs.")] = None,
    gpus: Annotated[float | None, typer.Option(min=0, help="GPUs of running jobs.")] = None,
    waiting: Annotated[int | None, typer.Option(min=0, help="Jobs in the queue.")] = None,
    core_hours: Annotated[float | None, typer.Option(min=0, help="In seven days.")] = None,
    gpu_hours: Annotated[float | None, typer.Option(min=0, help="In seven days.")] = None,
    storage: Annotated[
        float | None,
        typer.Option(min=0, help="Gigabytes of checkpoints and uploaded datasets."),
    ] = None,
) -> None:
    """Set all limits of a person, group or tag, as an admin; what is left out has no limit."""
    session: Session = context.obj
    quota = session.client.quotas.set(
        key,
        jobs=jobs,
        workers=workers,
        gpus=gpus,
        waiting=waiting,
        core_hours=core_hours,
        gpu_hours=gpu_hours,
        stored_bytes=None if storage is None else round(storage * 1e9),
    )
    session.show(Output.TEXT, quota, render.quotas([quota]))


@commands.command(epilog="Example: resnetd quota storage --user ann")
def storage(
    context: typer.Context,
    *,
    user: Annotated[str | None, typer.Option(help="Whose, as an admin. Default: yours.")] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show what is stored for a person, and the jobs that store most."""
    session: Session = context.obj
    found = session.client.quotas.storage(user=user)
    session.show(output, found, *render.storage(found))


@commands.command(epilog="Example: resnetd quota delete user:ann")
def delete(context: typer.Context, key: Key) -> None:
    """Remove the limits of a person, group or tag, as an admin."""
    session: Session = context.obj
    session.client.quotas.delete(key)
    session.show(Output.TEXT, None, f"{key} has no quota")
