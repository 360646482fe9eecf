"""The cluster and the settings in a browser."""

import pytest
from playwright.sync_api import Page, expect

from service.resources import ResourceBundle
from service.states import Role
from tests.support.api import Api
from tests.support.browser import assert_accessible
from tests.web.conftest import sign_in

pytestmark = pytest.mark.browser


def test_the_cluster_shows_who_holds_what_and_why_the_next_job_waits(
    signed_in: Page, api: Api
) -> None:
    api.core.add_person("ann")
    api.core.run(name="holder")
    api.core.clock.advance(1800)
    nodes = [ResourceBundle(cpus=cpus, gpus=0) for cpus in (4, 2)]
    api.core.record_cluster(cpus=1, nodes=nodes)
    api.core.submit(name="waits")
    api.call("PUT", "/v1/fair-share", json={"weight": 20, "half_life_days": 7})
    signed_in.get_by_role("link", name="Cluster").click()
    expect(signed_in.get_by_text("1 of 1")).to_be_visible()
    holders = signed_in.get_by_role("region", name="Holders")
    expect(holders.get_by_role("row", name="holder")).to_contain_text("ann")
    nodes_table = signed_in.get_by_role("region", name="Nodes")
    expect(nodes_table.get_by_role("row")).to_have_text(["NodeCPUsGPUs", "120", "240"])
    head = signed_in.get_by_role("region", name="Head of the queue")
    row = head.get_by_role("row", name="waits queued")
    expect(row).to_contain_text("CPU")
    expect(row).to_contain_text("Loses 20 points for ann's 0.5 core-hours")
    expect(signed_in.get_by_role("region", name="Runners").get_by_role("link")).to_have_count(1)
    assert_accessible(signed_in)


def test_a_webhook_is_added_tested_and_deleted(signed_in: Page, errors: list[str]) -> None:
    signed_in.get_by_role("link", name="Settings").click()
    expect(signed_in.get_by_text("No webhooks.")).to_be_visible()
    url = signed_in.get_by_label("URL")
    url.fill("http://127.0.0.1/")
    signed_in.get_by_role("button", name="Add a webhook").click()
    expect(url).to_have_attribute("aria-invalid", "true")
    # Chromium reports the refused URL.
    errors.clear()
    url.fill("https://example.org/hook")
    signed_in.get_by_role("button", name="Add a webhook").click()
    expect(signed_in.get_by_text("it is not shown again")).to_be_visible()
    signed_in.get_by_role("button", name="Send a test").click()
    signed_in.get_by_text("Deliveries", exact=True).click()
    deliveries = signed_in.get_by_role("region", name="Deliveries")
    expect(deliveries.get_by_role("row", name="pending")).to_be_visible()
    assert_accessible(signed_in)
    signed_in.once("dialog", lambda dialog: dialog.accept())
    signed_in.get_by_role("button", name="Delete").click()
    expect(signed_in.get_by_text("No webhooks.")).to_be_visible()


def test_an_alert_is_added_tested_and_deleted(signed_in: Page, api: Api, errors: list[str]) -> None:
    signed_in.goto(f"{api.url}/settings")
    alerts = signed_in.get_by_role("region", name="Alerts")
    address, add = alerts.get_by_label("Address"), alerts.get_by_role("button", name="Add an alert")
    address.fill("ann@example.org")
    add.click()
    # No SMTP server is set.
    expect(address).to_have_attribute("aria-invalid", "true")
    errors.clear()
    alerts.get_by_label("Notify by").select_option("slack")
    address.fill("https://example.org/x")
    alerts.get_by_label("no progress").check()
    add.click()
    expect(alerts.get_by_text("failed, silent")).to_be_visible()
    alerts.get_by_role("button", name="Send a test").click()
    alerts.get_by_text("Deliveries", exact=True).click()
    expect(alerts.get_by_role("row", name="alert.test pending")).to_be_visible()
    assert_accessible(signed_in)
    signed_in.once("dialog", lambda dialog: dialog.accept())
    alerts.get_by_role("button", name="Delete").click()
    expect(alerts.get_by_text("No alerts.")).to_be_visible()


def test_a_token_is_created_shown_once_and_revoked(signed_in: Page, api: Api) -> None:
    signed_in.goto(f"{api.url}/settings")
    expect(signed_in.get_by_text("Signed in as admin, admin.")).to_be_visible()
    signed_in.get_by_label("Label").fill("laptop")
    signed_in.get_by_label("Scope").select_option("read")
    signed_in.get_by_label("Days").fill("30")
    signed_in.get_by_role("button", name="Create a token").click()
    secret = signed_in.get_by_role("status").get_by_role("code").inner_text()
    found = api.get("/v1/session", token=secret).json()
    assert (found["scope"], found["expires_at"] is not None) == ("read", True)
    assert_accessible(signed_in)
    row = signed_in.get_by_role("region", name="Tokens").get_by_role("row", name="laptop")
    signed_in.once("dialog", lambda dialog: dialog.accept())
    row.get_by_role("button", name="Revoke").click()
    expect(row).to_have_count(0)
    assert api.get("/v1/session", token=secret).status_code == 401


def test_what_a_role_does_not_permit_is_not_offered(
    page: Page, api: Api, errors: list[str]
) -> None:
    own, other = (api.core.submit(user=user) for user in ("ann", "bob"))
    offered = {}
    for name, role in (("ann", Role.MEMBER), ("vera", Role.VIEWER)):
        sign_in(page, api, api.add_person(name, role))
        for job_id in (own, other):
            page.goto(f"{api.url}/jobs/{job_id}")
            expect(page.get_by_role("link", name="Compare").last).to_be_visible()
            expect(page.get_by_role("region", name="Labels")).to_be_attached()
            wanted = ("Cancel", "Edit name, tags and note", "Clone and change")
            buttons = [page.get_by_text(text, exact=True).count() for text in wanted]
            offered[name, job_id] = buttons
    assert offered == {
        ("ann", own): [1, 1, 1],
        ("ann", other): [0, 0, 1],
        ("vera", own): [0, 0, 0],
        ("vera", other): [0, 0, 0],
    }
    page.goto(f"{api.url}/settings")
    expect(page.get_by_text("A viewer reads.")).to_be_visible()
    expect(page.get_by_role("button", name="Add a webhook")).to_have_count(0)
    expect(page.get_by_role("button", name="Create a token")).to_be_visible()
    assert errors == []
