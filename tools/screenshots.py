"""`make screenshots`: the pictures of the documentation, of real jobs of a service of this machine.

Trains plain-44 and ResNet-44-A with three seeds each and a small search, starts a longer job, and
writes docs/images/*.png and, as the dashboard exports it, docs/degradation.svg. Prints the errors
for the captions.
"""

import argparse
import shutil
import signal
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, expect

import resnetd
from deploy.local import LocalService, interrupt
from service.text import count_of
from tests.support.browser import open_browser, sign_in

BUILD_PATH = Path("build/screenshots")
IMAGES_PATH = Path("docs/images")
FIGURE_PATH = Path("docs/degradation.svg")

DEPTH = 44
NETWORKS = {f"plain-{DEPTH}": "none", f"resnet-{DEPTH}-A": "A"}
SEEDS = range(3)
TAG = "degradation"
SEARCH: dict[str, Any] = {
    "name": "learning rate and weight decay",
    "job": {
        "depth": 20,
        "shortcut": "A",
        "dataset": "digits",
        "recipe": {"name": "quick", "iterations": 100, "evaluate_every": 10},
    },
    "space": {
        "recipe.learning_rate": {"loguniform": [0.001, 1.0]},
        "recipe.weight_decay": {"loguniform": [0.00001, 0.01]},
    },
    "algorithm": "tpe",
    # Stops some trials only: the importance of the fields is computed over those that succeed.
    "scheduler": {"name": "asha", "grace_iterations": 40, "reduction_factor": 2},
    "budget": {"trials": 16, "concurrent": 2},
}
LONG_RECIPE = {"name": "quick", "iterations": 20_000}
MINUTES = 60.0
WIDTH = 1280
MAX_BYTES = 200_000


@dataclass(frozen=True)
class Shown:
    """What the pictures show."""

    compared: Sequence[resnetd.Job]
    search: resnetd.Search
    running: resnetd.Job


def main() -> int:
    parser = argparse.ArgumentParser(prog="make screenshots", description=__doc__)
    parser.add_argument(
        "--again", action="store_true", help="of the jobs that the last call trained"
    )
    is_again: bool = parser.parse_args().again
    signal.signal(signal.SIGTERM, interrupt)
    if not is_again:
        shutil.rmtree(BUILD_PATH, ignore_errors=True)
    service = LocalService(BUILD_PATH / "var", logs_path=BUILD_PATH / "logs")
    with service, resnetd.Client(url=service.url, token=service.token) as client:
        if not is_again:
            _train(client)
        shown = _find_shown(client)
        _print_errors(shown.compared)
        with (
            open_browser() as browser,
            closing(
                browser.new_context(viewport={"width": WIDTH, "height": 900}, color_scheme="light")
            ) as context,
        ):
            page = context.new_page()
            sign_in(page, service.url, service.token)
            _take_pictures(page, service.url, shown)
    return 0


def _train(client: resnetd.Client) -> None:
    jobs = [
        client.submit(
            depth=DEPTH,
            shortcut=shortcut,
            dataset="digits",
            recipe="quick",
            seed=seed,
            name=f"{name}, seed {seed}",
            tags=[TAG],
        )
        for seed in SEEDS
        for name, shortcut in NETWORKS.items()
    ]
    print(f"training {count_of(len(jobs), 'job')} ...", flush=True)
    for job in jobs:
        client.jobs.wait(job.id, timeout_seconds=60 * MINUTES)
    print("searching ...", flush=True)
    client.searches.wait(client.searches.submit(SEARCH).id, timeout_seconds=60 * MINUTES)
    # It takes all CPUs, so that another job waits.
    cpus = client.cluster().cpus
    assert cpus is not None
    longer = {"dataset": "digits", "shortcut": "A", "resources": {"num_workers": int(cpus)}}
    client.submit(longer, depth=DEPTH, recipe=LONG_RECIPE, name=f"resnet-{DEPTH}-A, longer")
    client.submit(longer, depth=110, recipe="quick")


def _find_shown(client: resnetd.Client) -> Shown:
    """Once the longer job runs and has been evaluated."""
    (search,) = client.searches.list()
    (running,) = client.jobs.list(name="longer")

    def is_evaluated() -> bool:
        job = client.jobs.get(running.id)
        if job.state is not resnetd.JobState.RUNNING or job.progress is None:
            return False
        return job.progress.metrics.get("test/error") is not None

    _wait_until(is_evaluated)
    return Shown(
        compared=sorted(client.jobs.list(tag=TAG), key=lambda job: job.id),
        search=client.searches.get(search.id),
        running=client.jobs.get(running.id),
    )


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60 * MINUTES
    while not condition():
        assert time.monotonic() < deadline, "the running job reports nothing"
        time.sleep(0.5)


def _print_errors(jobs: Sequence[resnetd.Job]) -> None:
    for name in NETWORKS:
        results = [job.result for job in jobs if job.network == name and job.result is not None]
        for kind in ("train", "test"):
            errors = [getattr(result, f"{kind}_error") for result in results]
            mean, deviation = statistics.mean(errors), statistics.stdev(errors)
            print(f"{name}, {kind} error: {mean:.2f} ± {deviation:.2f} %, n = {len(errors)}")


def _take_pictures(page: Page, url: str, shown: Shown) -> None:
    compared = "&".join(f"job={job.id}" for job in shown.compared)
    IMAGES_PATH.mkdir(exist_ok=True)

    page.goto(f"{url}/?sort=test:asc")
    expect(page.get_by_role("region", name="Running jobs").locator("progress")).to_be_visible()
    _take(page, "jobs", height=760)

    # The newest residual job that is complete.
    page.goto(f"{url}/jobs/{shown.compared[-1].id}")
    expect(page.get_by_role("figure", name="Loss")).to_be_visible()
    _take(page, "job", height=1000)

    page.goto(f"{url}/compare?{compared}")
    button = page.get_by_role("button", name="SVG of Error, %", exact=True)
    with page.expect_download() as download:
        button.click()
    download.value.save_as(FIGURE_PATH)
    _take(page, "compare", height=860)

    page.goto(f"{url}/searches/{shown.search.id}")
    curves = page.get_by_role("region", name="Learning curves")
    expect(curves.get_by_role("figure")).to_be_visible()
    # Its computation takes seconds.
    expect(page.get_by_role("heading", name="Importance")).to_be_visible(timeout=60_000)
    _take(page, "search", height=960)

    page.goto(f"{url}/cluster")
    expect(page.get_by_role("region", name="Holders")).to_be_visible()
    _take(page, "cluster", height=525)


def _take(page: Page, name: str, *, height: int) -> None:
    page.set_viewport_size({"width": WIDTH, "height": height})
    # Without a highlighted row or a cursor in a chart.
    page.mouse.move(0, 0)
    page.wait_for_timeout(1_000)
    path = IMAGES_PATH / f"{name}.png"
    page.screenshot(path=path)
    size = path.stat().st_size
    print(f"{path}: {size / 1000:.0f} kB")
    assert size < MAX_BYTES, "too large for the documentation"


if __name__ == "__main__":
    sys.exit(main())
