"""`make chaos MINUTES=60 SEED=...`: kills something every 5 to 40 s, under jobs and a search.

At the end each job must have ended as it deserves, told every number once, and left the weights
of a run that nobody disturbed; exit status 1 where anything is wrong.
"""

import argparse
import random
import secrets
import signal
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from deploy.local import interrupt
from tests.chaos.environment import VICTIMS
from tests.chaos.scenario import Game, play
from tests.chaos.workload import ALL


def main() -> int:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=None, help="of who is hit and when")
    parser.add_argument("--logs", type=Path, help="keeps everything there; else it is removed")
    chosen = parser.parse_args()
    seed = secrets.randbelow(10**6) if chosen.seed is None else chosen.seed
    print(f"seed {seed}, {chosen.minutes:g} minutes", flush=True)
    chance = random.Random(seed)
    strikes = 0
    signal.signal(signal.SIGTERM, interrupt)

    def plot(game: Game) -> None:
        nonlocal strikes
        end = time.monotonic() + chosen.minutes * 60.0
        while time.monotonic() < end:
            game.keep_busy(ALL)
            game.keep_searching()
            game.wait_until(time.monotonic() + chance.uniform(5.0, 40.0))
            game.strike(chance.choice(VICTIMS))
            strikes += 1

    with tempfile.TemporaryDirectory(prefix="chaos") as name:
        path = chosen.logs or Path(name)
        path.mkdir(parents=True, exist_ok=True)
        try:
            summary = play(path, seed=seed, orders=ALL, plot=plot, say=_say)
        except AssertionError as error:
            print(f"{error}\nnot right after {strikes} strikes, seed {seed}", file=sys.stderr)
            return 1
    print(f"{summary}\nall is right after {strikes} strikes, seed {seed}")
    return 0


def _say(words: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {words}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
