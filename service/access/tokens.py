"""Tokens of people, of which the database stores only digests."""

import hashlib
import secrets
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, delete, null, select, update
from sqlalchemy.orm import Session, aliased

from service import ids
from service.access import people, secret_files
from service.access.policy import Principal, Subject
from service.errors import (
    InputLocation,
    InvalidInput,
    NotFound,
    Unauthorized,
    invalid_parameter,
)
from service.states import Role, TokenScope
from service.storage.database import Lock, serialize
from service.storage.tables import (
    AlertRow,
    JobRow,
    ModelRow,
    PersonRow,
    SearchRow,
    SignInRow,
    StudyRow,
    SubmittedRow,
    TokenRow,
    WebhookRow,
)
from service.storage.visibility import Shared
from service.text import count_of

# In characters. Shorter tokens could be guessed; generated ones have 43.
MIN_LENGTH = 16
# The person of the administrator's token file, and the label of the token in it.
ADMIN, FILE_LABEL = "admin", "token file"
# Between two writes of the time of a token's last use.
USE_SECONDS = 60.0
_OWNERS: dict[Subject, type[SubmittedRow | ModelRow | WebhookRow | AlertRow | TokenRow]] = {
    Subject.JOB: JobRow,
    Subject.SEARCH: SearchRow,
    Subject.STUDY: StudyRow,
    Subject.MODEL: ModelRow,
    Subject.WEBHOOK: WebhookRow,
    Subject.ALERT: AlertRow,
    Subject.TOKEN: TokenRow,
    Subject.SHARE: TokenRow,
}


def new_secret() -> str:
    return secrets.token_urlsafe(32)


