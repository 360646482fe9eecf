"""The dashboard over the complete service: from the form to weights."""

from pathlib import Path

import pytest
import safetensors.torch
from playwright.sync_api import Page, expect

from deploy.local import LocalService
from tests.support.browser import sign_in

pytestmark = [pytest.mark.ray, pytest.mark.browser, pytest.mark.slow]


@pytest.mark.usefixtures("errors")
def test_a_job_from_the_form_is_watched_and_its_weights_load(
    page: Page, service: LocalService
) -> None:
    sign_in(page, service.url, service.token)
    page.get_by_role("link", name="Submit a job").click()
    page.get_by_label("Depth").fill("8")
    page.get_by_label("Recipe").select_option("quick")
    page.get_by_label("Iterations").fill("60")
    page.get_by_label("Workers").fill("2")
    page.get_by_role("button", name="Submit", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("resnet-8-A on digits")
    curve = page.get_by_role("figure", name="Loss").get_by_role("img")
    expect(curve).to_be_visible(timeout=60_000)
    page.reload()
    expect(curve).to_be_visible()
    expect(page.locator("h1 + .state")).to_have_text("succeeded", timeout=60_000)
    with page.expect_download() as download:
        page.get_by_role("link", name="safetensors").first.click()
    weights = safetensors.torch.load(Path(download.value.path()).read_bytes())
    assert sum(tensor.numel() for tensor in weights.values()) > 70_000
