"""The commands `resnetd model ...`."""

from typing import Annotated

import typer

from resnetd.cli import messages, render
from resnetd.cli.download_bar import measure, show_download
from resnetd.cli.session import (
    DownloadOutput,
    DownloadTarget,
    JobId,
    Output,
    OutputOption,
    Session,
)
from resnetd.errors import ResnetdError

_EXAMPLE = "Example: resnetd model register resnet-56/course 0f3k --alias staging"

Name = Annotated[str, typer.Argument(metavar="NAME", help="Of a model, as resnet-56/course.")]
Reference = Annotated[
    str,
    typer.Argument(
        metavar="REFERENCE", help="NAME@ALIAS, NAME@NUMBER, or NAME for the newest version."
    ),
]
AliasArgument = Annotated[
    str, typer.Argument(metavar="ALIAS", help="A word such as production or staging.")
]
NoteOption = Annotated[str, typer.Option(help="Why; the history keeps it.")]

commands = typer.Typer(
    no_args_is_help=True,
    help="Manage names for weights, with versions and aliases such as production.",
    epilog=_EXAMPLE,
)


@commands.command(epilog=_EXAMPLE)
def register(
    context: typer.Context,
    name: Name,
    job_id: JobId,
    *,
    checkpoint: Annotated[
        str, typer.Option(help="newest, best, or an id. Only the last has ONNX and other exports.")
    ] = "newest",
    note: Annotated[str, typer.Option(help="What is new, or why.")] = "",
    alias: Annotated[str | None, typer.Option(help="Also point this alias to it.")] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Make a checkpoint of a job the next version of a model and print its reference."""
    session: Session = context.obj
    models = session.client.models
    job = session.client.jobs.find(job_id)
    version = models.register(name, job.id, checkpoint=checkpoint, note=note)
    if alias is not None:
        try:
            models.promote(name, alias, version=version.version, note=note)
        except ResnetdError:
            messages.print_note(f"Registered {name}@{version.version}, without the alias:")
            raise
        version = models.resolve(f"{name}@{version.version}")
    session.show(output, version, f"{version.name}@{version.version}")


@commands.command("list", epilog="Example: resnetd model list")
def list_command(context: typer.Context, *, output: OutputOption = Output.TEXT) -> None:
    """List the models with their aliases, newest first."""
    session: Session = context.obj
    found = list(session.client.models.list())
    session.show_list(output, found, render.models(found), none="There are no models.")


@commands.command(epilog="Example: resnetd model show resnet-56/course@production")
def show(
    context: typer.Context, reference: Reference, *, output: OutputOption = Output.TEXT
) -> None:
    """Show a version with its lineage."""
    session: Session = context.obj
    version = session.client.models.resolve(reference)
    session.show(output, version, render.model_version(version))


@commands.command(epilog="Example: resnetd model versions resnet-56/course")
def versions(context: typer.Context, name: Name, *, output: OutputOption = Output.TEXT) -> None:
    """List the versions of a model, newest first."""
    session: Session = context.obj
    found = session.client.models.versions(name)
    session.show(output, found, render.model_versions(found))


@commands.command(
    epilog="Example: resnetd model promote resnet-56/course@3 production --note '6.9 %'"
)
def promote(
    context: typer.Context,
    reference: Reference,
    alias: AliasArgument,
    *,
    note: NoteOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Point an alias to a version; an earlier version is a rollback."""
    session: Session = context.obj
    version = session.client.models.resolve(reference)
    moved = session.client.models.promote(version.name, alias, version=version.version, note=note)
    session.show(output, moved, f"{version.name}@{moved.alias} is version {moved.version}")


@commands.command("remove-alias", epilog="Example: resnetd model remove-alias resnet-56/course old")
def remove_alias(context: typer.Context, name: Name, alias: AliasArgument) -> None:
    """Remove an alias; its version stays."""
    session: Session = context.obj
    session.client.models.remove_alias(name, alias)
    session.show(Output.TEXT, None, f"{name}@{alias} removed")


@commands.command(epilog="Example: resnetd model history resnet-56/course")
def history(context: typer.Context, name: Name, *, output: OutputOption = Output.TEXT) -> None:
    """Show registrations, promotions and deletions with person and note, oldest first."""
    session: Session = context.obj
    found = list(session.client.models.history(name))
    session.show(output, found, render.model_history(found))


@commands.command(
    epilog="Example: resnetd model download resnet-56/course@production --format onnx"
)
def download(
    context: typer.Context,
    reference: Reference,
    *,
    weights_format: Annotated[
        str,
        typer.Option(
            "--format",
            help="safetensors, or timm: a folder for timm, torch.hub and the Hugging Face "
            "Hub; of the last checkpoint also pt, onnx, pt2, onnx-image, pt2-image, card, "
            "predictions.",
        ),
    ] = "safetensors",
    path: DownloadTarget = None,
    output: DownloadOutput = Output.TEXT,
) -> None:
    """Download and verify the weights of a version and print their path."""
    session: Session = context.obj
    with show_download(reference) as on_progress:
        saved = session.client.models.download(
            reference, format=weights_format, path=path, on_progress=on_progress
        )
    document = {"reference": reference, "path": str(saved), "size_bytes": measure(saved)}
    session.show(output, document, str(saved))


@commands.command(epilog="Example: resnetd model delete resnet-56/course@2")
def delete(
    context: typer.Context,
    reference: Annotated[
        str, typer.Argument(metavar="REFERENCE", help="NAME@NUMBER, or NAME for all versions.")
    ],
) -> None:
    """Delete a version without an alias, or a model with all versions; their jobs stay."""
    session: Session = context.obj
    name, _, selector = reference.partition("@")
    if selector:
        version = session.client.models.resolve(reference)
        session.client.models.delete_version(name, version.version)
    else:
        session.client.models.delete(name)
    session.show(Output.TEXT, None, f"{reference} deleted")
