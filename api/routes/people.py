"""People, their roles and their groups, for admins."""

from datetime import datetime
from enum import StrEnum
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Depends, Query
from pydantic import BaseModel, ConfigDict, Field

from api import problems
from api.dependencies import Now, ReadSession, ServicesDep, WriteSession, authorize
from api.views import View
from service.access import audit, people
from service.errors import Conflict, NotFound
from service.jobs import checkpoints, queue_order, retention
from service.jobs import records as job_records
from service.searches import commands as search_commands
from service.searches import records as search_records
from service.specs.base import MAX_NAME_LENGTH, Line, Name
from service.states import AuditKind, Role
from service.storage.database import Session
from service.studies import records as study_records

router = APIRouter(prefix="/v1/people", tags=["people"], dependencies=[Depends(authorize)])


class NewPerson(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Name
    role: Role = Role.MEMBER
    group: Annotated[Name | None, Field(description="a course or a team")] = None


GroupUpdate = Annotated[Line, Field(max_length=MAX_NAME_LENGTH)]


class PersonUpdate(BaseModel):
    """A field that is null or absent stays as it is."""

    model_config = ConfigDict(extra="forbid")

    role: Role | None = None
    group: Annotated[GroupUpdate | None, Field(description="empty: no group")] = None


class PersonView(View):
    """`tokens`: their number; `last_used_at`: of any of them, to the minute."""

    name: str
    role: Role
    group: str | None
    created_at: datetime
    tokens: int
    last_used_at: datetime | None


class PersonList(View):
    people: list[PersonView]


class OwnedJobs(StrEnum):
    """What becomes of the jobs, searches and studies of a removed person."""

    KEEP = "keep"
    DELETE = "delete"


@router.get("")
def list_people(session: ReadSession) -> PersonList:
    """All people, by name."""
    found = people.list_people(session)
    return PersonList(people=[PersonView.model_validate(person) for person in found])


@router.post("", status_code=HTTPStatus.CREATED, responses=problems.responses(Conflict))
def add_person(person: NewPerson, session: WriteSession, now: Now) -> PersonView:
    """Adds a person, who needs a token: `POST /v1/tokens?user=NAME`."""
    added = people.add_person(session, person.name, role=person.role, group=person.group, now=now)
    audit.record(
        session, AuditKind.PERSON_ADDED, added.name, now=now, role=added.role, group=added.group
    )
    return PersonView.model_validate(added)


@router.patch("/{name}", responses=problems.responses(NotFound, Conflict))
def update_person(name: Name, update: PersonUpdate, session: WriteSession, now: Now) -> PersonView:
    """Changes role and group, from the next request and the next claim on."""
    if update.role is not None:
        people.set_role(session, name, update.role)
        audit.record(session, AuditKind.ROLE_CHANGED, name, now=now, role=update.role)
    if update.group is not None:
        group = update.group or None
        people.set_group(session, name, group)
        audit.record(session, AuditKind.GROUP_CHANGED, name, now=now, group=group)
    return PersonView.model_validate(people.read_person(session, name))


@router.delete(
    "/{name}", status_code=HTTPStatus.NO_CONTENT, responses=problems.responses(NotFound, Conflict)
)
def remove_person(
    name: Name,
    session: WriteSession,
    services: ServicesDep,
    background: BackgroundTasks,
    now: Now,
    jobs: Annotated[
        OwnedJobs, Query(description="`delete` needs all of them to have ended")
    ] = OwnedJobs.KEEP,
) -> None:
    """Ends the person's tokens and sign-ins, and deletes the webhooks."""
    people.remove_person(session, name)
    audit.record(session, AuditKind.PERSON_REMOVED, name, now=now, jobs=jobs)
    if jobs is OwnedJobs.DELETE:
        attempt_ids = _delete_owned(session, name)
        # Background tasks run after the commit.
        background.add_task(checkpoints.delete_artifacts, services.artifacts, attempt_ids)


def _delete_owned(session: Session, user: str) -> list[str]:
    """The ids of the attempts whose artifacts to delete. Conflict while something needs them."""
    for study_id in study_records.list_ids_of(session, user):
        study_records.delete_study(session, study_id)
    attempt_ids: list[str] = []
    for search_id in search_records.list_ids_of(session, user):
        attempt_ids += search_commands.delete(session, search_id)
    # The newest first: they may need the others.
    for job_id in reversed(job_records.list_ids_of(session, user)):
        attempt_ids += retention.delete_job(session, job_id)
    queue_order.delete_points(session, user)
    return attempt_ids
