"""Reads the credentials that a request carries: a token, or the cookie of a signed-in browser."""

from fastapi import Request

from service.errors import Forbidden, Unauthorized

SIGN_IN_COOKIE = "resnetd_sign_in"
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


def read_bearer_token(request: Request) -> str:
    """The secret of `Authorization: Bearer ...`. Unauthorized where there is none."""
    scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        raise Unauthorized("the request needs a token: Authorization: Bearer <token>")
    return secret.strip()


def read_sign_in_cookie(request: Request) -> str | None:
    """The secret of the cookie; None where there is none, or where a token came with it.

    Raises Forbidden for a change that may come from another site's page.
    """
    secret = request.cookies.get(SIGN_IN_COOKIE)
    if not secret or "Authorization" in request.headers:
        return None
    if request.method not in _SAFE_METHODS:
        require_own_page(request)
    return secret


def require_own_page(request: Request) -> None:
    """Raises Forbidden where the header is missing that no page of another origin can send.

    A browser asks before it sends such a header to another origin, and this service never agrees.
    SameSite does not suffice: all ports of a host are one site.
    """
    if "X-Requested-With" not in request.headers:
        raise Forbidden("a change by a signed-in browser needs the header X-Requested-With")
