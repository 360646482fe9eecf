"""What routes depend on: sessions, the services of the process, the authorized caller.

A request is one transaction, which begins with its first query: a route takes its session as a
dependency, `ReadSession` unless it writes. No transaction is open during network I/O or a wait. So
a check against the artifact store is a dependency before the session, a download is an
ArtifactResponse, which follows it, and streams and long polls open a short transaction for each
look at the database, as authentication does before the request's own.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Header, Path, Query, Request, Response
from fastapi.concurrency import contextmanager_in_threadpool
from fastapi.security import APIKeyCookie, HTTPBearer

from api.access_rules import OWNER_PARAMETER, RULES, SUBJECTS
from api.auth import SIGN_IN_COOKIE, read_bearer_token, read_sign_in_cookie
from api.change_listener import ChangeHub
from api.monitoring import ServiceMonitor
from api.predictor import Predictor
from api.refused_credentials import RefusedCredentials
from api.token_uses import TokenUses
from service.access import tokens
from service.access.policy import (
    Principal,
    Rule,
    Subject,
    make_visibility,
    require_permitted,
)
from service.access.signing_keys import SigningKey
from service.errors import Unauthorized
from service.execution import credentials
from service.execution.credentials import CallerKind
from service.settings import Settings
from service.states import ActorKind, AuditKind
from service.storage.actors import DISPATCHER, Actor
from service.storage.artifacts import ArtifactStore
from service.storage.database import Database, Session
from service.storage.visibility import restrict

if TYPE_CHECKING:
    from api.launch_traces import LaunchTracer

# A request keeps its session while its response is validated, which needs one of the 40 threads.
# All of them may wait for a lock or a connection that such a request holds, unless there are more
# threads, and more connections, than sessions.
SESSION_SLOTS = 10

# Of the processes on the cluster; a runner acts for the attempts that it gets.
ACTORS = {
    CallerKind.ATTEMPT: Actor(ActorKind.ATTEMPT),
    CallerKind.RUNNER: Actor(ActorKind.ATTEMPT),
    CallerKind.DRIVER: Actor(ActorKind.SEARCH),
}

# Only so that the OpenAPI document names the scheme; `read_bearer_token` reads the header.
_token = HTTPBearer(
    auto_error=False,
    scheme_name="token",
    description="The token of a person, an attempt, a runner or a driver",
)
_cookie = APIKeyCookie(
    name=SIGN_IN_COOKIE,
    auto_error=False,
    scheme_name="cookie",
    description="Of a signed-in browser, whose changes need the header `X-Requested-With`",
)


@dataclass(frozen=True)
class Services:
    """What all requests of one API process share; `now` is the clock, UTC.

    `session_slots`: a request waits here, without a thread, until fewer than SESSION_SLOTS others
    hold a session. `tracer`: None without a collector.
    """

    settings: Settings
    database: Database
    artifacts: ArtifactStore
    signing_key: SigningKey
    changes: ChangeHub
    predictor: Predictor
    session_slots: asyncio.Semaphore
    token_uses: TokenUses
    refused_credentials: RefusedCredentials
    monitor: ServiceMonitor
    tracer: "LaunchTracer | None"
    now: Callable[[], datetime]


async def get_services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(get_services)]


async def get_now(services: ServicesDep) -> datetime:
    return services.now()


Now = Annotated[datetime, Depends(get_now)]


def authorize(
    request: Request,
    services: ServicesDep,
    _: Annotated[object, Depends(_token)],
    __: Annotated[object, Depends(_cookie)],
) -> Principal:
    """Who calls. Unauthorized where the token or sign-in is not known.

    Forbidden or NotFound where the route's rule does not permit the call.
    """
    rule = RULES[f"{request.method} {request.scope['route'].path}"]
    subject_id = _find_subject_id(request, rule)
    sign_in = read_sign_in_cookie(request)
    secret = sign_in if sign_in is not None else read_bearer_token(request)
    now = services.now()
    try:
        with services.database.reading() as session:
            principal, owner, last_used_at = tokens.authenticate(
                session,
                secret,
                is_sign_in=sign_in is not None,
                now=now,
                subject=rule.subject if subject_id is not None else None,
                subject_id=subject_id or "",
            )
    except Unauthorized:
        # A sign-in ends by itself, and what the process requests of itself has no client.
        if sign_in is None and request.client is not None:
            services.refused_credentials.record(AuditKind.TOKEN_REFUSED, request.client.host)
        raise
    request.state.token_id = principal.token_id
    members_see = services.settings.members_see
    require_permitted(principal, rule, members_see, subject_id=subject_id or "", owner=owner)
    services.token_uses.record(principal.token_id, last=last_used_at, now=now)
    request.state.visibility = make_visibility(principal, members_see)
    request.state.actor = Actor(ActorKind.PERSON, principal.user)
    return principal


def _find_subject_id(request: Request, rule: Rule) -> str | None:
    """What the path names, or the query for the tokens of a person; None: the caller himself."""
    if rule.subject is Subject.PERSON:
        return request.query_params.get(OWNER_PARAMETER)
    found = (name for name in request.path_params if SUBJECTS.get(name) is rule.subject)
    name = next(found, None)
    return None if name is None else str(request.path_params[name])


Caller = Annotated[Principal, Depends(authorize)]


async def get_user(caller: Caller) -> str:
    return caller.user


User = Annotated[str, Depends(get_user)]


# What `authorize`, which comes first, has found; processes of the service see all rows.
async def write_session(request: Request, services: ServicesDep) -> AsyncIterator[Session]:
    actor = getattr(request.state, "actor", DISPATCHER)
    opened = contextmanager_in_threadpool(services.database.transaction(actor=actor))
    async with services.session_slots, opened as session:
        _restrict(request, session, is_default=False)
        yield session


async def read_session(request: Request, services: ServicesDep) -> AsyncIterator[Session]:
    opened = contextmanager_in_threadpool(services.database.reading())
    async with services.session_slots, opened as session:
        _restrict(request, session, is_default=True)
        yield session


def _restrict(request: Request, session: Session, *, is_default: bool) -> None:
    visibility = getattr(request.state, "visibility", None)
    if visibility is not None:
        restrict(session, visibility, is_default=is_default)


# The scope ends the transaction before the response is sent: a failed commit must not send 201.
WriteSession = Annotated[Session, Depends(write_session, scope="function")]
ReadSession = Annotated[Session, Depends(read_session, scope="function")]
IdempotencyKey = Annotated[
    str | None, Header(min_length=1, max_length=200, pattern=r"^[\x20-\x7e]+$")
]


async def get_redirect_seconds(
    services: ServicesDep,
    redirect: Annotated[
        bool,
        Query(
            description="answer with 307 where a large file may be read from its bucket; the "
            "headers have its checksum and name. The bucket takes `Range`, and no token"
        ),
    ] = False,
) -> int:
    return services.settings.presigned_url_seconds if redirect else 0


# Of an ArtifactResponse.
RedirectSeconds = Annotated[int, Depends(get_redirect_seconds)]


def set_submission_headers(response: Response, *, location: str, is_replay: bool) -> None:
    """`location`: of what was submitted; `is_replay`: an earlier request has created it."""
    if is_replay:
        response.headers["Idempotency-Replayed"] = "true"
    response.headers["Location"] = location


def authenticate_caller(kind: CallerKind) -> Callable[..., str]:
    """A dependency: the id of the caller in the path, whose own token came with the request."""

    def authenticate(
        request: Request,
        services: ServicesDep,
        caller_id: Annotated[str, Path(alias=f"{kind}_id")],
        _: Annotated[object, Depends(_token)],
    ) -> str:
        secret = read_bearer_token(request)
        with services.database.reading() as session:
            credentials.authenticate(session, kind, caller_id, secret)
        request.state.actor = ACTORS[kind]
        return caller_id

    return authenticate


CallingAttempt = Annotated[str, Depends(authenticate_caller(CallerKind.ATTEMPT))]
CallingRunner = Annotated[str, Depends(authenticate_caller(CallerKind.RUNNER))]
CallingDriver = Annotated[str, Depends(authenticate_caller(CallerKind.DRIVER))]