def digest(secret: str) -> str:
    """SHA-256; a slow password hash is not needed for a long random secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


def authenticate(
    session: Session,
    secret: str,
    *,
    is_sign_in: bool,
    now: datetime,
    subject: Subject | None = None,
    subject_id: str = "",
) -> tuple[Principal, str | None, datetime | None]:
    """Whose token or sign-in it is, the owner of the subject, and the token's last use.

    In one query. The row is found by its digest: the time that takes says nothing about a secret,
    since a sender cannot choose the digest of what is sent. Raises Unauthorized.
    """
    statement = select(
        TokenRow, PersonRow.role, PersonRow.group, _select_owner(subject, subject_id).label("owner")
    ).join(PersonRow, PersonRow.name == TokenRow.user)
    if is_sign_in:
        statement = statement.join(SignInRow, SignInRow.token_id == TokenRow.id).where(
            SignInRow.secret_sha256 == digest(secret), SignInRow.expires_at > now
        )
    else:
        statement = statement.where(TokenRow.token_sha256 == digest(secret))
    found = session.execute(statement).one_or_none()
    if found is None:
        raise Unauthorized(
            "the sign-in has ended; sign in again" if is_sign_in else "unknown token"
        )
    token, role, group, owner = found
    if token.expires_at is not None and token.expires_at <= now:
        raise Unauthorized(f"the token expired at {token.expires_at:%Y-%m-%d %H:%M} UTC")
    principal = Principal(
        user=token.user,
        role=role,
        group=group,
        scope=token.scope,
        tag=token.tag,
        token_id=token.id,
        expires_at=token.expires_at,
        shared=shared_of(token),
    )
    # A person owns what is his. The name of one may be any text here.
    return principal, subject_id if subject is Subject.PERSON else owner, token.last_used_at


def shared_of(token: TokenRow) -> Shared | None:
    """What a link shows; None for a token that is no link."""
    if token.scope is not TokenScope.SHARED:
        return None
    return Shared(job_ids=tuple(token.shared_job_ids), study_id=token.shared_study_id)


def create_token(
    session: Session,
    *,
    user: str,
    label: str,
    scope: TokenScope,
    tag: str | None,
    expires_at: datetime | None,
    shared: Shared | None = None,
    now: datetime,
) -> tuple[TokenRow, str]:
    """The new token and its secret, which is stored nowhere. NotFound for an unknown person."""
    people.find_person(session, user)
    if expires_at is not None and expires_at <= now:
        raise invalid_parameter("/expires_at", "must be in the future", location=InputLocation.BODY)
    if label == FILE_LABEL:
        raise invalid_parameter(
            "/label",
            f"{FILE_LABEL!r} is that of the administrator's token",
            location=InputLocation.BODY,
        )
    secret = new_secret()
    row = TokenRow(
        id=ids.new_id(now),
        token_sha256=digest(secret),
        user=user,
        label=label,
        scope=scope,
        tag=tag,
        shared_job_ids=[] if shared is None else list(shared.job_ids),
        shared_study_id=None if shared is None else shared.study_id,
        created_at=now,
        expires_at=expires_at,
        last_used_at=None,
    )
    session.add(row)
    session.flush()
    return row, secret


def list_tokens(session: Session, user: str) -> list[TokenRow]:
    """Of one person, oldest first, without links. NotFound."""
    people.find_person(session, user)
    return list(
        session.scalars(
            select(TokenRow)
            .where(TokenRow.user == user, TokenRow.scope != TokenScope.SHARED)
            .order_by(TokenRow.id)
        )
    )


def find_token(session: Session, token_id: str) -> TokenRow:
    row = session.get(TokenRow, token_id) if ids.is_id(token_id) else None
    if row is None or row.scope is TokenScope.SHARED:
        raise NotFound(f"no token {token_id!r}")
    return row


def rotate_token(session: Session, token_id: str) -> tuple[TokenRow, str]:
    """Replaces the secret; the old one, and sign-ins with it, end at once."""
    row, secret = find_token(session, token_id), new_secret()
    row.token_sha256 = digest(secret)
    session.execute(delete(SignInRow).where(SignInRow.token_id == row.id))
    session.flush()
    return row, secret


def revoke_token(session: Session, token_id: str) -> None:
    """Deletes the token; sign-ins with it end."""
    delete_token(session, find_token(session, token_id))


def delete_token(session: Session, row: TokenRow) -> None:
    session.execute(delete(TokenRow).where(TokenRow.id == row.id))


def record_use(session: Session, used_at: dict[str, datetime]) -> None:
    """By the ids of tokens, some of which may be gone."""
    for token_id, at in used_at.items():
        session.execute(update(TokenRow).where(TokenRow.id == token_id).values(last_used_at=at))


def set_admin_token(session: Session, secret: str, *, now: datetime) -> None:
    """The person `admin` has the role admin, and this token instead of the file's earlier one."""
    serialize(session.connection(), Lock.CHANGE_PEOPLE)
    person = session.get(PersonRow, ADMIN)
    if person is None:
        person = PersonRow(name=ADMIN, role=Role.ADMIN, created_at=now)
        session.add(person)
        session.flush()
    person.role = Role.ADMIN
    of_file = select(TokenRow).where(TokenRow.user == ADMIN, TokenRow.label == FILE_LABEL)
    known = session.scalars(of_file).one_or_none()
    if known is not None and known.token_sha256 == digest(secret):
        return
    if known is not None:
        session.delete(known)
        session.flush()
    row = TokenRow(
        id=ids.new_id(now),
        token_sha256=digest(secret),
        user=ADMIN,
        label=FILE_LABEL,
        scope=TokenScope.FULL,
        created_at=now,
    )
    session.add(row)
    session.flush()


def read_or_create(path: Path) -> str:
    """The secret in the file; a missing file is created with a new one, readable by its owner."""
    try:
        if not path.exists():
            secret_files.create_once(path, new_secret() + "\n")
        secret = path.read_text().strip()
    except (OSError, UnicodeError) as error:
        raise InvalidInput(
            f"RESNETD_TOKEN_FILE: {path} cannot be read or created: {error}"
        ) from error
    if len(secret) < MIN_LENGTH:
        raise InvalidInput(
            f"RESNETD_TOKEN_FILE: the token in {path} has {count_of(len(secret), 'character')}; "
            f"at least {MIN_LENGTH} are needed"
        )
    return secret


def _select_owner(subject: Subject | None, subject_id: str) -> ColumnElement[Any]:
    """NULL where no row has this id."""
    if subject not in _OWNERS or not ids.is_id(subject_id):
        return null()
    owned = aliased(_OWNERS[subject])
    return select(owned.user).where(owned.id == subject_id).scalar_subquery()
