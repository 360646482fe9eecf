"""The commands `resnetd people ...`."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from resnetd.cli import messages, render, roster
from resnetd.cli.session import Output, OutputOption, Session
from resnetd.models import Role

commands = typer.Typer(
    no_args_is_help=True,
    help="Manage people, their roles and their groups, as an admin.",
    epilog="Example: resnetd people add ann --role member",
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="See `resnetd people list`.")]
DaysOption = Annotated[
    float | None, typer.Option(min=0, help="Days until the token expires. Default: never.")
]


def expire_after(days: float | None) -> datetime | None:
    return None if days is None else datetime.now(UTC) + timedelta(days=days)


@commands.command("list", epilog="Example: resnetd people list")
def list_command(context: typer.Context, *, output: OutputOption = Output.TEXT) -> None:
    """List people with their roles and groups."""
    session: Session = context.obj
    found = session.client.people.list()
    session.show_list(output, found, render.people(found), none="There are no people.")


@commands.command(epilog="Example: resnetd people add ann --role viewer")
def add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the new person.")],
    *,
    role: Annotated[Role, typer.Option(help="What the person may do.")] = Role.MEMBER,
    group: Annotated[str | None, typer.Option(help="A course or a team.")] = None,
    days: DaysOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Add a person and print a token, which is not shown again."""
    session: Session = context.obj
    session.client.people.add(name, role=role, group=group)
    token = session.client.tokens.create("first", user=name, expires_at=expire_after(days))
    session.show(output, token, token.secret or "")


@commands.command("import", epilog="Example: resnetd people import class.csv --tokens tokens.csv")
def import_command(
    context: typer.Context,
    path: Annotated[
        Path,
        typer.Argument(metavar="ROSTER.csv", help="CSV with a column name, maybe role and group."),
    ],
    *,
    tokens: Annotated[
        Path, typer.Option(help="New CSV file for the tokens; only its owner can read it.")
    ],
    days: DaysOption = None,
) -> None:
    """Add the people of a roster, with a token for each. Who is there already is left out."""
    session: Session = context.obj
    entries = roster.read_roster(path)
    known = {person.name: person.tokens for person in session.client.people.list()}
    added = 0
    with roster.open_token_file(tokens) as writer:
        for name, entry in entries.items():
            if known.get(name):
                messages.print_note(f"{name} is there already")
                continue
            if name not in known:
                session.client.people.add(name, role=entry.role, group=entry.group)
            token = session.client.tokens.create("first", user=name, expires_at=expire_after(days))
            writer.writerow((name, entry.role, entry.group or "", token.secret or ""))
            added += 1
    session.show(Output.TEXT, None, f"{added} added; their tokens are in {tokens}")


@commands.command("set-role", epilog="Example: resnetd people set-role ann viewer")
def set_role(
    context: typer.Context,
    name: Name,
    role: Annotated[Role, typer.Argument(help="The new role.")],
) -> None:
    """Change the role of a person, from the next request on."""
    session: Session = context.obj
    person = session.client.people.set_role(name, role)
    session.show(Output.TEXT, person, f"{person.name} is {person.role}")


@commands.command("set-group", epilog="Example: resnetd people set-group ann cs101")
def set_group(
    context: typer.Context,
    name: Name,
    group: Annotated[str | None, typer.Argument(help="A course or a team. Default: none.")] = None,
) -> None:
    """Move a person into a group, from the next claim on; without GROUP, out of any."""
    session: Session = context.obj
    person = session.client.people.set_group(name, group)
    where = f"group {person.group}" if person.group else "no group"
    session.show(Output.TEXT, person, f"{person.name} is in {where}")


@commands.command(epilog="Example: resnetd people remove ann")
def remove(
    context: typer.Context,
    name: Name,
    *,
    delete_jobs: Annotated[
        bool, typer.Option("--delete-jobs", help="Delete the jobs, searches and studies, too.")
    ] = False,
) -> None:
    """End the tokens of a person; jobs stay unless they are to be deleted."""
    session: Session = context.obj
    session.client.people.remove(name, delete_jobs=delete_jobs)
    session.show(Output.TEXT, None, f"{name} removed")
