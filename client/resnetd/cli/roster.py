"""Rosters: CSV files with the people of a class, and files of the tokens that they get."""

import csv
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import typer

from resnetd.models import Role

_COLUMNS = "a header line `name` or `name,role`"


class Writer(Protocol):
    def writerow(self, row: tuple[str, ...], /) -> object: ...


def read_roster(path: Path) -> dict[str, str]:
    """Roles by name; `member` where there is no role. BadParameter names the line that is wrong."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            if "name" not in (reader.fieldnames or ()):
                raise typer.BadParameter(f"{path} must have {_COLUMNS}")
            return _read_rows(path, reader)
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"cannot read {path}: {error}") from error


def _read_rows(path: Path, reader: "csv.DictReader[str]") -> dict[str, str]:
    roles: dict[str, str] = {}
    for row in reader:
        name = (row["name"] or "").strip()
        role = (row.get("role") or Role.MEMBER).strip()
        where = f"{path}, line {reader.line_num}"
        if not name:
            raise typer.BadParameter(f"{where}: the name is missing")
        if name in roles:
            raise typer.BadParameter(f"{where}: {name!r} is there twice")
        if role not in set(Role):
            raise typer.BadParameter(f"{where}: the role must be viewer, member or admin")
        roles[name] = role
    return roles


@contextmanager
def open_token_file(path: Path) -> Iterator[Writer]:
    """A new CSV file that only its owner can read; each row is on the disk when it is written."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise typer.BadParameter(f"cannot create {path}: {error.strerror}") from error
    # Line by line: a person has been created for each.
    with os.fdopen(descriptor, "w", encoding="utf-8", newline="", buffering=1) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("name", "role", "token"))
        yield writer
