"""What holds for every page: its headings, its requests, the keyboard."""

from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, expect

from tests.support.api import Api
from tests.support.browser import assert_accessible

pytestmark = pytest.mark.browser


PATHS = (
    "/",
    "/submit",
    "/compare",
    "/searches",
    "/studies",
    "/models",
    "/cluster",
    "/people",
    "/settings",
)


def test_a_page_has_one_heading_and_loads_nothing_from_elsewhere(signed_in: Page, api: Api) -> None:
    hosts = set()
    signed_in.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
    for path in PATHS:
        signed_in.goto(f"{api.url}{path}")
        expect(signed_in.get_by_role("heading", level=1)).to_have_count(1)
        expect(signed_in.locator("html")).to_have_attribute("lang", "en")
        assert_accessible(signed_in)
    signed_in.goto(f"{api.url}/v1/docs")
    # The first request makes the document, which takes a second of CPU.
    expect(signed_in.get_by_role("heading", name="resnetd")).to_be_visible(timeout=30_000)
    expect(signed_in.get_by_text("/v1/jobs/{job_id}/lineage")).to_be_visible()
    assert hosts == {urlsplit(api.url).netloc}


@pytest.mark.parametrize("kind", ["jobs", "searches", "studies", "models"])
def test_what_does_not_exist_says_so_and_leads_to_the_list(
    signed_in: Page, api: Api, errors: list[str], kind: str
) -> None:
    signed_in.goto(f"{api.url}/{kind}/0000000000000000")
    expect(signed_in.get_by_text("It may have been deleted.")).to_be_visible()
    assert_accessible(signed_in)
    signed_in.get_by_role("link", name=f"Go to the {kind}").click()
    expect(signed_in.get_by_role("heading", level=1)).to_have_text(kind.capitalize())
    # Chromium reports the 404 of each read.
    errors.clear()


def test_a_database_that_does_not_answer_is_reported_and_not_a_sign_in(
    signed_in: Page, errors: list[str]
) -> None:
    signed_in.route("**/v1/session", lambda route: route.fulfill(status=503, json={"detail": "no"}))
    signed_in.reload()
    expect(signed_in.get_by_role("alert")).to_contain_text("no")
    expect(signed_in.get_by_label("Token")).to_be_hidden()
    assert_accessible(signed_in)
    signed_in.unroute("**/v1/session")
    signed_in.get_by_role("button", name="Try again").click()
    expect(signed_in.get_by_role("heading", level=1)).to_have_text("Jobs")
    # Chromium reports the 503.
    errors.clear()


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
