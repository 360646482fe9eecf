"""The solution by construction: deeper networks that compute what shallower ones do."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from service.catalog import architectures
from service.catalog.architectures import Architecture, Block, Family, Shortcut
from service.specs.job_spec import StartMode
from service.states import CheckpointPart
from tests.workers.training.support import run, small_spec
from workers.training import checkpoint
from workers.training.errors import WeightsMismatch
from workers.training.models import deepen, resnet
from workers.training.models.resnet import ResNet

Pair = tuple[nn.Module, nn.Module]
Case = tuple[Family, int, int, Shortcut, dict[str, Any]]

BOTTLENECK: dict[str, Any] = {"block": Block.BOTTLENECK}
PREACTIVATED: dict[str, Any] = {"preactivation": True}
SILENT: list[Case] = [  # their added blocks add nothing at all
    (Family.CIFAR, 8, 20, Shortcut.A, {}),
    (Family.CIFAR, 8, 14, Shortcut.B, {}),
    (Family.CIFAR, 11, 20, Shortcut.A, BOTTLENECK),
    (Family.CIFAR, 8, 14, Shortcut.A, PREACTIVATED),
    (Family.CIFAR, 11, 20, Shortcut.B, BOTTLENECK | PREACTIVATED),
    (Family.IMAGENET, 18, 34, Shortcut.B, {}),
]
UNDONE: list[Case] = [  # theirs undo batch normalisations
    (Family.CIFAR, 8, 20, Shortcut.NONE, {}),
    (Family.CIFAR, 8, 14, Shortcut.C, {}),
    (Family.CIFAR, 11, 20, Shortcut.C, BOTTLENECK),
    (Family.IMAGENET, 18, 34, Shortcut.NONE, {}),
]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def _trained(network: Architecture) -> nn.Module:
    """A few steps away from its beginning: every parameter and statistic has moved."""
    model = resnet.create_network(network, classes=10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(3):
        _step(model, optimizer)
    return model


def _step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    loss = functional.cross_entropy(model(_images(16)), torch.randint(0, 10, (16,)))
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def _images(count: int) -> Tensor:
    return torch.randn(count, 3, 32, 32)


def _pair(case: Case, seen: Tensor) -> Pair:
    family, few, many, shortcut, choices = case
    shallow = architectures.make_architecture(family, few, shortcut, **choices)
    model = _trained(shallow)
    grown = resnet.create_network(
        architectures.make_architecture(family, many, shortcut, **choices), classes=10
    )
    assert isinstance(grown, ResNet)
    deepen.deepen_network(grown, model.state_dict(), shallow, seen)
    return model, grown


@pytest.mark.parametrize("case", SILENT + UNDONE, ids=str)
def test_the_logits_are_equal_to_the_last_bit(case: Case) -> None:
    model, grown = (each.eval() for each in _pair(case, _images(64)))
    images_NCHW = _images(8)
    for layout in (torch.contiguous_format, torch.channels_last):
        there_NCHW = images_NCHW.to(memory_format=layout)
        assert torch.equal(model(there_NCHW), grown(there_NCHW))


@pytest.mark.parametrize("case", SILENT, ids=str)
def test_a_residual_network_computes_the_same_in_training_too(case: Case) -> None:
    model, grown = _pair(case, _images(8))
    images_NCHW = _images(8)
    assert torch.equal(model(images_NCHW), grown(images_NCHW))


@pytest.mark.parametrize("case", UNDONE, ids=str)
def test_an_undone_normalisation_is_nearly_undone_in_training(case: Case) -> None:
    seen = _images(64)
    model, grown = _pair(case, seen)
    torch.testing.assert_close(model(seen), grown(seen), rtol=0.0, atol=1e-4)


def test_every_parameter_of_an_added_block_comes_to_learn() -> None:
    """After the first step, which moves the last scale from 0."""
    _, grown = _pair((Family.CIFAR, 8, 14, Shortcut.A, {}), _images(8))
    optimizer = torch.optim.SGD(grown.parameters(), lr=0.1)
    for _ in range(2):
        _step(grown, optimizer)
    added = grown.get_submodule("layer1.1")
    assert all(
        bool(each.grad.abs().sum() > 0) for each in added.parameters() if each.grad is not None
    )


@pytest.mark.parametrize(
    ("few", "many", "words"),
    [
        ((8, "A", {}), (8, "A", {}), "is not deeper"),
        ((14, "A", {}), (8, "A", {}), "is not deeper"),
        ((8, "A", {}), (14, "B", {}), "differ in shortcut"),
        ((8, "none", PREACTIVATED), (14, "none", PREACTIVATED), "can be the identity"),
        ((11, "none", BOTTLENECK), (20, "none", BOTTLENECK), "can be the identity"),
        ((8, "C", PREACTIVATED), (14, "C", PREACTIVATED), "projections see"),
    ],
)
def test_what_has_no_such_solution_says_why(few: Any, many: Any, words: str) -> None:
    shallow, deep = (
        architectures.make_architecture(Family.CIFAR, depth, Shortcut(shortcut), **choices)
        for depth, shortcut, choices in (few, many)
    )
    assert words in (architectures.find_deepening_mismatch(shallow, deep) or "")


@pytest.mark.parametrize("shortcut", ["A", "none"])
def test_a_training_begins_with_the_shallower_ones_test_error(
    tmp_path: Path, shortcut: str
) -> None:
    """Through the loop, with a learning rate that leaves the network where it begins."""
    recipe = {"iterations": 20, "warmup_learning_rate": None, "warmup_until_error": None}
    shallow, source = run(small_spec(recipe, shortcut=shortcut), tmp_path / "shallow")
    still = recipe | {"iterations": 1, "learning_rate": 1e-12}
    start = {"job": "0" * 16, "mode": "deepen"}
    job = small_spec(still, shortcut=shortcut, depth=14, start_from=start)
    outcome, _ = run(
        job, tmp_path / "deep", resume=source.files[shallow.iteration], mode=StartMode.DEEPEN
    )
    assert outcome.result.test_error is not None
    assert shallow.result.test_error is not None
    # One step has moved the running statistics by a tenth.
    assert abs(outcome.result.test_error - shallow.result.test_error) < 10.0


def test_weights_begin_a_run_anew(tmp_path: Path) -> None:
    _, source = run(small_spec(), tmp_path / "source")
    start = {"job": "0" * 16, "mode": "weights"}
    job = small_spec(
        {"learning_rate": 1e-12, "warmup_learning_rate": None, "warmup_until_error": None},
        start_from=start,
        seed=3,
    )
    outcome, recorder = run(job, tmp_path / "own", resume=source.files[12], mode=StartMode.WEIGHTS)
    assert outcome.iteration == 12
    assert sorted(recorder.files) == [6, 12], "from the first iteration on"
    ours, theirs = (
        checkpoint.load(files[12], spec=spec).weights
        for files, spec in ((recorder.files, job), (source.files, small_spec()))
    )
    torch.testing.assert_close(ours["conv1.weight"], theirs["conv1.weight"])


def test_a_continued_run_is_the_uninterrupted_one(tmp_path: Path) -> None:
    _, whole = run(small_spec(), tmp_path / "whole")
    start = {"job": "0" * 16, "mode": "continue"}
    job = small_spec({"checkpoint_every": 4}, start_from=start)
    _, recorder = run(job, tmp_path / "own", resume=whole.files[6], mode=StartMode.CONTINUE)
    one, other = (
        checkpoint.weights_sha256(checkpoint.load(files[12], spec=spec).weights)
        for files, spec in ((whole.files, small_spec()), (recorder.files, job))
    )
    assert one == other


def test_other_networks_weights_are_refused_in_words(tmp_path: Path) -> None:
    _, source = run(small_spec({"iterations": 1}), tmp_path / "source")
    job = small_spec(depth=14, start_from={"job": "0" * 16, "mode": "weights"})
    with pytest.raises(WeightsMismatch, match="do not fit resnet-14-A"):
        run(job, tmp_path / "own", resume=source.files[1], mode=StartMode.WEIGHTS)
    assert CheckpointPart.WEIGHTS in source.files[1]
