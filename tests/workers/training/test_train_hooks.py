"""Tests beside the training; on a CPU in a stream that is none, but is waited for as one."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from service.catalog.architectures import Family
from service.specs.job_spec import parse_job_spec
from service.states import StopReason
from tests.workers.training.support import CPU, Recorder, digests, run, small_spec
from workers.training import evaluation, train_hooks
from workers.training.async_checkpoint import AsyncCheckpointWriter
from workers.training.data import datasets
from workers.training.data.data_source import ResidentSource
from workers.training.device_context import DeviceContext
from workers.training.distributed import RankGroup
from workers.training.models import resnet

# A report lies between each two tests; checkpoints come with a test, with a report and with none.
FIELDS = {
    "iterations": 32,
    "evaluate_every": 8,
    "checkpoint_every": 6,
    "milestones": (20,),
}


class Aside:
    """What is computed in it at once could be computed later as well: it is of a copy."""

    def __init__(self) -> None:
        self.used_count = 0

    def after_what_was_started(self) -> None: ...

    @contextmanager
    def used(self) -> Iterator[None]:
        self.used_count += 1
        yield


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> list[Aside]:
    opened: list[Aside] = []

    def stream_at(_place: DeviceContext) -> Aside:
        opened.append(Aside())
        return opened[-1]

    monkeypatch.setattr(evaluation, "make_stream", stream_at)
    return opened


def in_turn(tmp_path: Path, **fields: Any) -> Recorder:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "make_stream", lambda _place: None)
        _, recorder = run(small_spec(FIELDS | fields), tmp_path / "in-turn")
    return recorder


def test_a_test_beside_the_training_is_told_at_the_next_report(
    tmp_path: Path, streams: list[Aside]
) -> None:
    _, recorder = run(small_spec(FIELDS), tmp_path)
    told = [(point.series, point.iteration) for point in recorder.points]
    assert train_hooks.report_every(small_spec(FIELDS).recipe) == 4
    assert told.index(("train/loss", 8)) < told.index(("test/error", 8))
    assert told.index(("test/error", 8)) < told.index(("train/loss", 12))
    assert streams[0].used_count == 2 * 4


def test_a_run_is_the_same_whether_its_tests_take_turns_or_not(
    tmp_path: Path, streams: list[Aside]
) -> None:
    wanted = in_turn(tmp_path)
    outcome, beside = run(small_spec(FIELDS), tmp_path / "beside")
    assert streams[0].used_count > 0
    assert beside.values() == wanted.values()
    assert [(note.iteration, note.test_error) for note in beside.notes] == [
        (6, None),
        (12, None),
        (18, None),
        (24, wanted.values()["test/error", 24]),
        (30, None),
        (32, outcome.result.test_error),
    ]
    for iteration in beside.files:
        assert digests(beside.files[iteration]) == digests(wanted.files[iteration])
    assert outcome.result.test_error == beside.values()["test/error", 32]


@pytest.mark.parametrize("stops_at", [8, 9])
def test_a_run_that_stops_hears_of_its_test_first(
    tmp_path: Path, streams: list[Aside], stops_at: int
) -> None:
    outcome, stopped = run(small_spec(FIELDS), tmp_path / "stopped", stops_at=stops_at)
    assert streams[0].used_count > 0
    assert outcome.stopped is StopReason.CANCEL
    assert outcome.result.test_error == stopped.values()["test/error", 8]
    _, resumed = run(small_spec(FIELDS), tmp_path / "resumed", resume=stopped.files[stops_at])
    wanted = in_turn(tmp_path)
    assert digests(resumed.files[32]) == digests(wanted.files[32])
    assert stopped.values() | resumed.values() == wanted.values()


@pytest.mark.usefixtures("streams")
def test_a_plateau_is_seen_at_the_test_that_shows_it(tmp_path: Path) -> None:
    fields = {
        "schedule": "plateau",
        "patience": 1,
        "learning_rate": 3.0,  # learns nothing for long
        "milestones": (),
        "warmup_learning_rate": None,
        "warmup_until_error": None,
    }
    wanted = in_turn(tmp_path, **fields)
    assert any("plateau at iteration" in line for line in wanted.lines)
    _, beside = run(small_spec(FIELDS | fields), tmp_path / "beside")
    assert digests(beside.files[32]) == digests(wanted.files[32])


def test_beside_the_training_a_copy_is_tested_as_the_network_is_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = small_spec()
    images = datasets.read_images("digits", Path("nowhere"), family=Family.CIFAR)
    model = resnet.build_network(spec, images.classes)
    source = ResidentSource(images, spec.recipe, seed=0, device=CPU)
    tester = evaluation.Evaluator(
        model,
        source,
        spec.recipe,
        RankGroup(0, 1, None),
        CPU,
        stream=Aside(),  # type: ignore[arg-type]
    )
    tested: list[nn.Module] = []

    def evaluate(tested_model: nn.Module, *_arguments: Any, **_options: Any) -> Tensor:
        tested.append(tested_model)
        return torch.ones(3)

    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    for _ in range(2):
        with torch.no_grad():
            model.get_parameter("fc.bias").add_(1)
        tester.begin()
        assert tested[-1] is not model
        for name, tensor in tested[-1].state_dict().items():
            assert torch.equal(tensor, model.state_dict()[name])
    assert tested[0] is tested[1]


def test_a_run_that_stops_with_a_test_under_way_saves_what_waits_for_it(
    tmp_path: Path, streams: list[Aside]
) -> None:
    fields = FIELDS | {"checkpoint_every": 8}
    lasts: list[bool] = []
    save = AsyncCheckpointWriter.save

    def seen(self: AsyncCheckpointWriter, *arguments: Any, is_last: bool, **options: Any) -> None:
        lasts.append(is_last)
        save(self, *arguments, is_last=is_last, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AsyncCheckpointWriter, "save", seen)
        _, stopped = run(small_spec(fields), tmp_path, stops_at=8)
    assert streams[0].used_count > 0
    assert lasts == [True]
    assert [note.test_error for note in stopped.notes] == [stopped.values()["test/error", 8]]


@pytest.mark.parametrize(("device", "ranks"), [("cpu", 1), ("cuda", 2)])
def test_tests_take_turns_on_a_cpu_and_with_several_ranks(device: str, ranks: int) -> None:
    assert evaluation.make_stream(DeviceContext(0, ranks, torch.device(device), threads=1)) is None


def test_tests_on_photographs_take_turns(
    photographs: Path, tmp_path: Path, streams: list[Aside]
) -> None:
    spec = parse_job_spec(
        {
            "depth": 18,
            "shortcut": "B",
            "dataset": f"folder:{photographs.name}",
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
    run(spec, tmp_path, data_path=photographs.parent)
    assert [stream.used_count for stream in streams] in ([], [0])
