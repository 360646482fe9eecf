"""The built dashboard in Chromium, against an API on its own port."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page

from api import dashboard
from tests.support.api import TOKEN, Api, serving_new
from tests.support.browser import sign_in


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


@pytest.fixture
def signed_in(page: Page, api: Api, errors: list[str]) -> Page:
    sign_in(page, api.url, TOKEN)
    assert errors == []
    return page
