"""The model registry in a browser: registered from the job's page, promoted, downloaded."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from service.states import CheckpointPart
from tests.support.analyses import finish_training
from tests.support.api import Api
from tests.support.browser import assert_accessible
from tests.support.predictions import finish_with_parts

pytestmark = pytest.mark.browser

NAME = "resnet-8/course"


def test_weights_are_registered_from_their_job_promoted_and_downloaded(
    signed_in: Page, api: Api, errors: list[str]
) -> None:
    first = {"name": NAME, "job": finish_training(api.core), "checkpoint": "best"}
    model_id = api.post("/v1/models", first).json()["model_id"]
    weights = b"of the second version"
    job_id = finish_with_parts(api, api.core.run(), {CheckpointPart.WEIGHTS: weights})
    signed_in.goto(f"{api.url}/jobs/{job_id}")
    signed_in.get_by_role("link", name="Register as a model").click()
    signed_in.get_by_label("Name").fill(NAME)
    signed_in.get_by_label("Note").fill("cosine schedule")
    signed_in.get_by_role("button", name="Register").click()
    expect(signed_in.get_by_role("heading", level=1)).to_have_text(NAME)
    versions = signed_in.get_by_role("region", name="Versions").get_by_role("row")
    expect(versions).to_have_count(3)
    expect(versions.nth(1)).to_contain_text("cosine schedule")
    expect(versions.nth(2)).to_contain_text("3.00 %")
    signed_in.get_by_label("Alias", exact=True).fill("production")
    signed_in.get_by_label("Note").fill("6.9 % on the test set")
    signed_in.get_by_label("Note").press("Enter")
    alias = signed_in.get_by_role("row", name="production 2")
    expect(alias).to_contain_text("6.9 % on the test set")
    expect(signed_in.get_by_role("listitem").first).to_contain_text("promoted")
    # An earlier version is a rollback.
    signed_in.get_by_label("Alias", exact=True).fill("production")
    signed_in.get_by_label("Version", exact=True).select_option("1")
    signed_in.get_by_role("button", name="Promote").click()
    expect(signed_in.get_by_role("row", name="production 1")).to_be_visible()
    assert_accessible(signed_in)
    with signed_in.expect_download() as download:
        versions.nth(1).get_by_role("link", name="safetensors").click()
    assert Path(download.value.path()).read_bytes() == weights
    versions.nth(1).get_by_role("link", name=job_id).click()
    signed_in.get_by_role("link", name=f"{NAME}@2").click()
    signed_in.on("dialog", lambda dialog: dialog.accept())
    signed_in.get_by_role("button", name="Delete version 2").click()
    expect(versions).to_have_count(2)
    signed_in.get_by_role("button", name="Delete", exact=True).click()
    expect(signed_in.get_by_role("alert")).to_contain_text("production")
    errors.clear()  # Chromium reports the 409
    signed_in.get_by_role("button", name="Remove production").click()
    expect(signed_in.get_by_text("No aliases.")).to_be_visible()
    signed_in.get_by_role("button", name="Delete", exact=True).click()
    expect(signed_in).to_have_url(re.compile("/models$"))
    expect(signed_in.get_by_text("No models yet.")).to_be_visible()
    assert api.get(f"/v1/models/{model_id}").status_code == 404
