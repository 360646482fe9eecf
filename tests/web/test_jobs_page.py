"""The list of jobs in a browser: signing in, what it shows."""

import re

import pytest
from playwright.sync_api import Locator, Page, expect
from sqlalchemy import insert, select

from service.specs.protocol import Progress
from service.storage.tables import JobRow
from tests.support.api import TOKEN, Api
from tests.support.browser import assert_accessible, sign_in
from tests.support.core import cancelled, job_id_of

pytestmark = pytest.mark.browser


def test_a_wrong_token_is_refused_with_the_reason_at_its_field(page: Page, api: Api) -> None:
    page.goto(api.url)
    page.get_by_label("Token").fill("wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_have_text("The service does not know this token.")


@pytest.mark.usefixtures("errors")
def test_the_list_appears_after_the_sign_in_and_survives_a_reload(page: Page, api: Api) -> None:
    page.goto(api.url)
    expect(page.get_by_label("Token")).to_be_visible()
    assert_accessible(page)
    sign_in(page, api.url, TOKEN)
    expect(page.get_by_text("No jobs yet.")).to_be_visible()
    api.core.submit(name="first job")
    expect(page.get_by_role("link", name="first job")).to_be_visible()
    page.reload()
    expect(page.get_by_role("link", name="first job")).to_be_visible()
    assert_accessible(page)


def test_signing_out_leads_back_to_the_form(signed_in: Page) -> None:
    signed_in.get_by_role("button", name="Sign out").click()
    expect(signed_in.get_by_label("Token")).to_be_visible()
    signed_in.reload()
    expect(signed_in.get_by_label("Token")).to_be_visible()


def _table(page: Page, label: str) -> Locator:
    return page.get_by_role("region", name=label)


def test_each_state_has_its_list_with_what_matters_there(signed_in: Page, api: Api) -> None:
    cancelled(api.core, name="stopped")
    running = api.core.run(name="trains")
    progress = Progress(iteration=150, iterations=600, images_per_second=1234.0)
    api.core.report(running.attempt_id, 2, progress=progress)
    api.core.submit(name="waits", hold=True)
    row = _table(signed_in, "Running jobs").get_by_role("row", name="trains")
    expect(row).to_contain_text("25 %")
    expect(row).to_contain_text("1,234")
    row = _table(signed_in, "Waiting jobs").get_by_role("row", name="waits")
    expect(row).to_contain_text("held by a user; release it to start")
    row = _table(signed_in, "Finished jobs").get_by_role("row", name="stopped")
    expect(row).to_contain_text("cancelled")
    api.core.cancel(job_id_of(running))
    api.core.finish(running.attempt_id)
    expect(_table(signed_in, "Finished jobs").get_by_role("row", name="trains")).to_be_visible()
    expect(_table(signed_in, "Running jobs")).to_be_hidden()
    assert_accessible(signed_in)


def test_filters_sorting_and_columns_are_in_the_address(signed_in: Page, api: Api) -> None:
    for name in ("b net", "a net", "other"):
        cancelled(api.core, name=name, tags=["x"])
    signed_in.get_by_label("Name, note or tag contains").fill("net")
    signed_in.get_by_role("button", name="Name").click()
    signed_in.locator("summary", has_text="Columns").click()
    signed_in.get_by_label("Tags").check()
    signed_in.reload()
    names = _table(signed_in, "Finished jobs").locator("a.row")
    expect(names).to_have_text(["a net", "b net"])
    expect(signed_in.get_by_role("columnheader", name="Tags")).to_be_visible()
    expect(signed_in).to_have_url(re.compile("text=net"))


def test_selected_jobs_are_cancelled_after_a_question(signed_in: Page, api: Api) -> None:
    api.core.submit(name="first")
    api.core.submit(name="second")
    signed_in.get_by_label("Select first").check()
    signed_in.once("dialog", lambda dialog: dialog.accept())
    signed_in.get_by_role("button", name="Cancel").click()
    finished = _table(signed_in, "Finished jobs")
    expect(finished.get_by_role("row", name="first")).to_contain_text("cancelled")
    expect(_table(signed_in, "Waiting jobs").locator("a.row")).to_have_text(["second"])


def test_the_keyboard_moves_selects_and_compares(signed_in: Page, api: Api) -> None:
    ids = [cancelled(api.core, name=f"job {number}") for number in range(3)]
    expect(signed_in.locator("a.row")).to_have_count(3)
    for key in ("j", "j", "x", "j", "x", "c"):
        signed_in.keyboard.press(key)
    expect(signed_in).to_have_url(re.compile(f"/compare.job={ids[1]}&job={ids[0]}$"))


def test_ten_thousand_jobs_scroll_with_few_rows_in_the_document(signed_in: Page, api: Api) -> None:
    cancelled(api.core, name="only one")
    with api.core.database.transaction() as session:
        (row,) = session.execute(select(JobRow.__table__)).mappings()
        copies = [dict(row) | {"id": f"{number:016}"} for number in range(9_999)]
        session.execute(insert(JobRow), copies)
    signed_in.reload()
    rows = _table(signed_in, "Finished jobs").locator("tbody tr:not(.spacer)")
    expect(rows.first).to_be_visible()
    signed_in.get_by_role("button", name="Name").click()
    expect(signed_in.get_by_text("100 or more", exact=True)).to_be_visible()
    # The API does not sort by it: the page reads all of them.
    signed_in.get_by_role("button", name="Duration").click()
    heading = signed_in.get_by_text("10000", exact=True)
    expect(heading).to_be_visible(timeout=60_000)
    signed_in.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    expect(signed_in.locator("tr[aria-rowindex='10001']")).to_be_visible()
    assert rows.count() < 150


def test_selected_jobs_are_tagged_and_archived(signed_in: Page, api: Api) -> None:
    cancelled(api.core, name="kept", tags=["old"])
    cancelled(api.core, name="done")
    signed_in.on("dialog", lambda dialog: dialog.accept("course"))
    signed_in.get_by_label("Select kept").check()
    signed_in.get_by_role("button", name="Tag", exact=True).click()
    signed_in.get_by_label("Tag", exact=True).fill("course")
    table = _table(signed_in, "Finished jobs")
    expect(table.locator("a.row")).to_have_text(["kept"])
    signed_in.get_by_label("Tag", exact=True).fill("")
    signed_in.get_by_label("Select done").check()
    signed_in.get_by_role("button", name="Archive", exact=True).click()
    signed_in.get_by_label("Archived").check()
    expect(table.locator("a.row")).to_have_text(["done"])


def test_any_field_filters_and_a_wrong_one_is_named(
    signed_in: Page, api: Api, errors: list[str]
) -> None:
    cancelled(api.core, name="shallow", depth=8)
    cancelled(api.core, name="deep", depth=14)
    fields = signed_in.get_by_label("Fields, such as")
    fields.fill("depth>=10 user:ann")
    expect(_table(signed_in, "Finished jobs").locator("a.row")).to_have_text(["deep"])
    fields.fill("dept:8")
    expect(signed_in.get_by_role("alert")).to_contain_text("jobs have no field 'dept'")
    # Chromium logs each response that is an error.
    errors.clear()
