"""Messages on standard error; standard output is for results."""

import typer

from resnetd.cli import render
from resnetd.errors import AmbiguousId, ApiError, CannotConnect, ResnetdError, ServerError


def print_note(text: str) -> None:
    typer.echo(render.printable(text), err=True)


def print_error(error: Exception, *, subject: str | None = None) -> None:
    """`subject`: the one of several that the error is about."""
    prefix = "" if subject is None else f"{subject}: "
    for line in [*_describe(error), *getattr(error, "__notes__", ())]:
        print_note(prefix + line)


def _describe(error: Exception) -> list[str]:
    """An error with a list has a line for each item."""
    if isinstance(error, ApiError) and error.errors:
        return [str(field_error) for field_error in error.errors]
    if isinstance(error, AmbiguousId):
        return [f"{error}:", *(f"  {run.id}  {run.name}, {run.state}" for run in error.candidates)]
    return [_sentence(error)]


def _sentence(error: Exception) -> str:
    match error:
        case ServerError(request_id=str(request_id)):
            return f"{error.detail} (request {request_id})"
        case CannotConnect():
            return f"{error}; set the URL of the service with RESNETD_URL or --url"
        case OSError(filename=str(filename)):
            return f"{filename}: {error.strerror}"
        case ResnetdError() | OSError():
            return str(error)
        case _:
            kind = type(error).__name__
            return f"unexpected {kind}: {error}; `resnetd --debug ...` prints the traceback"
