"""`make chaos MINUTES=60 SEED=...`: injects a fault every 5 to 40 s while jobs and a search run.

At the end each job must have ended as its spec deserves, with every metric point once and the
weights of an uninterrupted run. The exit status is 1 when an invariant does not hold.
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
from service.text import count_of
from tests.chaos.environment import FAULT_TARGETS
from tests.chaos.scenario import Scenario, run_scenario
from tests.chaos.workload import ALL_CASES


def main() -> int:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="how long faults are injected")
    parser.add_argument("--seed", type=int, help="decides the jobs, the faults and their times")
    parser.add_argument("--logs", type=Path, help="keep all files in this folder")
    options = parser.parse_args()
    seed = secrets.randbelow(10**6) if options.seed is None else options.seed
    print(f"seed {seed}, {options.minutes:g} minutes", flush=True)
    random_numbers = random.Random(seed)
    num_faults = 0
    signal.signal(signal.SIGTERM, interrupt)

    def inject_faults(scenario: Scenario) -> None:
        nonlocal num_faults
        end = time.monotonic() + options.minutes * 60.0
        while time.monotonic() < end:
            scenario.refill_queue(ALL_CASES)
            scenario.keep_one_search()
            scenario.run_until(time.monotonic() + random_numbers.uniform(5.0, 40.0))
            scenario.inject_fault(random_numbers.choice(FAULT_TARGETS))
            num_faults += 1

    with tempfile.TemporaryDirectory(prefix="chaos") as temporary:
        path = options.logs or Path(temporary)
        path.mkdir(parents=True, exist_ok=True)
        try:
            summary = run_scenario(
                path, seed=seed, cases=ALL_CASES, script=inject_faults, log=_print_with_time
            )
        except AssertionError as error:
            message = f"an invariant does not hold after {count_of(num_faults, 'fault')}"
            print(f"{error}\n{message} (seed {seed})", file=sys.stderr)
            return 1
    print(f"{summary}\nall invariants hold after {count_of(num_faults, 'fault')} (seed {seed})")
    return 0


def _print_with_time(message: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {message}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
