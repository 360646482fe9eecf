"""The dashboard over the complete service, with jobs that train on Ray."""

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
from playwright.sync_api import Page, expect

import resnetd
from deploy.local import LocalService
from tests.support.browser import assert_accessible, sign_in

pytestmark = [pytest.mark.ray, pytest.mark.browser, pytest.mark.slow]

JOB_MILLISECONDS = 60_000
SHORT = {"name": "quick", "iterations": 20, "evaluate_every": 10, "checkpoint_every": 20}


@pytest.fixture
def signed_in(page: Page, service: LocalService) -> Page:
    sign_in(page, service.url, service.token)
    return page


def _job(**fields: Any) -> dict[str, Any]:
    """For two workers a warm runner waits."""
    spec = {"depth": 8, "shortcut": "A", "dataset": "digits", "recipe": SHORT}
    return spec | {"resources": {"num_workers": 2}} | fields


def test_a_job_from_the_form_is_watched_through_a_restart_of_the_api_and_its_weights_load(
    signed_in: Page, service: LocalService
) -> None:
    signed_in.get_by_role("link", name="Submit a job").click()
    signed_in.get_by_label("Depth").fill("8")
    signed_in.get_by_label("Recipe").select_option("quick")
    signed_in.get_by_label("Iterations").fill("100")
    signed_in.get_by_label("Workers").fill("2")
    signed_in.get_by_role("button", name="Submit", exact=True).click()
    expect(signed_in.get_by_role("heading", level=1)).to_have_text("resnet-8-A on digits")
    curve = signed_in.get_by_role("figure", name="Loss").get_by_role("img")
    expect(curve).to_be_visible(timeout=JOB_MILLISECONDS)

    # What the training reports from now on arrives after the restart.
    service.stop_process("api", kill=True)
    outage = signed_in.get_by_text("The service does not respond.")
    expect(outage.first).to_be_visible()
    known = curve.get_attribute("aria-label")
    assert known is not None
    assert_accessible(signed_in)
    service.start_process("api")
    service.wait_for_api()
    expect(outage).to_have_count(0)
    expect(curve).not_to_have_attribute("aria-label", known, timeout=JOB_MILLISECONDS)

    signed_in.reload()
    expect(curve).to_be_visible()
    state = signed_in.locator("h1 + .state")
    expect(state).to_have_text("succeeded", timeout=JOB_MILLISECONDS)
    with signed_in.expect_download() as download:
        signed_in.get_by_role("link", name="safetensors").first.click()
    weights = safetensors.torch.load(Path(download.value.path()).read_bytes())
    assert sum(tensor.numel() for tensor in weights.values()) > 70_000


@pytest.mark.usefixtures("errors")
def test_groups_of_seeds_are_compared_while_a_search_is_followed(
    signed_in: Page, client: resnetd.Client
) -> None:
    for shortcut in ("A", "none"):
        for seed in (0, 1):
            client.submit(**_job(shortcut=shortcut, seed=seed, tags=["compared"]))
    # Its driver starts meanwhile.
    search = client.searches.submit(
        job=_job(),
        space={"recipe.learning_rate": {"loguniform": [0.01, 0.5]}},
        budget={"trials": 2, "concurrent": 2},
        name="rates",
    )
    finished = signed_in.get_by_role("region", name="Finished jobs")
    signed_in.get_by_label("Tag", exact=True).fill("compared")
    expect(finished.get_by_text("succeeded")).to_have_count(4, timeout=JOB_MILLISECONDS)
    signed_in.get_by_label("Select all: Finished jobs").check()
    signed_in.get_by_role("button", name="Compare").click()
    results = signed_in.get_by_role("region", name="Results")
    for group in ("resnet-8-A (mean of 2)", "plain-8 (mean of 2)"):
        expect(results.get_by_role("row", name=group)).to_contain_text("(n 2)")
        figure = signed_in.get_by_role("figure", name="Error, %").get_by_role("img")
        assert f"{group} test" in (figure.get_attribute("aria-label") or "")
    differences = signed_in.get_by_role("region", name="Differences")
    expect(differences.get_by_role("rowheader")).to_have_text(["shortcut"])

    signed_in.get_by_role("link", name="Searches").click()
    signed_in.get_by_role("link", name="rates").click()
    state = signed_in.locator("h1 + .state")
    expect(state).to_have_text("succeeded", timeout=JOB_MILLISECONDS)
    ranking = signed_in.get_by_role("region", name="Ranking").locator("a.row")
    trials = client.searches.trials(search.id)
    best_first = sorted(trials, key=lambda trial: trial.values["validation/error"])
    expect(ranking).to_have_text([f"trial {trial.number}" for trial in best_first])
    curves = signed_in.get_by_role("region", name="Learning curves").get_by_role("img")
    for trial in trials:
        assert f"trial {trial.number} " in (curves.get_attribute("aria-label") or "")
    expect(signed_in.get_by_role("region", name="Slices").locator("circle")).to_have_count(2)


@pytest.mark.usefixtures("errors")
def test_a_job_that_is_cancelled_in_the_page_stops_and_keeps_its_last_checkpoint(
    signed_in: Page, service: LocalService, client: resnetd.Client
) -> None:
    job = client.submit(**_job(depth=20, recipe={"name": "paper-cifar"}))
    signed_in.goto(f"{service.url}/jobs/{job.id}")
    curve = signed_in.get_by_role("figure", name="Loss")
    expect(curve).to_be_visible(timeout=JOB_MILLISECONDS)
    reached = client.jobs.get(job.id).progress
    signed_in.once("dialog", lambda dialog: dialog.accept())
    signed_in.get_by_role("button", name="Cancel").click()
    expect(signed_in.locator("h1 + .state")).to_have_text("cancelled", timeout=JOB_MILLISECONDS)
    assert client.jobs.get(job.id).reason == "cancelled"
    newest, *_ = client.jobs.checkpoints(job.id)
    assert reached is not None
    assert newest.iteration >= reached.iteration > 0
    row = signed_in.get_by_role("region", name="Checkpoints").get_by_role("row").nth(1)
    expect(row).to_contain_text(str(newest.iteration))
