"""Pages as files, opened from the disk in a browser without a network."""

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

import resnetd
from tests.support.api import TOKEN, Api
from tests.support.browser import assert_accessible
from tests.support.studies import submit_study
from tests.web.test_compare_page import _train

pytestmark = pytest.mark.browser


def _open(page: Page, api: Api, path: str, directory: Path) -> list[str]:
    """Opens the exported file; returns the addresses that it requests, which stay empty."""
    answer = api.get(path)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Disposition"].startswith("attachment")
    file = directory / "export.html"
    file.write_bytes(answer.content)
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    page.goto(file.as_uri())
    return requested


def test_a_job_in_a_file_has_its_curves_spec_and_results(
    page: Page, api: Api, errors: list[str], tmp_path: Path
) -> None:
    job_id = _train(api, error=8.25, name="</script> & co")
    requested = _open(page, api, f"/v1/jobs/{job_id}/export", tmp_path)
    expect(page.get_by_role("heading", level=1)).to_have_text("</script> & co")
    expect(page.get_by_text("8.25 %").first).to_be_visible()
    chart = page.get_by_role("figure", name="Error, %")
    chart.get_by_text("Values").click()
    expect(chart.get_by_role("row").nth(3)).to_contain_text("8.25")
    page.get_by_label("Axis").select_option("seconds")
    expect(page.get_by_role("figure", name="Error, %").locator("canvas")).to_be_visible()
    page.get_by_role("heading", name="Spec").click()
    spec = page.get_by_role("region", name="Spec")
    expect(spec.get_by_role("row", name="dataset digits")).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)
    assert_accessible(page)
    assert len(requested) == 1, requested
    assert errors == []


def test_a_comparison_in_a_file_has_its_curves_and_its_groups(
    page: Page, api: Api, errors: list[str], tmp_path: Path
) -> None:
    job_ids = [_train(api, error=8.25, seed=1), _train(api, error=9.25, seed=2)]
    chosen = "&".join(f"job={job_id}" for job_id in job_ids)
    requested = _open(page, api, f"/v1/export?{chosen}", tmp_path)
    expect(page.get_by_role("figure", name="Error, %").locator("canvas")).to_be_visible()
    results = page.get_by_role("region", name="Results")
    expect(results.get_by_role("row", name="8.75 ± 0.71 (n 2)")).to_be_visible()
    page.get_by_label("Mean over seeds").uncheck()
    expect(results.get_by_role("row")).to_have_count(3)
    page.get_by_label("Axis").select_option("seconds")
    expect(page.get_by_role("figure", name="Error, %").locator("canvas")).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)
    assert len(requested) == 1, requested
    assert errors == []


def test_the_command_writes_the_file_of_a_job_a_study_and_a_comparison(
    api: Api, tmp_path: Path
) -> None:
    study_id, file = submit_study(api.core), tmp_path / "export.html"
    with resnetd.Client(api.url, TOKEN) as client:
        for run_id, name in ((api.core.submit(name="a job"), "a job"), (study_id, "Plain")):
            client.export(run_id, "html", file)
            assert f"<title>{name}" in file.read_text()
        client.export([api.core.submit(), api.core.submit()], "html", file)
        assert "<title>Comparison of 2 jobs" in file.read_text()
        with pytest.raises(resnetd.NotFound):
            client.export([api.core.submit(), "0" * 16], "html", file)


def test_a_study_in_a_file_has_its_report_and_its_figure(
    page: Page, api: Api, errors: list[str], tmp_path: Path
) -> None:
    study_id = submit_study(api.core)
    _train(api, error=8.25)
    requested = _open(page, api, f"/v1/studies/{study_id}/export", tmp_path)
    results = page.get_by_role("region", name="Results")
    expect(results.get_by_role("row", name="plain-8")).to_be_visible()
    expect(page.get_by_role("img", name="Figure of the study")).to_be_visible()
    assert page.evaluate("document.querySelector('img.figure').naturalWidth") > 0
    assert [url for url in requested if not url.startswith(("file:", "data:"))] == []
    assert errors == []
