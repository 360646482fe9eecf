"""The cluster and the settings in a browser."""

import pytest
from playwright.sync_api import Page, expect

from service.resources import ResourceBundle
from tests.support.api import Api
from tests.support.browser import assert_accessible

pytestmark = pytest.mark.browser


def test_the_cluster_shows_who_holds_what_and_why_the_next_job_waits(
    signed_in: Page, api: Api
) -> None:
    api.core.run(name="holder")
    nodes = [ResourceBundle(cpus=cpus, gpus=0) for cpus in (4, 2)]
    api.core.record_cluster(cpus=1, nodes=nodes)
    api.core.submit(name="waits")
    signed_in.get_by_role("link", name="Cluster").click()
    expect(signed_in.get_by_text("1 of 1")).to_be_visible()
    holders = signed_in.get_by_role("region", name="Holders")
    expect(holders.get_by_role("row", name="holder")).to_contain_text("ann")
    nodes_table = signed_in.get_by_role("region", name="Nodes")
    expect(nodes_table.get_by_role("row")).to_have_text(["NodeCPUsGPUs", "120", "240"])
    head = signed_in.get_by_role("region", name="Head of the queue")
    expect(head.get_by_role("row", name="waits queued")).to_contain_text("CPU")
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
