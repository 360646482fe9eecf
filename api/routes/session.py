"""Signing in and out with a browser: a cookie replaces the token."""

from datetime import datetime
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from api import problems
from api.auth import SIGN_IN_COOKIE, read_sign_in_cookie, require_own_page
from api.dependencies import Caller, Now, Services, ServicesDep, WriteSession
from service.access import audit, sign_ins
from service.access.policy import Principal
from service.errors import Forbidden, Unauthorized
from service.states import AuditKind, MembersSee, Role, TokenScope
from service.storage.visibility import Shared

router = APIRouter(prefix="/v1/session", tags=["session"])


class SignIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    token: Annotated[str, Field(max_length=1000)]


class SharedView(BaseModel):
    jobs: list[str]
    study: str | None

    @classmethod
    def of(cls, shared: Shared | None) -> "SharedView | None":
        return None if shared is None else cls(jobs=list(shared.job_ids), study=shared.study_id)


class SessionView(BaseModel):
    """What the person and the token may do together."""

    user: str
    role: Role
    group: Annotated[str | None, Field(description="that the person is in")]
    scope: TokenScope
    tag: Annotated[str | None, Field(description="the token is limited to jobs with this tag")]
    expires_at: datetime | None
    shared: Annotated[SharedView | None, Field(description="what a link shows; null: no link")]
    members_see: Annotated[MembersSee, Field(description="jobs, searches and studies")]

    @classmethod
    def of(cls, principal: Principal, services: Services) -> "SessionView":
        return cls(
            user=principal.user,
            role=principal.role,
            group=principal.group,
            scope=principal.scope,
            tag=principal.tag,
            expires_at=principal.expires_at,
            shared=SharedView.of(principal.shared),
            members_see=services.settings.members_see,
        )


@router.post(
    "",
    # It needs no token.
    max_body_size=2**14,
    dependencies=[Depends(require_own_page)],
    responses=problems.responses(Unauthorized, Forbidden),
)
def sign_in(
    body: SignIn,
    request: Request,
    response: Response,
    session: WriteSession,
    services: ServicesDep,
    now: Now,
) -> SessionView:
    """Sets a cookie that replaces the token; needs the header `X-Requested-With`."""
    address = request.client.host if request.client is not None else "unknown"
    try:
        secret, principal = sign_ins.sign_in(session, body.token.strip(), now=now)
    except Unauthorized:
        services.refused_credentials.record(AuditKind.SIGN_IN_FAILED, address)
        raise
    user = principal.user
    kind = AuditKind.SIGN_IN if principal.shared is None else AuditKind.SHARE_OPENED
    subject = user if principal.shared is None else principal.token_id
    audit.record(session, kind, subject, now=now, user=user, address=address)
    response.set_cookie(
        SIGN_IN_COOKIE,
        secret,
        max_age=int(sign_ins.LIFETIME.total_seconds()),
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
    return SessionView.of(principal, services)


@router.get("")
def get_session(caller: Caller, services: ServicesDep) -> SessionView:
    """Whose token the request carries, and what it permits."""
    return SessionView.of(caller, services)


@router.delete("", status_code=HTTPStatus.NO_CONTENT)
def sign_out(
    request: Request, response: Response, session: WriteSession, caller: Caller, now: Now
) -> None:
    """Ends the sign-in of the cookie and deletes the cookie."""
    secret = read_sign_in_cookie(request)
    if secret is not None:
        sign_ins.sign_out(session, secret)
        if caller.shared is None:
            audit.record(session, AuditKind.SIGN_OUT, caller.user, now=now)
    response.delete_cookie(SIGN_IN_COOKIE, httponly=True, samesite="strict")
