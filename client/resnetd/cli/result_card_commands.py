"""The commands about result cards."""

from pathlib import Path
from typing import Annotated

import typer

from resnetd.cli import messages
from resnetd.cli.session import JobId, Output, OutputOption, Session
from resnetd.errors import CannotConnect, ResnetdError

commands = typer.Typer()

# Of `verify`; sysexits of other errors would not say whether the check was made.
_EXIT_DIFFERS, _EXIT_UNCHECKED = 1, 2


@commands.command("result-card", epilog="Example: resnetd result-card 0f3k -o card.json")
def result_card(
    context: typer.Context,
    job_id: JobId,
    *,
    path: Annotated[
        Path | None, typer.Option("-o", "--to", help="File. Default: standard output.")
    ] = None,
) -> None:
    """Write the signed result card of a completed job: what it was, and what it attained."""
    session: Session = context.obj
    content = session.client.jobs.result_card(session.client.jobs.find(job_id).id)
    if path is None:
        typer.echo(content, nl=False)
        return
    path.write_bytes(content)
    messages.print_note(
        f"Wrote {path}, signed with the key {session.client.signing_key().fingerprint}. "
        f"Check it with: resnetd verify {path} WEIGHTS"
    )


@commands.command("signing-key", epilog="Example: resnetd signing-key > service.pem")
def signing_key(context: typer.Context, *, output: OutputOption = Output.TEXT) -> None:
    """Print the public key that verifies the service's result cards."""
    session: Session = context.obj
    key = session.client.signing_key()
    session.show(output, key, key.public_key.rstrip())
    messages.print_note(f"SHA-256 fingerprint: {key.fingerprint}")


@commands.command(epilog="Example: resnetd verify card.json resnet.safetensors --data var/data")
def verify(
    context: typer.Context,
    card: Annotated[Path, typer.Argument(help="A result card, of `resnetd result-card`.")],
    weights: Annotated[Path, typer.Argument(help="The job's weights, of `resnetd download`.")],
    *,
    data: Annotated[
        Path | None,
        typer.Option(help="The data directory. Default: RESNETD_DATA_DIR, or var/data."),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(help="The public key, of `resnetd signing-key`. Default: the service's."),
    ] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Check a result card: its signature, the weights, and, by evaluating them, the test error.

    Exit codes: 0 if all of it is reproduced, 1 if something is not, 2 if something could not be
    checked. The test error needs the package of the workers and the images on this machine.
    """
    # Imported here: the library of the signature takes a tenth of a second.
    from resnetd import verification  # noqa: PLC0415
    from resnetd.verification import Outcome  # noqa: PLC0415

    session: Session = context.obj
    findings = []
    try:
        verification.read_card(card)
        owner, public_key = _find_key(session, key)
        for finding in verification.verify(
            card, weights, public_key=public_key, owner=owner, data_dir=data
        ):
            findings.append(finding)
            if output is Output.TEXT:
                typer.echo(f"{finding.check:<11} {finding.outcome:<11} {finding.text}")
    except (ResnetdError, OSError) as error:
        messages.print_error(error)
        raise typer.Exit(_EXIT_UNCHECKED) from error
    if output is Output.JSON:
        session.show(output, [vars(finding) for finding in findings])
    outcomes = {finding.outcome for finding in findings}
    if Outcome.DIFFERS in outcomes:
        raise typer.Exit(_EXIT_DIFFERS)
    if Outcome.UNCHECKED in outcomes:
        raise typer.Exit(_EXIT_UNCHECKED)


def _find_key(session: Session, path: Path | None) -> tuple[str, str]:
    """Whose key it is, and the key in PEM."""
    if path is not None:
        return str(path), path.read_text(encoding="utf-8", errors="replace")
    try:
        return "the service", session.client.signing_key().public_key
    except CannotConnect as error:
        error.add_note("or name a file with the service's public key: --key FILE")
        raise
