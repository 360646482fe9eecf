"""People, quotas and the audit log in a browser, as an admin."""

import pytest
from playwright.sync_api import Page, expect

from service.states import Role
from tests.support.api import Api
from tests.support.browser import assert_accessible
from tests.web.conftest import sign_in

pytestmark = pytest.mark.browser


def test_an_admin_adds_a_person_with_a_token_and_changes_role_and_group(
    signed_in: Page, api: Api
) -> None:
    signed_in.get_by_role("link", name="People").click()
    people = signed_in.get_by_role("region", name="People")
    signed_in.get_by_label("Name", exact=True).fill("ann")
    signed_in.get_by_label("Group", exact=True).fill("lab")
    signed_in.get_by_role("button", name="Add a person").click()
    expect(people.get_by_role("row", name="ann")).to_be_visible()
    heading = signed_in.get_by_role("heading", name="Tokens of ann")
    tokens = signed_in.locator("section.section", has=heading)
    tokens.get_by_label("Label").fill("laptop")
    tokens.get_by_role("button", name="Create a token").click()
    secret = tokens.get_by_role("status").locator("code").inner_text()
    assert api.get("/v1/session", token=secret).json()["user"] == "ann"

    group = people.get_by_label("Group of ann")
    group.fill("course")
    with signed_in.expect_response("**/v1/people"):
        people.get_by_label("Role of ann").select_option("viewer")
    expect(people.get_by_label("Role of ann")).to_have_value("viewer")
    expect(group).to_have_value("course")  # typed, not saved, and the list was read again
    with signed_in.expect_response("**/v1/people/ann"):
        group.blur()
    audit = signed_in.get_by_role("region", name="Audit log")
    signed_in.reload()
    expect(people.get_by_label("Group of ann")).to_have_value("course")
    expect(people.get_by_label("Role of ann")).to_have_value("viewer")
    expect(audit.get_by_role("row", name="role changed ann role viewer")).to_be_visible()
    assert_accessible(signed_in)

    signed_in.once("dialog", lambda dialog: dialog.accept())
    people.get_by_role("button", name="Remove ann").click()
    expect(people.get_by_role("row", name="ann")).to_have_count(0)


def test_an_admin_sets_and_removes_a_quota(signed_in: Page, api: Api) -> None:
    signed_in.goto(f"{api.url}/people")
    expect(signed_in.get_by_text("No quotas.")).to_be_visible()
    quotas = signed_in.get_by_role("region", name="Quotas")
    signed_in.get_by_label("Of", exact=True).fill("user:ann")
    signed_in.get_by_label("Running jobs").fill("2")
    signed_in.get_by_label("Core-hours a week").fill("1.5")
    signed_in.get_by_role("button", name="Set all limits").click()
    row = quotas.get_by_role("row", name="user:ann")
    expect(row.get_by_role("cell")).to_contain_text(["2", "1.5"])
    signed_in.once("dialog", lambda dialog: dialog.accept())
    row.get_by_role("button", name="Remove").click()
    expect(row).to_have_count(0)


def test_a_member_is_not_offered_the_page_and_is_refused_its_address(
    page: Page, api: Api, errors: list[str]
) -> None:
    sign_in(page, api, api.add_person("vera", Role.MEMBER))
    page.goto(api.url)
    expect(page.get_by_role("link", name="Settings")).to_be_visible()
    expect(page.get_by_role("link", name="People")).to_have_count(0)
    page.goto(f"{api.url}/people")
    expect(page.get_by_text("admin").first).to_be_visible()
    errors.clear()  # Chromium reports the refused URLs.
