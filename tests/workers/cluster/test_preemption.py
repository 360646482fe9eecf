"""What a preempted job loses, measured."""

import threading
import time
from pathlib import Path

import pytest

from service.states import Reason, StopReason
from tests.support.fake_api import (
    FakeApi,
    config_of,
    digits_config,
    eventually,
    fake_api,
    settings_of,
)
from workers.cluster.attempt_process import run_in_process

# From the stop request to the end of the attempt, on a busy machine.
LONGEST_SECONDS = 15.0


@pytest.mark.parametrize("reported_before", [1, 30])
def test_a_preempted_attempt_saves_every_iteration_that_it_reported(
    tmp_path: Path, reported_before: int
) -> None:
    """Without an earlier checkpoint: all work would be lost."""
    with fake_api(digits_config(iterations=1)) as api:
        endless = {"iterations": 60_000, "evaluate_every": 60_000, "checkpoint_every": 60_000}
        recipe = api.attempt.spec.recipe.model_copy(update=endless)
        spec = api.attempt.spec.model_copy(update={"recipe": recipe})
        api.attempt = config_of(spec, attempt_id=api.attempt.attempt_id)
        settings = settings_of(api, tmp_path)
        training = threading.Thread(target=run_in_process, args=(settings,))
        training.start()
        eventually(lambda: _reported_iteration(api) >= reported_before)

        began = time.monotonic()
        api.stop = StopReason.PREEMPT
        training.join()
        took = time.monotonic() - began

    [finish] = api.finishes
    [saved] = api.checkpoints
    lost = max(0, _reported_iteration(api) - saved.iteration)
    assert finish.reason is Reason.PREEMPTED
    assert lost == 0
    assert took < LONGEST_SECONDS


def _reported_iteration(api: FakeApi) -> int:
    """The newest iteration that the API has."""
    progresses = [report.progress.iteration for report in api.reports if report.progress]
    return max([*progresses, *(point.iteration for point in api.points)], default=0)
