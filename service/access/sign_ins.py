"""Browsers that are signed in with a user's token; the database stores only digests."""

from datetime import datetime, timedelta

from sqlalchemy import delete
from sqlalchemy.orm import Session

from service.access import tokens
from service.errors import Unauthorized
from service.storage.tables import SignInRow, TokenRow

LIFETIME = timedelta(days=30)


def sign_in(session: Session, token: str, *, now: datetime) -> tuple[str, TokenRow]:
    """The secret of a new sign-in, and the row of the token. Raises Unauthorized."""
    found = tokens.find_token(session, token)
    session.execute(delete(SignInRow).where(SignInRow.expires_at <= now))
    secret = tokens.new_secret()
    session.add(
        SignInRow(
            secret_sha256=tokens.digest(secret),
            token_sha256=found.token_sha256,
            expires_at=now + LIFETIME,
        )
    )
    return secret, found


def find_token(session: Session, secret: str, *, now: datetime) -> TokenRow:
    """The row of the token of this sign-in. Raises Unauthorized where it has ended."""
    found = session.get(SignInRow, tokens.digest(secret))
    token = None
    if found is not None and found.expires_at > now:
        token = session.get(TokenRow, found.token_sha256)
    if token is None:
        raise Unauthorized("the sign-in has ended; sign in again")
    return token


def sign_out(session: Session, secret: str) -> None:
    session.execute(delete(SignInRow).where(SignInRow.secret_sha256 == tokens.digest(secret)))
