"""People's tokens: made once, kept as a digest only."""

import hashlib
import os
import secrets
from datetime import datetime
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.errors import InvalidInput, Unauthorized
from service.storage.tables import TokenRow

# Shorter ones could be guessed; ours have 43 letters.
MIN_LENGTH = 16


def new_secret() -> str:
    return secrets.token_urlsafe(32)


def digest(secret: str) -> str:
    """Plain SHA-256: the secret is random and long, so there is nothing to slow down."""
    return hashlib.sha256(secret.encode()).hexdigest()


def find_token(session: Session, secret: str) -> TokenRow:
    """The token's row. Unauthorized where nobody knows it."""
    token = session.get(TokenRow, digest(secret))
    if token is None:
        raise Unauthorized("the token is not known")
    return token


def set_token(session: Session, secret: str, *, name: str, now: datetime) -> None:
    """The token of that name opens the door from now on; another one of the name does not."""
    known = session.scalar(select(TokenRow).where(TokenRow.name == name))
    if known is not None and known.token_sha256 == digest(secret):
        return
    if known is not None:
        session.delete(known)
        session.flush()
    session.add(TokenRow(token_sha256=digest(secret), name=name, created_at=now))


def read_or_create(path: Path) -> str:
    """The secret in the file; where there is no file, a new one that only its owner can read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        secret = path.read_text().strip()
        if len(secret) < MIN_LENGTH:
            raise InvalidInput(
                f"the token in {path} has {len(secret)} letters, at least {MIN_LENGTH} are needed"
            ) from None
        return secret
    with os.fdopen(handle, "w") as file:
        secret = new_secret()
        file.write(secret + "\n")
    return secret
