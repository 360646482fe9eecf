"""People, their roles and the groups that they are in."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import and_, delete, func, select
from sqlalchemy.orm import Session

from service.errors import Conflict, NotFound
from service.states import Role, TokenScope
from service.storage import changes
from service.storage.database import Lock, serialize
from service.storage.tables import (
    AlertRow,
    IdempotencyKeyRow,
    PersonRow,
    QuotaRow,
    TokenRow,
    WebhookRow,
)


@dataclass(frozen=True)
class Person:
    """`tokens`: their number; `last_used_at`: of any of them."""

    name: str
    role: Role
    group: str | None
    created_at: datetime
    tokens: int
    last_used_at: datetime | None


def add_person(
    session: Session, name: str, *, role: Role, now: datetime, group: str | None = None
) -> Person:
    """Conflict where the name is taken. Who has the name of a removed person owns what was left."""
    serialize(session.connection(), Lock.CHANGE_PEOPLE)
    if session.get(PersonRow, name) is not None:
        raise Conflict(f"there is a person {name!r} already")
    session.add(PersonRow(name=name, role=role, group=group, created_at=now))
    session.flush()
    return read_person(session, name)


def find_person(session: Session, name: str) -> PersonRow:
    row = session.get(PersonRow, name)
    if row is None:
        raise NotFound(f"no person {name!r}")
    return row


def read_person(session: Session, name: str) -> Person:
    find_person(session, name)
    (person,) = list_people(session, name)
    return person


def list_people(session: Session, name: str | None = None) -> list[Person]:
    """By name; all, or the one of this name."""
    statement = (
        select(PersonRow, func.count(TokenRow.id), func.max(TokenRow.last_used_at))
        .outerjoin(
            TokenRow,
            and_(TokenRow.user == PersonRow.name, TokenRow.scope != TokenScope.SHARED),
        )
        .group_by(PersonRow.name)
        .order_by(PersonRow.name)
    )
    if name is not None:
        statement = statement.where(PersonRow.name == name)
    return [
        Person(row.name, row.role, row.group, row.created_at, tokens, last_used_at)
        for row, tokens, last_used_at in session.execute(statement)
    ]


def set_role(session: Session, name: str, role: Role) -> None:
    """Conflict for the last admin."""
    serialize(session.connection(), Lock.CHANGE_PEOPLE)
    row = find_person(session, name)
    if role is not Role.ADMIN:
        _require_another_admin(session, row)
    row.role = role
    session.flush()


def set_group(session: Session, name: str, group: str | None) -> None:
    """Of whatever runs or waits, too. None: no group."""
    find_person(session, name).group = group
    session.flush()
    changes.notify(session, "groups")


def read_groups(session: Session) -> dict[str, str]:
    """The groups of all people who are in one, by name of the person."""
    rows = session.execute(
        select(PersonRow.name, PersonRow.group).where(PersonRow.group.is_not(None))
    )
    return {name: group for name, group in rows if group is not None}


def find_group(session: Session, name: str) -> str | None:
    """None also for a person who was removed."""
    return session.scalar(select(PersonRow.group).where(PersonRow.name == name))


def remove_person(session: Session, name: str) -> None:
    """With all that is private. Conflict for the last admin.

    Jobs, searches and studies stay as they are.
    """
    serialize(session.connection(), Lock.CHANGE_PEOPLE)
    row = find_person(session, name)
    _require_another_admin(session, row)
    for row_type in (WebhookRow, AlertRow, IdempotencyKeyRow):
        session.execute(delete(row_type).where(row_type.user == name))
    session.execute(delete(QuotaRow).where(QuotaRow.key == f"user:{name}"))
    session.execute(delete(PersonRow).where(PersonRow.name == name))


def _require_another_admin(session: Session, person: PersonRow) -> None:
    others = select(func.count()).where(PersonRow.role == Role.ADMIN, PersonRow.name != person.name)
    if person.role is Role.ADMIN and not session.scalar(others):
        raise Conflict(f"{person.name} is the only admin; make another person admin first")
