"""What routes ask for: sessions, the store, the caller."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from fastapi import Depends, Header, Request, Response
from fastapi.security import HTTPBearer

from api.auth import bearer
from api.change_listener import ChangeHub
from service.access import tokens
from service.execution import attempts, runners
from service.searches import drivers
from service.settings import Settings
from service.storage.artifacts import ArtifactStore
from service.storage.database import Database, Session

# Only so that the OpenAPI document names the scheme; `bearer` reads the header.
_scheme = HTTPBearer(auto_error=False, description="A person's token, or an attempt's own")


@dataclass(frozen=True)
class Services:
    """What one API process holds; `now` is the clock, UTC."""

    settings: Settings
    database: Database
    artifacts: ArtifactStore
    changes: ChangeHub
    now: Callable[[], datetime]


def get_services(request: Request) -> Services:
    held: Services = request.app.state.services
    return held


ServicesDep = Annotated[Services, Depends(get_services)]


def get_now(held: ServicesDep) -> datetime:
    return held.now()


Now = Annotated[datetime, Depends(get_now)]


def write_session(held: ServicesDep) -> Iterator[Session]:
    with held.database.transaction() as session:
        yield session


def read_session(held: ServicesDep) -> Iterator[Session]:
    with held.database.reading() as session:
        yield session


# The scope closes the session before the answer is sent: a failed commit must not answer 201.
WriteSession = Annotated[Session, Depends(write_session, scope="function")]
ReadSession = Annotated[Session, Depends(read_session, scope="function")]


def authenticate_user(
    request: Request, held: ServicesDep, _: Annotated[object, Depends(_scheme)]
) -> str:
    """The name of the token's owner. Unauthorized where nobody knows it."""
    secret = bearer(request)
    with held.database.reading() as session:
        return tokens.find_token(session, secret).name


User = Annotated[str, Depends(authenticate_user)]
IdempotencyKey = Annotated[
    str | None, Header(min_length=1, max_length=200, pattern=r"^[\x20-\x7e]+$")
]


def set_submission_headers(response: Response, *, location: str, is_replay: bool) -> None:
    """Where what was submitted is now, and whether it was there before."""
    if is_replay:
        response.headers["Idempotency-Replayed"] = "true"
    response.headers["Location"] = location


def authenticate_attempt(
    request: Request, held: ServicesDep, attempt_id: str, _: Annotated[object, Depends(_scheme)]
) -> str:
    """The id of the attempt in the path, whose own token came with the request."""
    secret = bearer(request)
    with held.database.reading() as session:
        return attempts.authenticate(session, attempt_id, secret).id


CallingAttempt = Annotated[str, Depends(authenticate_attempt)]


def authenticate_runner(
    request: Request, held: ServicesDep, runner_id: str, _: Annotated[object, Depends(_scheme)]
) -> str:
    """The id of the runner in the path, whose own token came with the request."""
    secret = bearer(request)
    with held.database.reading() as session:
        return runners.authenticate(session, runner_id, secret).id


CallingRunner = Annotated[str, Depends(authenticate_runner)]


def authenticate_driver(
    request: Request, held: ServicesDep, driver_id: str, _: Annotated[object, Depends(_scheme)]
) -> str:
    """The id of the search whose present driver's own token came with the request."""
    secret = bearer(request)
    with held.database.reading() as session:
        return drivers.authenticate(session, driver_id, secret).id


CallingDriver = Annotated[str, Depends(authenticate_driver)]
