"""A minute of what `make chaos` does for an hour."""

import random
import secrets
import time
from pathlib import Path

import pytest

from tests.chaos.environment import VICTIMS
from tests.chaos.scenario import Game, play
from tests.chaos.workload import MISSING, TWO

pytestmark = [pytest.mark.ray, pytest.mark.db, pytest.mark.slow]


def test_whatever_is_killed_each_job_ends_as_if_nothing_had_been(tmp_path: Path) -> None:
    """Each kind of process is hit once, in an order that the seed decides."""
    seed = secrets.randbelow(10**6)
    said = [f"seed {seed}"]
    chance = random.Random(seed)
    orders = (TWO.halved(), MISSING)

    def plot(game: Game) -> None:
        for order in orders:
            game.submit(order)
        for victim in chance.sample(VICTIMS, len(VICTIMS)):
            game.wait_until(time.monotonic() + chance.uniform(1.0, 3.0))
            game.strike(victim)

    try:
        play(tmp_path, seed=seed, orders=orders, plot=plot, say=said.append)
    except AssertionError as error:
        error.add_note("\n".join(said))
        raise
