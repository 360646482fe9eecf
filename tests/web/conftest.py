"""The built dashboard in Chromium, against an API on its own port."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import ConsoleMessage, Page, expect

from api import dashboard
from tests.support.api import TOKEN, Api, serving_new


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of the machine's Chromium; installed where it is missing and root may do so."""
    found = shutil.which("chromium")
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        packages = ("chromium", "fonts-dejavu-core")
        for command in (("apt-get", "update"), ("apt-get", "install", "--yes", *packages)):
            subprocess.run(command, check=False, stdout=subprocess.DEVNULL)
        found = shutil.which("chromium")
    if found is None:
        pytest.skip("Chromium is not installed: apt-get install chromium fonts-dejavu-core")
    return found


@pytest.fixture(scope="session")
def browser_type_launch_args(chromium: str) -> dict[str, Any]:
    return {
        "executable_path": chromium,
        # Chromium's sandbox refuses to run as root, as which containers run the tests.
        "args": ["--no-sandbox", "--disable-dev-shm-usage"],
    }


@pytest.fixture(scope="session")
def _api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    if not dashboard.is_built():
        pytest.skip("the dashboard is not built: run `make dashboard`")
    path = tmp_path_factory.mktemp("web")
    with serving_new(f"sqlite:///{path / 'api.db'}", path) as served:
        yield served


@pytest.fixture(scope="session")
def base_url(_api: Api) -> str:
    return _api.url


@pytest.fixture
def api(_api: Api) -> Api:
    _api.empty()
    return _api


@pytest.fixture
def errors(page: Page) -> Iterator[list[str]]:
    """Errors in the page's console, of which a test may have none; 401 asks for the sign-in."""
    found: list[str] = []

    def record(message: ConsoleMessage) -> None:
        if message.type == "error" and "401 (Unauthorized)" not in message.text:
            found.append(message.text)

    page.on("pageerror", lambda error: found.append(str(error)))
    page.on("console", record)
    yield found
    assert found == []


@pytest.fixture
def signed_in(page: Page, api: Api, errors: list[str]) -> Page:
    page.goto(api.url)
    page.get_by_label("Token").fill(TOKEN)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Jobs")
    assert errors == []
    return page
