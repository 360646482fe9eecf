"""Analyses in a browser: started on the page of a job, with a page and a figure of their own."""

import re

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.support.analyses import finish_analysis, finish_training
from tests.support.api import Api
from tests.support.browser import assert_accessible

pytestmark = pytest.mark.browser


def _is_drawn(figure: Locator) -> bool:
    script = "async image => { await image.decode(); return image.naturalWidth > 0 }"
    return bool(figure.evaluate(script))


def test_an_analysis_is_started_on_the_page_of_a_job_and_shown_on_both_pages(
    signed_in: Page, api: Api
) -> None:
    source = finish_training(api.core, name="trained")
    signed_in.goto(f"{api.url}/jobs/{source}")
    section = signed_in.get_by_role("region", name="Analyses")
    section.get_by_label("Kind").select_option("layer-responses")
    section.get_by_label("Checkpoint").select_option("newest")
    section.get_by_role("button", name="Analyse").click()
    heading = signed_in.get_by_role("heading", level=1)
    expect(heading).to_have_text("layer responses of resnet-8-A on digits")
    result = signed_in.get_by_role("region", name="Result")
    expect(result.get_by_text("No result yet.")).to_be_visible()
    finish_analysis(api.core)
    figure = result.get_by_role("img", name="Layer responses")
    expect(figure).to_be_visible()
    assert _is_drawn(figure)
    expect(result.get_by_text("responses to 360 test images of digits")).to_be_visible()
    result.get_by_text("layers (3 rows)").click()
    expect(result.get_by_role("row", name="layer1.0.conv1")).to_contain_text("3")
    expect(signed_in.get_by_role("region", name="Curves")).to_have_count(0)
    assert_accessible(signed_in)
    signed_in.get_by_role("link", name="The analysed job").click()
    expect(heading).to_have_text("trained")
    row = section.get_by_role("row", name="Layer responses")
    expect(row).to_contain_text("succeeded200layers 3, mean std 2")
    assert _is_drawn(section.get_by_role("img", name="Layer responses"))
    assert_accessible(signed_in)


def test_the_list_of_a_job_follows_its_analyses(signed_in: Page, api: Api) -> None:
    source = finish_training(api.core)
    signed_in.goto(f"{api.url}/jobs/{source}")
    section = signed_in.get_by_role("region", name="Analyses")
    expect(section.get_by_role("button", name="Analyse")).to_be_visible()
    body = {"job": source, "analysis": {"kind": "layer-responses"}}
    assert api.post("/v1/analyses", body).status_code == 201
    row = section.get_by_role("row", name="Layer responses")
    expect(row).to_contain_text("queued")
    finish_analysis(api.core)
    expect(row).to_contain_text("succeeded")


def test_an_analysis_that_is_refused_says_why(signed_in: Page, api: Api, errors: list[str]) -> None:
    source = finish_training(api.core, depth=8, shortcut="none")
    signed_in.goto(f"{api.url}/jobs/{source}")
    section = signed_in.get_by_role("region", name="Analyses")
    section.get_by_label("Kind").select_option("path-gradients")
    section.get_by_role("button", name="Analyse").click()
    expect(section.get_by_text(re.compile("needs a network with shortcuts"))).to_be_visible()
    errors.clear()  # the browser logs the status 422
