"""A search in a browser: ranking, brushing, commands."""

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.support.api import Api
from tests.support.browser import assert_accessible
from tests.support.searching import Searching

pytestmark = pytest.mark.browser

RATES = {0.001: 30.0, 0.1: 8.0, 1.0: 60.0}


@pytest.fixture
def search(signed_in: Page, api: Api) -> Page:
    """Of three trials, in which the middle learning rate is best."""
    searching = Searching(api.core)
    search_id = searching.run(name="learning rates")
    for number, (rate, error) in enumerate(RATES.items()):
        searching.assign_trial(search_id, f"t{number}", rate)
        searching.train(error)
    signed_in.get_by_role("link", name="Searches").click()
    signed_in.get_by_role("link", name="learning rates").click()
    expect(signed_in.get_by_role("heading", level=1)).to_have_text("learning rates")
    return signed_in


def _trials(page: Page) -> Locator:
    return page.get_by_role("region", name="Ranking").locator("a.row")


def test_trials_are_ranked_with_their_curves(search: Page) -> None:
    expect(_trials(search)).to_have_text(["trial 2", "trial 1", "trial 3"])
    expect(search.get_by_text("Best test/error")).to_be_visible()
    curves = search.get_by_role("figure", name="test/error").get_by_role("img")
    expect(curves).to_have_attribute(
        "aria-label",
        r"test/error by iterations: "
        + ", ".join(f"trial {number} {error:g}" for number, error in enumerate(RATES.values(), 1)),
    )
    assert_accessible(search)


def test_a_range_of_an_axis_chooses_trials(search: Page) -> None:
    expect(_trials(search)).to_have_count(3)
    box = search.locator("[data-axis='test/error']").bounding_box()
    assert box is not None
    # The lower half: errors below 34 %.
    search.mouse.move(box["x"] + 5, box["y"] + box["height"] - 1)
    search.mouse.down()
    search.mouse.move(box["x"] + 5, box["y"] + box["height"] / 2, steps=4)
    search.mouse.up()
    expect(_trials(search)).to_have_text(["trial 2", "trial 1"])
    search.get_by_role("button", name="Show all 3 trials").click()
    expect(_trials(search)).to_have_count(3)


def test_a_search_is_paused_and_resumed(search: Page) -> None:
    search.get_by_role("button", name="Pause").click()
    search.get_by_role("button", name="Resume").click()
    expect(search.get_by_role("button", name="Pause")).to_be_visible()


def test_without_searches_the_list_says_how_to_begin(signed_in: Page) -> None:
    signed_in.get_by_role("link", name="Searches").click()
    expect(signed_in.get_by_text("No searches yet.")).to_be_visible()
    assert_accessible(signed_in)
