"""Chromium, and steps in the dashboard that tests, benchmarks and pictures share."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.support.fake_api import eventually

_VIOLATIONS = {"resultTypes": ["violations"]}
# All that another color scheme changes.
_COLOR_RULES = _VIOLATIONS | {"runOnly": ["color-contrast", "link-in-text-block"]}
_SCHEMES: tuple[tuple[Literal["light", "dark"], dict[str, Any]], ...] = (
    ("light", _VIOLATIONS),
    ("dark", _COLOR_RULES),
)
_PACKAGES = ("chromium", "fonts-dejavu-core")
NO_CHROMIUM = f"Chromium is not installed: apt-get install {' '.join(_PACKAGES)}"


def find_chromium() -> str | None:
    """The path of the machine's Chromium; installed where it is missing and root may do so."""
    if shutil.which("chromium") is None and os.geteuid() == 0 and shutil.which("apt-get"):
        for command in (("apt-get", "update"), ("apt-get", "install", "--yes", *_PACKAGES)):
            subprocess.run(command, check=False, stdout=subprocess.DEVNULL)
    return shutil.which("chromium")


def launch_options(chromium: str) -> dict[str, Any]:
    return {
        "executable_path": chromium,
        # Chromium's sandbox refuses to run as root, as which containers run the tests.
        "args": ["--no-sandbox", "--disable-dev-shm-usage"],
    }


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Headless, outside of pytest. RuntimeError without Chromium."""
    chromium = find_chromium()
    if chromium is None:
        raise RuntimeError(NO_CHROMIUM)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(**launch_options(chromium))
        try:
            yield browser
        finally:
            browser.close()


def sign_in(page: Page, url: str, token: str) -> None:
    page.goto(url)
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Jobs")


def assert_accessible(page: Page) -> None:
    """No violation in either color scheme, and nothing wider than a phone's screen."""
    for scheme, options in _SCHEMES:
        page.emulate_media(color_scheme=scheme)
        violations = Axe().run(page, options=options).response["violations"]
        assert [(item["id"], item["nodes"][0]["html"]) for item in violations] == [], scheme
    size = page.viewport_size
    assert size is not None
    page.set_viewport_size({"width": 390, "height": 800})
    eventually(lambda: page.evaluate("document.documentElement.scrollWidth") <= 390)
    page.set_viewport_size(size)
