"""Evaluation during training; on a CPU, with a stream that computes at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from service.catalog.architectures import Stem
from service.specs.job_spec import parse_job_spec
from service.states import StopReason
from tests.workers.training.support import CPU, RecordingObserver, digests, run, small_spec
from workers.training import evaluation, trainer
from workers.training.data import datasets
from workers.training.data.data_source import EvaluationSplit
from workers.training.data.resident_source import ResidentSource
from workers.training.device_context import DeviceContext
from workers.training.distributed import RankGroup
from workers.training.models import resnet

# A report is due between any two evaluations; checkpoints are due with an evaluation, with a
# report, and with neither.
RECIPE = {
    "iterations": 32,
    "evaluate_every": 8,
    "checkpoint_every": 6,
    "milestones": (20,),
}


class ImmediateStream:
    """Replaces a CUDA stream: the work in it is on a copy, so it may be done at once."""

    def __init__(self) -> None:
        self.num_uses = 0

    def wait_for_training(self) -> None: ...

    @contextmanager
    def use(self) -> Iterator[None]:
        self.num_uses += 1
        yield


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> list[ImmediateStream]:
    opened: list[ImmediateStream] = []

    def make_stream(_context: DeviceContext) -> ImmediateStream:
        opened.append(ImmediateStream())
        return opened[-1]

    monkeypatch.setattr(evaluation, "make_stream", make_stream)
    return opened


def run_sync(tmp_path: Path, **recipe: Any) -> RecordingObserver:
    """A run whose training waits for each evaluation."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "make_stream", lambda _context: None)
        _, observer = run(small_spec(RECIPE | recipe), tmp_path / "sync")
    return observer


def test_an_evaluation_is_reported_at_the_next_report(
    tmp_path: Path, streams: list[ImmediateStream]
) -> None:
    _, observer = run(small_spec(RECIPE), tmp_path)
    order = observer.series_order
    assert trainer.report_every(small_spec(RECIPE).recipe) == 4
    assert order.index(("train/loss", 8)) < order.index(("test/error", 8))
    assert order.index(("test/error", 8)) < order.index(("train/loss", 12))
    assert streams[0].num_uses == 2 * 4 + 1  # starts, waits, and the last one's predictions


def test_a_run_with_async_evaluation_equals_a_run_that_waits(
    tmp_path: Path, streams: list[ImmediateStream]
) -> None:
    expected = run_sync(tmp_path)
    outcome, observer = run(small_spec(RECIPE), tmp_path / "async")
    assert streams[0].num_uses > 0
    assert observer.values() == expected.values()
    assert [(saved.iteration, saved.test_error) for saved in observer.saved] == [
        (6, None),
        (12, None),
        (18, None),
        (24, expected.values()["test/error", 24]),
        (30, None),
        (32, outcome.test_error),
    ]
    for iteration in observer.files:
        assert digests(observer.files[iteration]) == digests(expected.files[iteration])
    assert outcome.test_error == observer.values()["test/error", 32]


@pytest.mark.parametrize("stop_at", [8, 9])
def test_a_stopped_run_waits_for_its_pending_evaluation(
    tmp_path: Path, streams: list[ImmediateStream], stop_at: int
) -> None:
    outcome, stopped = run(small_spec(RECIPE), tmp_path / "stopped", stop_at=stop_at)
    assert streams[0].num_uses > 0
    assert outcome.stopped is StopReason.CANCEL
    assert outcome.test_error == stopped.values()["test/error", 8]
    _, resumed = run(small_spec(RECIPE), tmp_path / "resumed", resume=stopped.files[stop_at])
    expected = run_sync(tmp_path)
    assert digests(resumed.files[32]) == digests(expected.files[32])
    assert stopped.values() | resumed.values() == expected.values()


@pytest.mark.usefixtures("streams")
def test_a_plateau_takes_effect_at_the_evaluation_that_shows_it(tmp_path: Path) -> None:
    recipe = {
        "schedule": "plateau",
        "select_by": "test",
        "patience": 1,
        "learning_rate": 3.0,  # too large to learn anything for a while
        "milestones": (),
        "warmup_learning_rate": None,
        "warmup_until_error": None,
    }
    expected = run_sync(tmp_path, **recipe)
    assert any("plateau at iteration" in line for line in expected.lines)
    _, observer = run(small_spec(RECIPE | recipe), tmp_path / "async")
    assert digests(observer.files[32]) == digests(expected.files[32])


def test_an_async_evaluation_is_of_the_weights_at_its_start() -> None:
    spec = small_spec()
    images = datasets.read_images("digits", Path("nowhere"), stem=Stem.CIFAR)
    model = resnet.build_network(spec, images.classes)
    source = ResidentSource(images, spec.recipe, seed=0, device=CPU)
    ranks = RankGroup(0, 1, None)
    stream: Any = ImmediateStream()
    concurrent = evaluation.Evaluator(model, source, spec.recipe, ranks, CPU, stream=stream)
    waiting = evaluation.Evaluator(model, source, spec.recipe, ranks, CPU, stream=None)
    for _ in range(2):
        with torch.no_grad():
            model.get_parameter("fc.bias")[0] += 1
        expected = waiting.start().wait()
        pending = concurrent.start()
        with torch.no_grad():
            model.get_parameter("fc.bias")[1] += 5  # a step during the evaluation
        assert pending.wait() == expected
        assert expected.keys() == {EvaluationSplit.TEST}


def test_a_stop_during_an_evaluation_writes_the_checkpoint_that_waits_for_it(
    tmp_path: Path, streams: list[ImmediateStream]
) -> None:
    _, stopped = run(small_spec(RECIPE | {"checkpoint_every": 8}), tmp_path, stop_at=8)
    assert streams[0].num_uses > 0
    expected = stopped.values()["test/error", 8]
    assert [(saved.iteration, saved.test_error) for saved in stopped.saved] == [(8, expected)]


@pytest.mark.parametrize(("device", "world_size"), [("cpu", 1), ("cuda", 2)])
def test_training_waits_for_evaluation_on_a_cpu_and_with_several_ranks(
    device: str, world_size: int
) -> None:
    context = DeviceContext(0, world_size, torch.device(device), threads=1)
    assert evaluation.make_stream(context) is None


def test_training_waits_for_evaluation_of_images_from_files(
    image_folder: Path, tmp_path: Path, streams: list[ImmediateStream]
) -> None:
    spec = parse_job_spec(
        {
            "depth": 18,
            "shortcut": "B",
            "dataset": f"folder:{image_folder.name}",
            "recipe": {
                "name": "torchvision-v1",
                "iterations": 2,
                "batch_size": 2,
                "micro_batch_size": None,
                "evaluate_every": 1,
                "checkpoint_every": 2,
                "exports": [],
            },
        }
    )
    run(spec, tmp_path, data_dir=image_folder.parent)
    assert streams == []
