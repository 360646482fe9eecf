"""One game: jobs are submitted, things break at random, and at the end everything must be right."""

import random
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import resnetd
from service.storage.database import Database
from tests.chaos import invariants
from tests.chaos.environment import Say, World, world
from tests.chaos.workload import SEARCH, Order, Undisturbed, run_undisturbed
from tests.support.fake_api import eventually

# After the last strike: everything that is under way may be tried again a few times.
_FINISH_SECONDS = 600.0
_IN_FLIGHT = 6
_PAUSED_SHARE = 0.2


class Game:
    """What was submitted in one world, and who is hit when; all chances come from one seed."""

    def __init__(self, world: World, client: resnetd.Client, chance: random.Random) -> None:
        self.jobs: dict[str, Order] = {}
        self.searches: list[str] = []
        self._world = world
        self._client = client
        self._chance = chance
        self._to_cancel: dict[str, float] = {}

    def submit(self, order: Order) -> None:
        job = self._client.submit(dict(order.spec))
        self.jobs[job.id] = order
        if order.is_cancelled:
            self._to_cancel[job.id] = time.monotonic() + self._chance.uniform(0.0, 30.0)

    def keep_busy(self, orders: tuple[Order, ...]) -> None:
        """So many jobs are under way or wait, drawn from `orders`."""
        unfinished = sum(not self._client.job(job_id).is_final for job_id in list(self.jobs)[-30:])
        for _ in range(_IN_FLIGHT - unfinished):
            self.submit(self._chance.choice(orders))

    def keep_searching(self) -> None:
        """One search is under way, now and then paused until the next call."""
        state = self._client.search(self.searches[-1]).state if self.searches else None
        if state is None or state.is_final:
            self.searches.append(self._client.submit_search(SEARCH).id)
        elif state == "paused":
            self._client.resume_search(self.searches[-1])
        elif self._chance.random() < _PAUSED_SHARE:
            with suppress(resnetd.Conflict):  # it has ended this moment
                self._client.pause_search(self.searches[-1])

    def cancel_what_is_unwanted(self, *, at: float) -> None:
        for job_id in [job_id for job_id, due in self._to_cancel.items() if due <= at]:
            self._client.cancel(job_id)
            del self._to_cancel[job_id]

    def strike(self, victim: str) -> None:
        self._world.strike(victim, self._chance)

    def wait_until(self, due: float) -> None:
        """Looks after the world until then."""

        def is_over() -> bool:
            self._world.mend()
            self.cancel_what_is_unwanted(at=time.monotonic())
            return time.monotonic() >= due

        eventually(is_over, within_seconds=due - time.monotonic() + 120.0)

    def finish(self) -> None:
        """Until every job and every search has ended; nothing is hit any more."""
        self.cancel_what_is_unwanted(at=float("inf"))
        for search_id in self.searches:
            if self._client.search(search_id).state == "paused":
                self._client.resume_search(search_id)
            eventually(
                partial(self._is_final, self._client.search, search_id),
                within_seconds=_FINISH_SECONDS,
            )
        for job_id in self.jobs:
            eventually(
                partial(self._is_final, self._client.job, job_id), within_seconds=_FINISH_SECONDS
            )

    def _is_final(self, find: Callable[[str], resnetd.Job | resnetd.Search], which: str) -> bool:
        self._world.mend()
        return find(which).is_final

    def check(self, undisturbed: Mapping[str, Undisturbed], folder: Path) -> None:
        invariants.ended_as_deserved(self._client, self.jobs)
        trials = invariants.searches_ended_whole(self._client, self.searches)
        all_jobs = [*self.jobs, *trials]
        invariants.events_have_no_gap(self._client, all_jobs)
        invariants.attempts_wrote_one_after_the_other(
            self._client, self._world.database_url, all_jobs
        )
        for job_id, order in self.jobs.items():
            if order.state == "succeeded":
                invariants.told_everything_once(
                    self._client, job_id, order, undisturbed[order.name], folder
                )
        with closing(Database(self._world.database_url)) as database:
            invariants.nothing_is_left(self._world, database)

    def summary(self) -> str:
        attempts: dict[Order, list[int]] = {}
        for job_id, order in self.jobs.items():
            attempts.setdefault(order, []).append(len(self._client.attempts(job_id)))
        words = [
            f"{order.name}: {len(each)} jobs {order.state}, {sum(each)} attempts, of one job at "
            f"most {max(each)}"
            for order, each in attempts.items()
        ]
        if self.searches:
            drivers = [self._client.search(each).document["drivers"] for each in self.searches]
            words.append(f"searches: {len(drivers)} succeeded, {sum(drivers)} drivers")
        return "\n".join(words)


def play(
    path: Path, *, seed: int, orders: tuple[Order, ...], plot: Callable[[Game], None], say: Say
) -> str:
    """The whole game; AssertionError where something is not right. What happened, in words."""
    chance = random.Random(seed)
    succeeding = [order for order in orders if order.state == "succeeded"]
    with (
        tempfile.TemporaryDirectory(dir=path) as folder,
        ThreadPoolExecutor(max_workers=1) as beside,
    ):
        runs = {
            order.name: beside.submit(run_undisturbed, order, Path(folder) / order.name)
            for order in succeeding
        }
        with world(path, say) as made, made.client() as client:
            invariants.call_a_witness(made.database_url)
            game = Game(made, client, chance)
            plot(game)
            say("nothing is hit any more")
            game.finish()
            undisturbed = {name: run.result() for name, run in runs.items()}
            game.check(undisturbed, Path(folder))
            return game.summary()
