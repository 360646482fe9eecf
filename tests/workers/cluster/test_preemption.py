"""What a preempted job loses, measured."""

import threading
import time
from pathlib import Path

import pytest

from service.states import Reason, StopReason
from tests.support.fake_api import (
    FakeApi,
    brief_of,
    digits_brief,
    eventually,
    fake_api,
    settings_of,
)
from workers.cluster.attempt_process import run_in_process

# From the wish to the end, beside a busy machine; docs/operations.md names what it is made of.
LONGEST_SECONDS = 15.0


@pytest.mark.parametrize("told_before", [1, 30])
def test_a_preempted_attempt_saves_every_iteration_that_it_told(
    tmp_path: Path, told_before: int
) -> None:
    """With no checkpoint before it: all work would be lost, and none is."""
    with fake_api(digits_brief(iterations=1)) as api:
        endless = {"iterations": 60_000, "evaluate_every": 60_000, "checkpoint_every": 60_000}
        recipe = api.attempt.spec.recipe.model_copy(update=endless)
        spec = api.attempt.spec.model_copy(update={"recipe": recipe})
        api.attempt = brief_of(spec, attempt_id=api.attempt.attempt_id)
        settings = settings_of(api, tmp_path)
        training = threading.Thread(target=run_in_process, args=(settings,))
        training.start()
        eventually(lambda: _told(api) >= told_before)

        began = time.monotonic()
        api.stop = StopReason.PREEMPT
        training.join()
        took = time.monotonic() - began

    [finish] = api.finishes
    [saved] = api.checkpoints
    lost = max(0, _told(api) - saved.iteration)
    assert finish.reason is Reason.PREEMPTED
    assert lost == 0
    assert took < LONGEST_SECONDS


def _told(api: FakeApi) -> int:
    """The newest iteration that the API has heard of."""
    progresses = [report.progress.iteration for report in api.reports if report.progress]
    return max([*progresses, *(point.iteration for point in api.points)], default=0)
