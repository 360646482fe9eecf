"""What a person is told, and what a machine is."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import typer

from resnetd import render
from resnetd.decoding import Record
from resnetd.errors import AmbiguousId, ApiError, CannotConnect, ResnetdError, ServerError


def explanation(error: Exception) -> list[str]:
    """What a person needs to know, in lines."""
    if isinstance(error, ApiError):
        lines = _refusal(error)
    elif isinstance(error, AmbiguousId):
        lines = [f"{error}:", *(f"  {job.id}  {job.name}, {job.state}" for job in error.candidates)]
    elif isinstance(error, CannotConnect):
        lines = [f"{error}; is the service there? RESNETD_URL or --url says where it is"]
    elif isinstance(error, ResnetdError):
        lines = [str(error)]
    elif isinstance(error, OSError):
        lines = [f"{error.filename}: {error.strerror}" if error.filename else str(error)]
    else:
        lines = [f"unexpected {type(error).__name__}: {error}; `resnetd --debug ...` says where"]
    return [*lines, *getattr(error, "__notes__", ())]


def documents(records: Iterable[Record]) -> list[Any]:
    return [record.document for record in records]


@contextmanager
def usage_errors() -> Iterator[None]:
    """What was written wrong is the writer's mistake: exit code 2."""
    try:
        yield
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def say(text: str) -> None:
    """To standard error: what goes to standard output is for machines too."""
    typer.echo(render.printable(text), err=True)


def _refusal(error: ApiError) -> list[str]:
    if error.errors:
        # Each wrong place is a line; that the spec is not valid says no more.
        return [str(fault) for fault in error.errors]
    if isinstance(error, ServerError) and error.request_id:
        return [f"{error.detail} (request {error.request_id})"]
    return [error.detail]
