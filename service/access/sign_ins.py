"""Browsers that are signed in with a person's token; the database stores only digests."""

from datetime import datetime, timedelta

from sqlalchemy import delete
from sqlalchemy.orm import Session

from service.access import tokens
from service.access.policy import Principal
from service.storage.tables import SignInRow

LIFETIME = timedelta(days=30)


def sign_in(session: Session, token: str, *, now: datetime) -> tuple[str, Principal]:
    """The secret of a new sign-in, and whose token it is. Raises Unauthorized."""
    principal, _, _ = tokens.authenticate(session, token, is_sign_in=False, now=now)
    session.execute(delete(SignInRow).where(SignInRow.expires_at <= now))
    secret = tokens.new_secret()
    session.add(
        SignInRow(
            secret_sha256=tokens.digest(secret),
            token_id=principal.token_id,
            expires_at=now + LIFETIME,
        )
    )
    return secret, principal


def sign_out(session: Session, secret: str) -> None:
    session.execute(delete(SignInRow).where(SignInRow.secret_sha256 == tokens.digest(secret)))
