"""The API stops while a page is open, and starts again."""

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from deploy.ray_head import free_ports
from tests.support.api import TOKEN, serving_new
from tests.support.browser import assert_accessible, sign_in

pytestmark = pytest.mark.browser


def test_a_page_survives_a_restart_of_the_api_and_stays_signed_in(
    page: Page, tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    url = f"sqlite:///{tmp_path / 'api.db'}"
    with serving_new(url, tmp_path, api_port=port) as api:
        api.core.submit(name="before")
        sign_in(page, api.url, TOKEN)
        expect(page.get_by_role("link", name="before")).to_be_visible()
    expect(page.get_by_text("The service does not respond.")).to_be_visible()
    # What was known stays.
    expect(page.get_by_role("link", name="before")).to_be_visible()
    assert_accessible(page)
    with serving_new(url, tmp_path, api_port=port) as api:
        api.core.submit(name="after")
        expect(page.get_by_role("link", name="after")).to_be_visible()
        expect(page.get_by_text("The service does not respond.")).to_be_hidden()
