"""Runs that are computed as one stack: equal to each run alone, and independent of each other."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from service.reports import Part
from service.spec import JobSpec
from service.states import StopReason
from tests.workers.training.support import (
    SMALL,
    Recorder,
    engine_of,
    random_batch,
    run,
    small_spec,
    stack_of,
)
from workers.training import resnet, stacked
from workers.training.faults import Diverged
from workers.training.loop import Outcome
from workers.training.place import Place
from workers.training.stacked import StackedEngine
from workers.training.together import Member, train_together

CPU = torch.device("cpu")
PLACE = Place(rank=0, world_size=1, device=CPU, threads=1)
# Convolutions in groups add up in another order; what rounding makes of that grows with each step.
AFTER_THREE_STEPS = 1e-4
AFTER_A_RUN = 1e-3

UNWARMED = {"warmup_learning_rate": None, "warmup_until_error": None}

NETWORKS: list[dict[str, Any]] = [
    {"depth": 8, "shortcut": "none"},
    {"depth": 8, "shortcut": "A"},
    {"depth": 8, "shortcut": "A", "zero_padding": "both"},
    {"depth": 8, "shortcut": "B"},
    {"depth": 8, "shortcut": "C", "preactivation": True},
    {"depth": 11, "shortcut": "B", "block": "bottleneck"},
]


def spec_of(network: dict[str, Any], seed: int, **recipe: Any) -> JobSpec:
    return small_spec({"precision": "fp32", "learning_rate": 0.01} | recipe, seed=seed, **network)


def models_of(specs: Iterable[JobSpec]) -> list[nn.Module]:
    return [resnet.build(one, 10).to(memory_format=torch.channels_last) for one in specs]


def batch(seed: int) -> tuple[Tensor, Tensor]:
    return random_batch(seed, images=12)


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


@pytest.mark.parametrize("network", NETWORKS, ids=lambda each: "-".join(map(str, each.values())))
def test_a_member_of_a_stack_steps_as_if_it_were_alone(network: dict[str, Any]) -> None:
    specs = [
        spec_of(network, 0, learning_rate=0.01),
        spec_of(network, 1, learning_rate=0.002, momentum=0.5, weight_decay=0.01),
        spec_of(network, 2, learning_rate=0.005, label_smoothing=0.2),
    ]
    alone, together = models_of(specs), models_of(specs)
    engines = [engine_of(one.recipe, model) for one, model in zip(specs, alone, strict=True)]
    stack = stack_of([one.recipe for one in specs], together)
    for step in range(3):
        batches = [batch(10 * step + number) for number in range(3)]
        rates = [one.recipe.learning_rate for one in specs]
        told_MS = stack.step(
            [images for images, _ in batches], [labels for _, labels in batches], rates
        )
        for engine, own, rate, told_S in zip(engines, batches, rates, told_MS, strict=True):
            assert torch.allclose(told_S, engine.step(*own, rate), rtol=1e-3)
    for mine, theirs in zip(together, alone, strict=True):
        assert distance(mine.state_dict(), theirs.state_dict()) < AFTER_THREE_STEPS
    assert distance(together[0].state_dict(), together[1].state_dict()) > AFTER_A_RUN


def test_passes_of_a_stack_add_up_as_they_do_alone() -> None:
    written = spec_of(NETWORKS[0], 0, images_per_pass=4, learning_rate=0.05)
    (alone,), (together,) = models_of([written]), models_of([written])
    images_NCHW, labels_N = batch(0)
    expected = engine_of(written.recipe, alone).step(images_NCHW, labels_N, 0.05)
    (told_S,) = stack_of([written.recipe], [together]).step([images_NCHW], [labels_N], [0.05])
    assert torch.allclose(told_S, expected)
    assert distance(together.state_dict(), alone.state_dict()) < AFTER_THREE_STEPS


def test_what_has_another_shape_or_dropout_is_not_stacked() -> None:
    deeper = spec_of({"depth": 14, "shortcut": "A"}, 0)
    with pytest.raises(ValueError, match="different shapes"):
        stacked.Stack(models_of([spec_of(NETWORKS[1], 0), deeper]))
    with pytest.raises(ValueError, match="Dropout cannot be stacked"):
        stacked.Stack([nn.Sequential(nn.Dropout()), nn.Sequential(nn.Dropout())])


@dataclass
class Crew:
    """Members that arrive at the calls they are listed for, and how each of them ended."""

    folder: Path
    recorders: list[Recorder] = field(default_factory=list)
    ends: dict[int, Outcome | Exception] = field(default_factory=dict)

    def member(self, spec: JobSpec, recorder: Recorder | None = None) -> Member:
        number = len(self.recorders)
        self.recorders.append(recorder or Recorder())

        def end(how: Outcome | Exception) -> None:
            assert number not in self.ends
            self.ends[number] = how

        return Member(spec, self.folder / str(number), self.recorders[number], end)

    def train(self, *arrivals: list[Member]) -> None:
        train_together(arriving(*arrivals), place=PLACE, data_path=Path("nowhere"))
        assert sorted(self.ends) == list(range(len(self.recorders)))

    def weights(self, number: int, iteration: int) -> dict[str, Tensor]:
        files = self.recorders[number].files[iteration]
        return safetensors.torch.load_file(files[Part.WEIGHTS])


def arriving(*arrivals: list[Member]) -> Callable[[], list[Member]]:
    waiting = iter(arrivals)
    return lambda: next(waiting, [])


def test_runs_together_tell_and_save_what_each_tells_and_saves_alone(tmp_path: Path) -> None:
    specs = [
        spec_of(NETWORKS[1], 0),
        spec_of(NETWORKS[1], 1, learning_rate=0.02),
        # It ends before the others.
        spec_of(NETWORKS[1], 0, iterations=7, evaluate_every=3),
    ]
    crew = Crew(tmp_path / "together")
    crew.train([crew.member(one) for one in specs])
    for number, one in enumerate(specs):
        outcome, alone = run(one, tmp_path / f"alone-{number}")
        ended = crew.ends[number]
        assert isinstance(ended, Outcome)
        assert (ended.stopped, ended.iteration) == (None, outcome.iteration)
        together = crew.recorders[number]
        assert together.values() == pytest.approx(alone.values(), rel=0.02, abs=0.5)
        assert together.files.keys() == alone.files.keys()
        last = safetensors.torch.load_file(alone.files[one.recipe.iterations][Part.WEIGHTS])
        assert distance(crew.weights(number, one.recipe.iterations), last) < AFTER_A_RUN


def test_a_run_may_join_when_others_are_under_way(tmp_path: Path) -> None:
    early, late = spec_of(NETWORKS[1], 0), spec_of(NETWORKS[1], 1)
    crew = Crew(tmp_path / "together")
    crew.train([crew.member(early)], [], [], [], [], [], [], [], [crew.member(late)])
    for number, one in enumerate((early, late)):
        _, alone = run(one, tmp_path / f"alone-{number}")
        last = safetensors.torch.load_file(alone.files[12][Part.WEIGHTS])
        assert distance(crew.weights(number, 12), last) < AFTER_A_RUN


def test_a_run_that_diverges_ends_alone(tmp_path: Path) -> None:
    crew = Crew(tmp_path)
    wild = spec_of(NETWORKS[0], 0, learning_rate=100.0, weight_decay=0.9, iterations=60, **UNWARMED)
    crew.train([crew.member(wild), crew.member(spec_of(NETWORKS[0], 0))])
    assert isinstance(crew.ends[0], Diverged)
    assert isinstance(crew.ends[1], Outcome)


def test_a_run_that_is_stopped_leaves_a_checkpoint_and_goes_on_alone(tmp_path: Path) -> None:
    crew = Crew(tmp_path / "together")
    stopped = spec_of(NETWORKS[1], 0)
    members = [crew.member(stopped, Recorder(stops_at=5)), crew.member(spec_of(NETWORKS[1], 1))]
    crew.train(members)
    ended = crew.ends[0]
    assert isinstance(ended, Outcome)
    assert (ended.stopped, ended.iteration) == (StopReason.CANCEL, 5)
    outcome, _ = run(stopped, tmp_path / "resumed", resume=crew.recorders[0].files[5])
    assert outcome.iteration == SMALL["iterations"]


def test_what_breaks_the_step_ends_all_and_later_ones_begin_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = 0
    whole = StackedEngine.step

    def breaking(self: StackedEngine, *batches: Any) -> Tensor:
        nonlocal steps
        steps += 1
        if steps == 3:
            raise torch.OutOfMemoryError("the device is full")
        return whole(self, *batches)

    monkeypatch.setattr(StackedEngine, "step", breaking)
    crew = Crew(tmp_path)
    specs = [spec_of(NETWORKS[0], seed) for seed in range(3)]
    crew.train([crew.member(one) for one in specs[:2]], [], [], [crew.member(specs[2])])
    assert [type(crew.ends[number]) for number in range(3)] == [
        torch.OutOfMemoryError,
        torch.OutOfMemoryError,
        Outcome,
    ]
