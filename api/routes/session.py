"""Signing in and out with a browser: a cookie replaces the token."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from api import problems
from api.auth import SIGN_IN_COOKIE, read_sign_in_cookie, require_own_page
from api.dependencies import Now, User, WriteSession
from service.access import sign_ins
from service.errors import Forbidden, Unauthorized

router = APIRouter(prefix="/v1/session", tags=["session"])


class SignIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    token: Annotated[str, Field(max_length=1000)]


class SessionView(BaseModel):
    user: Annotated[str, Field(description="name of the token")]


@router.post(
    "",
    dependencies=[Depends(require_own_page)],
    responses=problems.responses(Unauthorized, Forbidden),
)
def sign_in(
    body: SignIn, request: Request, response: Response, session: WriteSession, now: Now
) -> SessionView:
    """Sets a cookie that replaces the token; needs the header `X-Requested-With`."""
    secret, token = sign_ins.sign_in(session, body.token.strip(), now=now)
    response.set_cookie(
        SIGN_IN_COOKIE,
        secret,
        max_age=int(sign_ins.LIFETIME.total_seconds()),
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
    return SessionView(user=token.name)


@router.get("")
def get_session(user: User) -> SessionView:
    """Whose token the request carries."""
    return SessionView(user=user)


@router.delete("", status_code=HTTPStatus.NO_CONTENT)
def sign_out(request: Request, response: Response, session: WriteSession, user: User) -> None:
    """Ends the sign-in of the cookie and deletes the cookie."""
    del user
    secret = read_sign_in_cookie(request)
    if secret is not None:
        sign_ins.sign_out(session, secret)
    response.delete_cookie(SIGN_IN_COOKIE, httponly=True, samesite="strict")
