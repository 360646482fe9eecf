"""A minute of what `make chaos` does for an hour."""

import random
import secrets
import time
from pathlib import Path

import pytest

from tests.chaos.environment import FAULT_TARGETS
from tests.chaos.scenario import Scenario, run_scenario
from tests.chaos.workload import MISSING_DATASET, TWO_WORKERS

pytestmark = [pytest.mark.ray, pytest.mark.db, pytest.mark.slow]


def test_jobs_end_as_without_faults_after_a_fault_of_each_process(tmp_path: Path) -> None:
    """Each kind of process is stopped once, in an order that the seed decides."""
    seed = secrets.randbelow(10**6)
    log = [f"seed {seed}"]
    random_numbers = random.Random(seed)
    cases = (TWO_WORKERS.halved(), MISSING_DATASET)

    def inject_each_fault(scenario: Scenario) -> None:
        for case in cases:
            scenario.submit(case)
        for target in random_numbers.sample(FAULT_TARGETS, len(FAULT_TARGETS)):
            scenario.run_until(time.monotonic() + random_numbers.uniform(1.0, 3.0))
            scenario.inject_fault(target)

    try:
        run_scenario(
            tmp_path,
            seed=seed,
            cases=cases,
            script=inject_each_fault,
            log=log.append,
            # Both jobs fit one warm runner: each other one takes as long to start as a job.
            num_cpus=2,
            warm_runner_workers=2,
        )
    except AssertionError as error:
        error.add_note("\n".join(log))
        raise
