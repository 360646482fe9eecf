"""The form of a job in a browser: the plan as one types, errors, submission, cloning."""

import re

import pytest
from playwright.sync_api import Page, expect

from tests.support.api import Api
from tests.support.browser import assert_accessible

pytestmark = pytest.mark.browser


@pytest.fixture
def form(signed_in: Page, api: Api) -> Page:
    api.core.record_cluster(cpus=4)
    signed_in.get_by_role("link", name="Submit a job").click()
    expect(signed_in.get_by_role("heading", level=1)).to_have_text("Submit a job")
    return signed_in


def test_the_plan_follows_what_is_typed(form: Page) -> None:
    plan = form.get_by_label("Plan", exact=True)
    expect(plan).to_contain_text("resnet-20-A")
    expect(plan).to_contain_text("270 k")
    form.get_by_label("Depth").fill("56")
    form.get_by_label("Shortcut").select_option("none")
    expect(plan).to_contain_text("plain-56")
    assert_accessible(form)


def test_an_error_is_at_its_field(form: Page, errors: list[str]) -> None:
    depth = form.get_by_label("Depth")
    depth.fill("33")
    expect(form.get_by_text("nearest: 32 and 38")).to_be_visible()
    expect(depth).to_have_attribute("aria-invalid", "true")
    assert_accessible(form)
    depth.fill("32")
    expect(form.get_by_text("nearest: 32 and 38")).to_be_hidden()
    # Chromium reports the refused plan.
    errors.clear()


def test_several_seeds_are_a_batch(form: Page, api: Api) -> None:
    form.get_by_label("Seeds").fill("0-2")
    form.get_by_role("button", name="Submit 3 jobs").click()
    expect(form.get_by_role("heading", level=1)).to_have_text("Jobs")
    jobs = api.get("/v1/jobs").json()["jobs"]
    assert sorted(job["spec"]["seed"] for job in jobs) == [0, 1, 2]


def test_a_clone_has_all_fields_of_its_source(form: Page, api: Api) -> None:
    recipe = {"learning_rate": 0.07, "iterations": 70}
    source = api.core.submit(
        seed=5, name="source", activation_order="full-preactivation", recipe=recipe, tags=["a", "b"]
    )
    form.goto(f"{api.url}/submit?from={source}")
    expect(form.get_by_label("Iterations")).to_have_value("70")
    form.get_by_label("Name").fill("copy")
    form.get_by_role("button", name="Submit").click()
    expect(form).to_have_url(re.compile("/jobs/"))
    by_name = {job["name"]: job["spec"] for job in api.get("/v1/jobs").json()["jobs"]}
    assert by_name["copy"] == by_name["source"] | {"name": "copy"}
