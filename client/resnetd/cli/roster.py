"""Rosters: CSV files with the people of a class, and files of the tokens that they get."""

import csv
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import typer

from resnetd.models import Role

_COLUMNS = "a header line with `name`, and maybe `role` and `group`"


class Writer(Protocol):
    def writerow(self, row: tuple[str, ...], /) -> object: ...


@dataclass(frozen=True)
class RosterEntry:
    role: str
    group: str | None


def read_roster(path: Path) -> dict[str, RosterEntry]:
    """Entries by name; `member` where there is no role. BadParameter names the wrong line."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            if "name" not in (reader.fieldnames or ()):
                raise typer.BadParameter(f"{path} must have {_COLUMNS}")
            return _read_rows(path, reader)
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"cannot read {path}: {error}") from error


def _read_rows(path: Path, reader: "csv.DictReader[str]") -> dict[str, RosterEntry]:
    entries: dict[str, RosterEntry] = {}
    for row in reader:
        name = (row["name"] or "").strip()
        role = (row.get("role") or Role.MEMBER).strip()
        where = f"{path}, line {reader.line_num}"
        if not name:
            raise typer.BadParameter(f"{where}: the name is missing")
        if name in entries:
            raise typer.BadParameter(f"{where}: {name!r} is there twice")
        if role not in set(Role):
            raise typer.BadParameter(f"{where}: the role must be viewer, member or admin")
        entries[name] = RosterEntry(role, (row.get("group") or "").strip() or None)
    return entries


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
        writer.writerow(("name", "role", "group", "token"))
        yield writer
