"""Users' API tokens, of which the database stores only digests."""

import hashlib
import secrets
from datetime import datetime
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from service.access import secret_files
from service.errors import InvalidInput, Unauthorized
from service.specs.base import MAX_NAME_LENGTH, Name
from service.storage.database import Lock, serialize
from service.storage.tables import TokenRow
from service.text import count_of

# In characters. Shorter tokens could be guessed; generated ones have 43.
MIN_LENGTH = 16
_NAME: TypeAdapter[str] = TypeAdapter(Name)


def new_secret() -> str:
    return secrets.token_urlsafe(32)


def digest(secret: str) -> str:
    """SHA-256; a slow password hash is not needed for a long random secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


def find_token(session: Session, secret: str) -> TokenRow:
    """The row of the token. Raises Unauthorized if there is none."""
    token = session.get(TokenRow, digest(secret))
    if token is None:
        raise Unauthorized("unknown token")
    return token


def set_token(session: Session, secret: str, *, name: str, now: datetime) -> None:
    """Stores a user's token; it replaces an earlier token of the same name.

    InvalidInput for a name that no database can store or no terminal should print.
    """
    try:
        _NAME.validate_python(name)
    except ValidationError as error:
        raise InvalidInput(
            f"a user's name has 1 to {MAX_NAME_LENGTH} characters and no control characters; "
            f"received {name[:MAX_NAME_LENGTH]!r}"
        ) from error
    serialize(session.connection(), Lock.SET_TOKEN)
    known = session.scalar(select(TokenRow).where(TokenRow.name == name))
    if known is not None and known.token_sha256 == digest(secret):
        return
    if known is not None:
        session.delete(known)
        session.flush()
    session.add(TokenRow(token_sha256=digest(secret), name=name, created_at=now))


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
