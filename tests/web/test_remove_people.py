"""How an admin removes people in a browser: their jobs stay or go by choice."""

import pytest
from playwright.sync_api import Dialog, Page, expect

from tests.support.api import Api
from tests.support.core import cancelled

pytestmark = pytest.mark.browser


def test_the_jobs_of_a_removed_person_stay_or_go_by_choice(signed_in: Page, api: Api) -> None:
    kept, deleted = (cancelled(api.core, user=name) for name in ("ann", "ben"))
    for name in ("ann", "ben"):
        api.add_person(name)
    questions: list[str] = []

    def accept(dialog: Dialog) -> None:
        questions.append(dialog.message)
        dialog.accept()

    signed_in.on("dialog", accept)
    signed_in.goto(f"{api.url}/people")
    people = signed_in.get_by_role("region", name="People")
    for button, name in (("Remove ann", "ann"), ("Remove with jobs of ben", "ben")):
        people.get_by_role("button", name=button).click()
        expect(people.get_by_role("row", name=name)).to_have_count(0)
    assert "jobs, searches and studies stay" in questions[0]
    assert "are deleted, with their weights" in questions[1]
    assert [job["id"] for job in api.get("/v1/jobs").json()["jobs"]] == [kept]
    assert api.get(f"/v1/jobs/{deleted}").status_code == 404
