"""Tokens of people: of the caller, or for admins of anybody."""

from datetime import datetime
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from api import problems
from api.dependencies import Caller, Now, ReadSession, WriteSession, authorize
from api.views import View
from service.access import audit, tokens
from service.errors import NotFound
from service.specs.base import MAX_NAME_LENGTH, Line, Name
from service.specs.labels import Tag
from service.states import AuditKind, TokenScope
from service.storage.database import Session
from service.storage.tables import TokenRow

router = APIRouter(prefix="/v1/tokens", tags=["people"], dependencies=[Depends(authorize)])

# `api.access_rules` names it: the rule of these routes reads it.
PersonQuery = Annotated[
    Line | None,
    Query(max_length=MAX_NAME_LENGTH, description="default: the caller; for admins, anybody"),
]


def _refuse_shared(scope: TokenScope) -> TokenScope:
    if scope is TokenScope.SHARED:
        raise ValueError("must be read, submit or full; POST /v1/shares creates links")
    return scope


class NewToken(BaseModel):
    model_config = ConfigDict(extra="forbid")

    label: Annotated[Name, Field(description="what it is for", examples=["laptop"])]
    scope: Annotated[TokenScope, AfterValidator(_refuse_shared)] = TokenScope.FULL
    tag: Annotated[Tag | None, Field(description="limits it to jobs with this tag")] = None
    expires_at: AwareDatetime | None = None


class TokenView(View):
    id: str
    user: str
    label: str
    scope: TokenScope
    tag: str | None
    created_at: datetime
    expires_at: datetime | None
    last_used_at: Annotated[datetime | None, Field(description="to the minute")]


class NewTokenView(TokenView):
    secret: Annotated[str, Field(description="the token itself; it is not shown again")]


class TokenList(View):
    tokens: list[TokenView]


@router.get("", responses=problems.responses(NotFound))
def list_tokens(session: ReadSession, caller: Caller, user: PersonQuery = None) -> TokenList:
    """Tokens of one person, oldest first, without their secrets."""
    found = tokens.list_tokens(session, user or caller.user)
    return TokenList(tokens=[TokenView.model_validate(row) for row in found])


@router.post("", status_code=HTTPStatus.CREATED, responses=problems.responses(NotFound))
def create_token(
    token: NewToken, session: WriteSession, now: Now, caller: Caller, user: PersonQuery = None
) -> NewTokenView:
    """Creates a token. It permits what its person's role does, as far as its scope does, too."""
    row, secret = tokens.create_token(
        session,
        user=user or caller.user,
        label=token.label,
        scope=token.scope,
        tag=token.tag,
        expires_at=token.expires_at,
        now=now,
    )
    _record(session, AuditKind.TOKEN_CREATED, row, now=now)
    return NewTokenView(**TokenView.model_validate(row).model_dump(), secret=secret)


@router.post("/{token_id}/rotate", responses=problems.responses(NotFound))
def rotate_token(token_id: str, session: WriteSession, now: Now) -> NewTokenView:
    """Replaces the secret. The old one, and sign-ins with it, end at once."""
    row, secret = tokens.rotate_token(session, token_id)
    _record(session, AuditKind.TOKEN_ROTATED, row, now=now)
    return NewTokenView(**TokenView.model_validate(row).model_dump(), secret=secret)


@router.delete(
    "/{token_id}", status_code=HTTPStatus.NO_CONTENT, responses=problems.responses(NotFound)
)
def revoke_token(token_id: str, session: WriteSession, now: Now) -> None:
    """Deletes the token; sign-ins with it end."""
    _record(session, AuditKind.TOKEN_REVOKED, tokens.find_token(session, token_id), now=now)
    tokens.revoke_token(session, token_id)


def _record(session: Session, kind: AuditKind, row: TokenRow, *, now: datetime) -> None:
    audit.record(session, kind, row.id, now=now, owner=row.user, label=row.label, scope=row.scope)
