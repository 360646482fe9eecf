"""Reads the token that a request carries."""

from fastapi import Request

from service.errors import Unauthorized


def read_bearer_token(request: Request) -> str:
    """The secret of `Authorization: Bearer ...`. Unauthorized where there is none."""
    scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        raise Unauthorized("the request needs a token: Authorization: Bearer <token>")
    return secret.strip()
