"""Who asks: a person with a token, or a training process with its attempt's."""

from fastapi import Request

from service.errors import Unauthorized


def bearer(request: Request) -> str:
    """The secret of `Authorization: Bearer ...`. Unauthorized where there is none."""
    scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        raise Unauthorized("a token is needed: Authorization: Bearer <token>")
    return secret.strip()
