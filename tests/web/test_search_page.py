"""A search in a browser: ranking, slices, ranges of axes, curves, commands."""

import re

import pytest
from playwright.sync_api import Locator, Page, expect

from service.states import Reason
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
    axis = search.locator("[data-axis='test/error']")
    # The lower half: errors below 34 %. Unlike the mouse's own moves, `hover` waits until the page
    # has its final layout.
    height = int(axis.get_attribute("height") or 0)
    axis.hover(position={"x": 2, "y": height - 1})
    search.mouse.down()
    axis.hover(position={"x": 2, "y": height // 2})
    search.mouse.up()
    expect(_trials(search)).to_have_text(["trial 2", "trial 1"])
    search.get_by_role("button", name="Show all 3 trials").click()
    expect(_trials(search)).to_have_count(3)


def test_keys_choose_a_range_and_escape_removes_it(search: Page) -> None:
    expect(_trials(search)).to_have_count(3)
    highest = search.get_by_role("slider", name="test/error: highest")
    lowest = search.get_by_role("slider", name="test/error: lowest")
    expect(highest).to_have_attribute("aria-valuetext", "60")
    highest.focus()
    # A twentieth of the way from 60 to 8 each.
    for _ in range(11):
        highest.press("ArrowDown")
    expect(highest).to_have_attribute("aria-valuetext", "31.4")
    expect(highest).to_have_attribute("aria-valuenow", "45")
    expect(lowest).to_have_attribute("aria-valuemax", "45")
    expect(_trials(search)).to_have_text(["trial 2", "trial 1"])
    assert_accessible(search)
    search.keyboard.press("Shift+Tab")
    expect(lowest).to_be_focused()
    lowest.press("ArrowUp")
    expect(_trials(search)).to_have_text(["trial 1"])
    lowest.press("Home")
    expect(_trials(search)).to_have_count(2)
    highest.press("Escape")
    expect(_trials(search)).to_have_count(3)
    expect(highest).to_have_attribute("aria-valuenow", "100")


def test_slices_have_the_metric_against_each_field_and_point_into_the_ranking(
    signed_in: Page, api: Api
) -> None:
    searching = Searching(api.core)
    space = {
        "recipe.learning_rate": {"loguniform": [0.001, 1.0]},
        "depth": {"choice": [8, 14, 20]},
    }
    search_id = searching.run(space=space, scheduler={"name": "asha"}, budget={"trials": 3})
    for number, (rate, depth, error) in enumerate([(0.001, 14, 30.0), (0.1, 8, 8.0)]):
        searching.assign_trial(search_id, f"t{number}", rate, depth=depth)
        searching.train(error)
    searching.assign_trial(search_id, "t2", 1.0, depth=20)
    attempt = api.core.start_next()
    searching.evaluate(attempt, 1, 10, 60.0)
    searching.stop_trial(search_id, "t2")
    api.core.finish(attempt.attempt_id, Reason.EARLY_STOPPED)
    signed_in.goto(f"{api.url}/searches/{search_id}")
    slices = signed_in.get_by_role("region", name="Slices")
    expect(slices.get_by_role("figure")).to_have_count(2)
    rates = slices.get_by_role("figure", name="recipe.learning_rate")
    depths = slices.get_by_role("figure", name="depth")
    # 0.1 is two thirds of the way from 0.001 to 1, and 14 half of that from 8 to 20.
    assert _share(rates, trial=2, of=(1, 3)) == pytest.approx(2 / 3, abs=0.02)
    assert _share(depths, trial=1, of=(2, 3)) == pytest.approx(1 / 2, abs=0.02)
    expect(rates.locator(".stopped")).to_have_attribute("data-trial", "3")
    rates.locator(".stopped").hover()
    row = signed_in.get_by_role("region", name="Ranking").get_by_role("row", name="trial 3")
    expect(row.locator("a.row")).to_have_class(re.compile("pointed"))
    rates.get_by_text("Values").click()
    expect(rates.get_by_role("row")).to_contain_text(
        ["Trial", "trial 1", "trial 2", "trial 3160yes"]
    )
    curves = signed_in.get_by_role("region", name="Learning curves")
    expect(curves.get_by_role("img")).to_have_attribute(
        "aria-label", re.compile("trial 3, stopped early 60")
    )
    curves.get_by_text("1 early stop").click()
    expect(curves.get_by_role("row", name="trial 3")).to_contain_text(
        "stopped by asha at iteration 10"
    )
    assert_accessible(signed_in)


def _share(figure: Locator, *, trial: int, of: tuple[int, int]) -> float:
    """Where the point of the trial is on the way between those of two others."""
    left, low, high = (
        figure.locator(f"[data-trial='{number}']").evaluate(
            "mark => { const { left, right } = mark.getBoundingClientRect();"
            "return (left + right) / 2; }"
        )
        for number in (trial, *of)
    )
    return float((left - low) / (high - low))


def test_a_search_is_paused_and_resumed(search: Page) -> None:
    search.get_by_role("button", name="Pause").click()
    search.get_by_role("button", name="Resume").click()
    expect(search.get_by_role("button", name="Pause")).to_be_visible()


def test_without_searches_the_list_says_how_to_begin(signed_in: Page) -> None:
    signed_in.get_by_role("link", name="Searches").click()
    expect(signed_in.get_by_text("No searches yet.")).to_be_visible()
    assert_accessible(signed_in)
