"""Links that show a page without an account, in a browser."""

import re

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.api import Api
from tests.support.browser import assert_accessible
from tests.web.test_compare_page import _train

pytestmark = pytest.mark.browser


def _create_link(page: Page) -> str:
    page.get_by_text("Share", exact=True).click()
    page.get_by_role("button", name="Create a link").click()
    return page.get_by_role("status").get_by_role("code").inner_text()


def test_a_comparison_is_shared_opened_elsewhere_and_revoked(
    signed_in: Page, api: Api, browser: Browser
) -> None:
    ids = [_train(api, error=8.0, name="one"), _train(api, error=9.0, name="two", shortcut="none")]
    signed_in.goto(f"{api.url}/compare?job={ids[0]}&job={ids[1]}")
    link = _create_link(signed_in)
    assert_accessible(signed_in)
    context = browser.new_context()
    reader = context.new_page()
    errors: list[str] = []
    reader.on("pageerror", lambda error: errors.append(str(error)))
    reader.goto(link)
    expect(reader.get_by_role("heading", level=1)).to_have_text("Compare")
    results = reader.get_by_role("region", name="Results")
    expect(results.get_by_role("row", name="plain-8")).to_contain_text("9.00")
    expect(reader.get_by_text("Share", exact=True)).to_have_count(0)
    expect(reader.get_by_role("navigation").get_by_role("link")).to_have_text(["Shared"])
    assert_accessible(reader)
    results.get_by_role("link").first.click()
    expect(reader.get_by_role("figure", name="Error, %")).to_be_visible()
    expect(reader.get_by_role("alert")).to_have_count(0)
    expect(reader.get_by_role("heading", name="Log")).to_have_count(0)
    assert errors == []
    signed_in.goto(f"{api.url}/settings")
    links = signed_in.get_by_role("region", name="Shared links")
    signed_in.once("dialog", lambda dialog: dialog.accept())
    links.get_by_role("button", name="Revoke 2 jobs").click()
    expect(links).to_have_count(0)
    reader.goto(link)
    expect(reader.get_by_text("has expired or was revoked")).to_be_visible()
    context.close()


def test_who_is_signed_in_is_asked_before_a_link_ends_that(signed_in: Page, api: Api) -> None:
    job_id = _train(api, error=8.0)
    signed_in.goto(f"{api.url}/jobs/{job_id}")
    link = _create_link(signed_in)
    signed_in.goto("about:blank")
    signed_in.goto(link)
    expect(signed_in.get_by_text("You are signed in as admin.")).to_be_visible()
    assert_accessible(signed_in)
    signed_in.get_by_role("button", name="Open the link").click()
    expect(signed_in).to_have_url(re.compile(f"/jobs/{job_id}$"))
    expect(signed_in.get_by_text(re.compile("by admin, until"))).to_be_visible()
