"""A stack's process: what one attempt meets is no other's."""

import queue
from pathlib import Path

import pytest
import torch

from service.reports import AttemptBrief
from service.states import Reason
from tests.support.fake_api import FakeApi, brief_of, fake_api, settings_of
from tests.workers.training.support import small_spec
from workers.cluster import stack
from workers.cluster.settings import AttemptSettings
from workers.training import stacked
from workers.training.place import Place

PLACE = Place(rank=0, world_size=1, device=torch.device("cpu"), threads=1)


def stacked_brief(attempt_id: str, **recipe: object) -> AttemptBrief:
    spec = small_spec(dict(recipe), resources={"stack": 2})
    job_id = attempt_id.partition("-")[0]
    return brief_of(spec, attempt_id=attempt_id).model_copy(update={"job_id": job_id})


def run(work_path: Path, first: FakeApi, *others: FakeApi) -> None:
    later: queue.SimpleQueue[FakeApi | None] = queue.SimpleQueue()
    for other in (*others, None):
        later.put(other)

    def hear() -> tuple[AttemptSettings, AttemptBrief] | None:
        api = later.get()
        return None if api is None else (settings_of(api, work_path), api.attempt)

    stack.run(settings_of(first, work_path), first.attempt, place=PLACE, later=hear)


def test_each_attempt_reports_delivers_and_finishes_by_itself(tmp_path: Path) -> None:
    with (
        fake_api(stacked_brief("job1-a1")) as one,
        # Long enough that the other arrives while it trains.
        fake_api(stacked_brief("job2-a1", iterations=40)) as other,
    ):
        run(tmp_path, other, one)
        for api, iterations in ((one, 12), (other, 40)):
            assert [finish.reason for finish in api.finishes] == [Reason.COMPLETED]
            assert max(point.iteration for point in api.points) == iterations
            assert api.checkpoints[-1].iteration == iterations
            assert api.complaints == []
    assert list((tmp_path / "work" / "attempts").iterdir()) == []


def test_one_that_cannot_begin_or_that_fails_ends_no_other(tmp_path: Path) -> None:
    with (
        fake_api(stacked_brief("job1-a1", iterations=60)) as whole,
        fake_api(stacked_brief("job2-a1")) as blocked,
        fake_api(
            stacked_brief(
                "job3-a1",
                iterations=60,
                learning_rate=100.0,
                weight_decay=0.9,
                warmup_learning_rate=None,
                warmup_until_error=None,
            )
        ) as diverging,
    ):
        (tmp_path / "work" / "attempts").mkdir(parents=True)
        (tmp_path / "work" / "attempts" / "job2-a1").write_text("in the way of its folder")
        run(tmp_path, whole, blocked, diverging)
        assert [finish.reason for finish in whole.finishes] == [Reason.COMPLETED]
        assert [finish.reason for finish in diverging.finishes] == [Reason.DIVERGED]
        assert len(blocked.finishes) == 1
        assert blocked.finishes[0].reason is not Reason.COMPLETED


def test_what_breaks_their_step_is_told_of_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down(*_: object) -> None:
        raise torch.OutOfMemoryError("the device is full")

    monkeypatch.setattr(stacked.StackedEngine, "step", break_down)
    with fake_api(stacked_brief("job1-a1")) as api:
        run(tmp_path, api)
        assert [finish.reason for finish in api.finishes] == [Reason.OUT_OF_MEMORY]
