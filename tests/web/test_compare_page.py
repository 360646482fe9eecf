"""Jobs compared in a browser: means over seeds, differences, exports."""

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from service.specs.protocol import MetricPoint, Progress, TrainingResult
from tests.support.api import Api
from tests.support.browser import assert_accessible
from tests.support.core import job_id_of

pytestmark = pytest.mark.browser


def _train(api: Api, *, error: float, **spec: Any) -> str:
    core = api.core
    running = core.run(**spec)
    points = [
        MetricPoint(
            series=series,
            iteration=iteration,
            value=error,
            seconds=float(iteration),
            at=core.clock.now,
        )
        for iteration in (10, 20, 30)
        for series in ("train/error", "test/error", "train/loss", "test/loss")
    ]
    progress = Progress(iteration=30, iterations=30, images_per_second=900.0)
    core.report(running.attempt_id, 2, metrics=points, progress=progress)
    result = TrainingResult(train_error=error, test_error=error, training_seconds=30.0)
    core.finish(running.attempt_id, result=result)
    core.release(running)
    return job_id_of(running)


@pytest.fixture
def ids(api: Api) -> list[str]:
    """Two seeds of a residual network, and a plain one."""
    return [
        _train(api, error=8.0, seed=0),
        _train(api, error=10.0, seed=1),
        _train(api, error=15.0, shortcut="none"),
    ]


@pytest.fixture
def compared(signed_in: Page, ids: list[str]) -> Page:
    finished = signed_in.get_by_role("region", name="Finished jobs")
    expect(finished.locator("a.row")).to_have_count(len(ids))
    signed_in.get_by_label("Select all: Finished jobs").check()
    signed_in.get_by_role("button", name="Compare").click()
    expect(signed_in.get_by_role("heading", level=1)).to_have_text("Compare")
    return signed_in


def test_seeds_are_one_line_with_their_mean(compared: Page) -> None:
    image = compared.get_by_role("figure", name="Error, %").get_by_role("img")
    expect(image).to_have_attribute("aria-label", re.compile(r"resnet-8-A \(mean of 2\) test 9"))
    row = compared.get_by_role("region", name="Results").get_by_role("row", name="resnet-8-A")
    expect(row).to_contain_text("9.00 ± 1.41 (n 2)")
    expect(row.get_by_role("link")).to_have_text(["seed 0", "seed 1"])
    assert_accessible(compared)
    compared.get_by_label("Mean over seeds").uncheck()
    expect(image).to_have_attribute("aria-label", re.compile("resnet-8-A, seed 1 test 10"))
    expect(compared).to_have_url(re.compile("group=none"))


def test_only_fields_that_differ_are_listed(compared: Page) -> None:
    fields = compared.get_by_role("region", name="Differences").get_by_role("rowheader")
    expect(fields).to_have_text(["shortcut"])
    # The curves of the group under the pointer come forward: the others leave the legend.
    legend = compared.get_by_role("figure", name="Error, %").get_by_role("listitem")
    expect(legend.filter(has_text="resnet-8-A")).to_have_count(2)
    compared.get_by_role("region", name="Differences").get_by_role("cell", name="none").hover()
    expect(legend.filter(has_text="resnet-8-A")).to_have_count(0)
    expect(legend.filter(has_text="plain-8")).to_have_count(2)


def test_a_removed_group_is_gone_from_the_address(compared: Page, ids: list[str]) -> None:
    compared.get_by_role("button", name="Remove plain-8").click()
    expect(compared.get_by_text("2 jobs")).to_be_visible()
    expect(compared).not_to_have_url(re.compile(ids[2]))


def test_a_figure_is_exported_with_the_jobs_that_it_was_made_of(
    compared: Page, ids: list[str]
) -> None:
    for title, name, start in (
        ("SVG", "error.svg", b"<svg"),
        ("PNG", "error.png", b"\x89PNG"),
        ("CSV", "error.csv", b"# ["),
        ("LaTeX", "error.tex", b"% ["),
    ):
        button = compared.get_by_role("button", name=f"{title} of Error, %", exact=True)
        with compared.expect_download() as download:
            button.click()
        assert download.value.suggested_filename == name
        content = Path(download.value.path()).read_bytes()
        assert content.startswith(start)
        assert all(job_id.encode() in content for job_id in ids), title


def test_without_jobs_the_page_says_how_to_choose_some(signed_in: Page) -> None:
    signed_in.get_by_role("link", name="Compare").click()
    expect(signed_in.get_by_text("No jobs are chosen.")).to_be_visible()
    assert_accessible(signed_in)
