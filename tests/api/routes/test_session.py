"""Signing in with a browser: the cookie, what it permits, and how it ends."""

import json
from collections.abc import Callable
from datetime import timedelta

import httpx
import pytest

from api.auth import SIGN_IN_COOKIE
from service.access import sign_ins
from service.storage.tables import SignInRow
from tests.support.api import TOKEN, Api

OWN_PAGE = {"X-Requested-With": "resnetd-dashboard"}


@pytest.fixture
def cookie(any_api: Api) -> str:
    return _cookie_of(_sign_in(any_api))


def _sign_in(api: Api, token: str = TOKEN, **headers: str) -> httpx.Response:
    return api.call(
        "POST", "/v1/session", token=None, json={"token": token}, headers=OWN_PAGE | headers
    )


def _cookie_of(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    # Else the client would send it by itself, in all tests that share the API.
    return answer.headers["Set-Cookie"].split(";")[0]


def _call(api: Api, method: str, path: str, cookie: str, **headers: str) -> httpx.Response:
    api.http.cookies.clear()
    return api.call(method, path, token=None, headers={"Cookie": cookie} | headers)


def test_the_cookie_replaces_the_token(any_api: Api, cookie: str) -> None:
    answer = _call(any_api, "GET", "/v1/session", cookie)
    assert answer.json() == {
        "user": "admin",
        "role": "admin",
        "group": None,
        "scope": "full",
        "tag": None,
        "expires_at": None,
        "shared": None,
        "members_see": "all",
    }
    assert _call(any_api, "GET", "/v1/jobs", cookie).status_code == 200


def test_scripts_and_other_sites_cannot_use_the_cookie(any_api: Api) -> None:
    attributes = _sign_in(any_api).headers["Set-Cookie"].lower()
    assert {"httponly", "samesite=strict", "path=/"} <= {
        part.strip() for part in attributes.split(";")
    }
    assert "secure" not in attributes


def test_the_cookie_is_secure_where_a_proxy_serves_https(any_api: Api) -> None:
    answer = _sign_in(any_api, **{"X-Forwarded-Proto": "https"})
    assert "secure" in answer.headers["Set-Cookie"].lower()


def test_neither_the_cookie_nor_the_database_contains_the_token(any_api: Api, cookie: str) -> None:
    assert TOKEN not in cookie
    with any_api.core.database.reading() as session:
        (row,) = session.query(SignInRow).all()
        assert row.secret_sha256 not in cookie
        assert cookie.split("=")[1] != row.secret_sha256


def test_an_unknown_token_is_refused(any_api: Api) -> None:
    answer = _sign_in(any_api, "x" * 43)
    assert answer.status_code == 401
    assert "Set-Cookie" not in answer.headers


def test_a_page_of_another_origin_can_neither_sign_in_nor_change_anything(
    any_api: Api, cookie: str
) -> None:
    """It cannot send the header: the browser asks the service first, which does not agree."""
    refused = any_api.call("POST", "/v1/session", token=None, json={"token": TOKEN})
    assert refused.status_code == 403
    job_id = any_api.core.submit()
    for method, path in (("POST", f"/v1/jobs/{job_id}/cancel"), ("DELETE", f"/v1/jobs/{job_id}")):
        assert _call(any_api, method, path, cookie).status_code == 403, path
    asked = _call(any_api, "OPTIONS", "/v1/jobs", cookie, Origin="http://elsewhere.example")
    assert "Access-Control-Allow-Origin" not in asked.headers
    answer = _call(any_api, "POST", f"/v1/jobs/{job_id}/cancel", cookie, **OWN_PAGE)
    assert answer.status_code == 202


def test_signing_out_ends_the_sign_in(any_api: Api, cookie: str) -> None:
    answer = _call(any_api, "DELETE", "/v1/session", cookie, **OWN_PAGE)
    assert answer.status_code == 204
    assert f'{SIGN_IN_COOKIE}=""' in answer.headers["Set-Cookie"]
    assert _call(any_api, "GET", "/v1/session", cookie).status_code == 401


def test_a_sign_in_expires_and_its_row_goes_with_the_next_one(any_api: Api, cookie: str) -> None:
    any_api.core.clock.now += sign_ins.LIFETIME - timedelta(seconds=1)
    assert _call(any_api, "GET", "/v1/session", cookie).status_code == 200
    any_api.core.clock.now += timedelta(seconds=1)
    assert _call(any_api, "GET", "/v1/session", cookie).status_code == 401
    _sign_in(any_api)
    with any_api.core.database.reading() as session:
        assert session.query(SignInRow).count() == 1


def _rotate(api: Api) -> None:
    (token,) = api.get("/v1/tokens?user=ann").json()["tokens"]
    assert api.post(f"/v1/tokens/{token['id']}/rotate").status_code == 200


def _revoke(api: Api) -> None:
    (token,) = api.get("/v1/tokens?user=ann").json()["tokens"]
    assert api.call("DELETE", f"/v1/tokens/{token['id']}").status_code == 204


def _remove(api: Api) -> None:
    assert api.call("DELETE", "/v1/people/ann").status_code == 204


@pytest.mark.parametrize("end", [_rotate, _revoke, _remove])
def test_a_sign_in_ends_with_its_token_and_its_person(
    any_api: Api, end: Callable[[Api], None]
) -> None:
    cookie = _cookie_of(_sign_in(any_api, any_api.add_person("ann")))
    assert _call(any_api, "GET", "/v1/session", cookie).json()["user"] == "ann"
    end(any_api)
    assert _call(any_api, "GET", "/v1/session", cookie).status_code == 401


def test_a_token_in_the_header_counts_and_not_the_cookie(any_api: Api, cookie: str) -> None:
    headers = {"Authorization": f"Bearer {'x' * 43}"}
    assert _call(any_api, "GET", "/v1/session", cookie, **headers).status_code == 401


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_sign_in_may_have_16_kib_since_it_needs_no_token(api: Api, is_chunked: bool) -> None:
    largest = json.dumps({"token": TOKEN}).encode().ljust(2**14)
    for body, status, code in ((largest, 200, None), (largest + b" ", 413, "body-too-large")):
        answer = api.call(
            "POST",
            "/v1/session",
            token=None,
            content=iter([body]) if is_chunked else body,
            headers=OWN_PAGE | {"Content-Type": "application/json", "Connection": "close"},
        )
        assert (answer.status_code, answer.json().get("code")) == (status, code)
    api.http.cookies.clear()
