"""What holds for every page: its headings, its requests, the keyboard."""

from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, expect

from tests.support.api import Api
from tests.support.browser import assert_accessible

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("path", ["/", "/submit", "/compare", "/searches", "/cluster", "/settings"])
def test_a_page_has_one_heading_and_loads_nothing_from_elsewhere(
    signed_in: Page, api: Api, path: str
) -> None:
    hosts = set()
    signed_in.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
    signed_in.goto(f"{api.url}{path}")
    expect(signed_in.get_by_role("heading", level=1)).to_have_count(1)
    expect(signed_in.locator("html")).to_have_attribute("lang", "en")
    assert_accessible(signed_in)
    assert hosts == {urlsplit(api.url).netloc}


def test_the_theme_is_chosen_and_kept(signed_in: Page) -> None:
    signed_in.emulate_media(color_scheme="light")
    signed_in.get_by_role("button", name="Dark").click()
    signed_in.reload()
    expect(signed_in.locator("html")).to_have_attribute("data-theme", "dark")
    expect(signed_in.get_by_role("button", name="Light")).to_be_visible()


def test_links_go_back_and_forth_and_move_the_focus_to_the_page(signed_in: Page) -> None:
    signed_in.get_by_role("link", name="Cluster").press("Enter")
    expect(signed_in.get_by_role("heading", level=1)).to_have_text("Cluster")
    expect(signed_in.locator("main")).to_be_focused()
    signed_in.go_back()
    expect(signed_in.get_by_role("heading", level=1)).to_have_text("Jobs")
    signed_in.go_forward()
    expect(signed_in.get_by_role("heading", level=1)).to_have_text("Cluster")
