"""What routes ask for: sessions, the store, the caller."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from fastapi import Depends, Header, Request, Response
from fastapi.security import HTTPBearer

from api.auth import bearer
from api.changes import ChangeHub
from service import attempts, drivers, runners, tokens
from service.artifacts import ArtifactStore
from service.database import Database, Session
from service.settings import Settings

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


def services(request: Request) -> Services:
    held: Services = request.app.state.services
    return held


Held = Annotated[Services, Depends(services)]


def clock(held: Held) -> datetime:
    return held.now()


Now = Annotated[datetime, Depends(clock)]


def writing(held: Held) -> Iterator[Session]:
    with held.database.transaction() as session:
        yield session


def reading(held: Held) -> Iterator[Session]:
    with held.database.reading() as session:
        yield session


# The scope closes the session before the answer is sent: a failed commit must not answer 201.
Writing = Annotated[Session, Depends(writing, scope="function")]
Reading = Annotated[Session, Depends(reading, scope="function")]


def person(request: Request, held: Held, _: Annotated[object, Depends(_scheme)]) -> str:
    """The name of the token's owner. Unauthorized where nobody knows it."""
    secret = bearer(request)
    with held.database.reading() as session:
        return tokens.check(session, secret).name


User = Annotated[str, Depends(person)]
IdempotencyKey = Annotated[
    str | None, Header(min_length=1, max_length=200, pattern=r"^[\x20-\x7e]+$")
]


def tell_saved(response: Response, *, location: str, is_replay: bool) -> None:
    """Where what was submitted is now, and whether it was there before."""
    if is_replay:
        response.headers["Idempotency-Replayed"] = "true"
    response.headers["Location"] = location


def attempt(
    request: Request, held: Held, attempt_id: str, _: Annotated[object, Depends(_scheme)]
) -> str:
    """The id of the attempt in the path, whose own token came with the request."""
    secret = bearer(request)
    with held.database.reading() as session:
        return attempts.authenticate(session, attempt_id, secret).id


CallingAttempt = Annotated[str, Depends(attempt)]


def runner(
    request: Request, held: Held, runner_id: str, _: Annotated[object, Depends(_scheme)]
) -> str:
    """The id of the runner in the path, whose own token came with the request."""
    secret = bearer(request)
    with held.database.reading() as session:
        return runners.authenticate(session, runner_id, secret).id


CallingRunner = Annotated[str, Depends(runner)]


def driver(
    request: Request, held: Held, driver_id: str, _: Annotated[object, Depends(_scheme)]
) -> str:
    """The id of the search whose present driver's own token came with the request."""
    secret = bearer(request)
    with held.database.reading() as session:
        return drivers.authenticate(session, driver_id, secret).id


CallingDriver = Annotated[str, Depends(driver)]
