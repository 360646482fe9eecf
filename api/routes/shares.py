"""Shares: read-only links to jobs, comparisons and studies, for people without an account."""

from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Self

from fastapi import APIRouter, Depends
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from api import problems
from api.dependencies import Caller, Now, ReadSession, WriteSession, authorize
from api.views import View
from service.access import audit, shares, tokens
from service.errors import NotFound
from service.specs.base import JobId
from service.states import AuditKind, Role
from service.storage.database import Session
from service.storage.tables import TokenRow

router = APIRouter(prefix="/v1/shares", tags=["shares"], dependencies=[Depends(authorize)])


class NewShare(BaseModel):
    """Either jobs, several of which are a comparison, or a study with its jobs."""

    model_config = ConfigDict(extra="forbid")

    jobs: Annotated[list[JobId], Field(max_length=100)] = []
    study: Annotated[JobId | None, Field(description="also a comparison of specs")] = None
    expires_at: Annotated[
        AwareDatetime | None, Field(description="null: in 30 days; at most a year from now")
    ] = None

    @model_validator(mode="after")
    def _check_subject(self) -> Self:
        if bool(self.jobs) == (self.study is not None):
            raise ValueError("needs either jobs or a study")
        return self


class ShareView(View):
    id: str
    user: str
    label: str
    jobs: list[str]
    study: str | None
    created_at: datetime
    expires_at: datetime | None
    last_used_at: Annotated[datetime | None, Field(description="to the minute")]

    @classmethod
    def of(cls, row: TokenRow) -> "ShareView":
        return cls(
            id=row.id,
            user=row.user,
            label=row.label,
            jobs=row.shared_job_ids,
            study=row.shared_study_id,
            created_at=row.created_at,
            expires_at=row.expires_at,
            last_used_at=row.last_used_at,
        )


class NewShareView(ShareView):
    secret: Annotated[
        str, Field(description="opens the share at `/shared#SECRET`; it is not shown again")
    ]


class ShareList(View):
    shares: list[ShareView]


@router.post("", status_code=HTTPStatus.CREATED, responses=problems.responses(NotFound))
def create_share(share: NewShare, session: WriteSession, now: Now, caller: Caller) -> NewShareView:
    """Creates a link that shows what is the caller's, without its log and weights."""
    row, secret = shares.create_share(
        session,
        caller,
        job_ids=list(dict.fromkeys(share.jobs)),
        study_id=share.study,
        expires_at=share.expires_at,
        now=now,
    )
    _record(session, AuditKind.SHARE_CREATED, row, now=now)
    return NewShareView(**ShareView.of(row).model_dump(), secret=secret)


@router.get("")
def list_shares(session: ReadSession, caller: Caller) -> ShareList:
    """The caller's links, of admins those of all, oldest first, without their secrets."""
    user = None if caller.role is Role.ADMIN else caller.user
    return ShareList(shares=[ShareView.of(row) for row in shares.list_shares(session, user)])


@router.delete(
    "/{share_id}", status_code=HTTPStatus.NO_CONTENT, responses=problems.responses(NotFound)
)
def revoke_share(share_id: str, session: WriteSession, now: Now) -> None:
    """Ends the link and the browsers that opened it."""
    row = shares.find_share(session, share_id)
    _record(session, AuditKind.SHARE_REVOKED, row, now=now)
    tokens.delete_token(session, row)


def _record(session: Session, kind: AuditKind, row: TokenRow, *, now: datetime) -> None:
    audit.record(
        session,
        kind,
        row.id,
        now=now,
        owner=row.user,
        jobs=row.shared_job_ids,
        study=row.shared_study_id,
    )
