"""The list of jobs in a browser: signing in, what it shows."""

import pytest
from playwright.sync_api import Page, expect

from tests.support.api import Api

pytestmark = pytest.mark.browser


def test_a_wrong_token_is_refused_with_the_reason_at_its_field(page: Page, api: Api) -> None:
    page.goto(api.url)
    page.get_by_label("Token").fill("wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_have_text("The service does not know this token.")


def test_the_list_appears_after_the_sign_in_and_survives_a_reload(
    signed_in: Page, api: Api
) -> None:
    expect(signed_in.get_by_text("No jobs yet.")).to_be_visible()
    api.core.submit(name="first job")
    expect(signed_in.get_by_role("cell", name="first job")).to_be_visible()
    signed_in.reload()
    expect(signed_in.get_by_role("cell", name="first job")).to_be_visible()


def test_signing_out_leads_back_to_the_form(signed_in: Page) -> None:
    signed_in.get_by_role("button", name="Sign out").click()
    expect(signed_in.get_by_label("Token")).to_be_visible()
    signed_in.reload()
    expect(signed_in.get_by_label("Token")).to_be_visible()
