"""Studies in a browser: submitted in a form, results beside the paper's, files."""

import re

import pytest
from playwright.sync_api import Page, expect

from tests.support.api import Api
from tests.support.browser import assert_accessible
from tests.support.studies import definition, finish_next

pytestmark = pytest.mark.browser


def test_a_study_is_submitted_and_reported_as_its_jobs_finish(signed_in: Page, api: Api) -> None:
    signed_in.get_by_role("link", name="Studies").click()
    expect(signed_in.get_by_text("No studies yet.")).to_be_visible()
    signed_in.get_by_label("Study", exact=True).select_option("fig1")
    signed_in.get_by_label("Seeds").fill("1")
    signed_in.get_by_role("button", name="Submit").click()
    expect(signed_in).to_have_url(re.compile("/studies/[0-9a-z]{16}$"))
    expect(signed_in.get_by_role("heading", level=1)).to_have_text(
        "Figure 1: deeper plain networks are worse"
    )
    expect(signed_in.get_by_text("No job has finished yet.")).to_be_visible()
    api.core.record_cluster(cpus=8)
    finish_next(api.core, 9.5)
    row = signed_in.get_by_role("row", name="plain-20")
    expect(row).to_contain_text("9.50 (n = 1)")
    finish_next(api.core, 12.0)
    expect(signed_in.get_by_text("larger by 2.50 points with one seed")).to_have_count(2)
    figure = signed_in.get_by_role("img", name="Figure of the study")
    expect(figure).to_be_visible()
    assert figure.evaluate("async image => { await image.decode(); return image.naturalWidth }") > 0
    assert_accessible(signed_in)
    with signed_in.expect_download() as download:
        signed_in.get_by_role("link", name="CSV").click()
    assert download.value.suggested_filename.endswith(".csv")
    signed_in.get_by_role("link", name="Studies").click()
    expect(signed_in.get_by_role("link", name="Figure 1")).to_be_visible()
    assert_accessible(signed_in)


def test_results_are_beside_the_papers_with_a_verdict(signed_in: Page, api: Api) -> None:
    body = {"definition": definition(), "scale": "paper"}
    study = api.post("/v1/studies", body).json()
    api.core.record_cluster(cpus=8)
    for error in (9.0, 8.0, 9.5, 8.5, 10.0, 9.0):
        finish_next(api.core, error)
    signed_in.goto(f"{api.url}/studies/{study['id']}")
    row = signed_in.get_by_role("row", name="plain-8")
    expect(row).to_contain_text("9.50 ± 0.50 (n = 3)9.00 reproduced, +0.50")
    expect(signed_in.get_by_role("row", name="Maxout")).to_contain_text("9.38")
    row.get_by_role("link").first.click()
    expect(signed_in).to_have_url(re.compile("/jobs/"))
