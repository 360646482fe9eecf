"""The built dashboard in Chromium, against an API on its own port."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from api import dashboard
from api.auth import SIGN_IN_COOKIE
from tests.support.api import TOKEN, Api, serving_new


@pytest.fixture(scope="session")
def _api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    if not dashboard.is_built():
        pytest.skip("the dashboard is not built: run `make dashboard`")
    path = tmp_path_factory.mktemp("web")
    with serving_new(f"sqlite:///{path / 'api.db'}", path) as served:
        yield served


@pytest.fixture
def api(_api: Api) -> Api:
    _api.empty()
    return _api


def sign_in(page: Page, api: Api, token: str) -> None:
    """By the cookie of a sign-in, which takes less time than the form."""
    headers = {"X-Requested-With": "tests"}
    answer = api.post("/v1/session", {"token": token}, token=None, headers=headers)
    value = answer.cookies[SIGN_IN_COOKIE]
    api.http.cookies.clear()
    page.context.add_cookies([{"name": SIGN_IN_COOKIE, "value": value, "url": api.url}])


@pytest.fixture
def signed_in(page: Page, api: Api, errors: list[str]) -> Page:
    sign_in(page, api, TOKEN)
    page.goto(api.url)
    expect(page.get_by_role("heading", level=1)).to_have_text("Jobs")
    assert errors == []
    return page
