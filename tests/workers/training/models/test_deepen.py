"""Deeper networks that compute the function of a shallower one."""

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from service.catalog import architectures
from service.catalog.architectures import (
    ActivationOrder,
    Architecture,
    Block,
    Family,
    Shortcut,
    ShortcutForm,
)
from service.specs.job_spec import StartMode
from service.states import CheckpointPart
from tests.workers.training.support import run, small_spec
from workers.training import checkpoint
from workers.training.errors import WeightsMismatch
from workers.training.models import deepen, resnet
from workers.training.models.resnet import ResNet

# float32 rounding of a few added blocks, at logits of about 1.
MAX_LOGIT_DIFFERENCE = 1e-5

Pair = tuple[nn.Module, nn.Module]
Case = tuple[Family, int, int, Shortcut, dict[str, Any]]

BOTTLENECK: dict[str, Any] = {"block": Block.BOTTLENECK}
PREACTIVATED: dict[str, Any] = {"activation_order": ActivationOrder.FULL_PREACTIVATION}
RELU_ONLY: dict[str, Any] = {"activation_order": ActivationOrder.RELU_ONLY_PREACTIVATION}
BN_AFTER: dict[str, Any] = {"activation_order": ActivationOrder.BN_AFTER_ADDITION}
RELU_BEFORE: dict[str, Any] = {"activation_order": ActivationOrder.RELU_BEFORE_ADDITION}
GATED: dict[str, Any] = {"shortcut_form": ShortcutForm.SHORTCUT_ONLY_GATING}
SURVIVAL: dict[str, Any] = {"survival": 0.5}
IDENTITY: list[Case] = [  # added blocks add exactly zero
    (Family.CIFAR, 8, 20, Shortcut.A, {}),
    (Family.CIFAR, 8, 14, Shortcut.B, {}),
    (Family.CIFAR, 11, 20, Shortcut.A, BOTTLENECK),
    (Family.CIFAR, 8, 14, Shortcut.A, PREACTIVATED),
    (Family.CIFAR, 11, 20, Shortcut.B, BOTTLENECK | PREACTIVATED),
    (Family.CIFAR, 8, 14, Shortcut.A, RELU_ONLY),
    (Family.CIFAR, 11, 20, Shortcut.B, BOTTLENECK | RELU_ONLY),
    (Family.IMAGENET, 18, 34, Shortcut.B, {}),
]
INVERTED: list[Case] = [  # added blocks invert batch normalization
    (Family.CIFAR, 8, 20, Shortcut.NONE, {}),
    (Family.CIFAR, 8, 14, Shortcut.C, {}),
    (Family.CIFAR, 11, 20, Shortcut.C, BOTTLENECK),
    (Family.IMAGENET, 18, 34, Shortcut.NONE, {}),
]


@pytest.fixture(autouse=True)
def _equal_weights() -> None:
    torch.manual_seed(0)


def _trained(network: Architecture) -> nn.Module:
    """Trained for a few steps, so that every parameter and statistic has changed."""
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


@pytest.mark.parametrize("case", IDENTITY + INVERTED, ids=str)
def test_the_deeper_network_has_the_same_logits(case: Case) -> None:
    """In training mode exactly, or nearly where added blocks invert batch normalization."""
    seen = _images(64)
    model, grown = _pair(case, seen)
    if case in IDENTITY:
        images_NCHW = _images(8)
        assert torch.equal(model(images_NCHW), grown(images_NCHW))
    else:
        # Of the images whose statistics are inverted; a pass changes running statistics.
        before = [copy.deepcopy(network.state_dict()) for network in (model, grown)]
        torch.testing.assert_close(model(seen), grown(seen), rtol=0.0, atol=1e-4)
        for network, state in zip((model, grown), before, strict=True):
            network.load_state_dict(state)
    model.eval()
    grown.eval()
    images_NCHW = _images(8)
    for layout in (torch.contiguous_format, torch.channels_last):
        input_NCHW = images_NCHW.to(memory_format=layout)
        torch.testing.assert_close(
            grown(input_NCHW), model(input_NCHW), rtol=0.0, atol=MAX_LOGIT_DIFFERENCE
        )


def test_every_parameter_of_an_added_block_gets_a_gradient() -> None:
    """From the second step on: the first moves the last scale away from 0."""
    _, grown = _pair((Family.CIFAR, 8, 14, Shortcut.A, {}), _images(8))
    optimizer = torch.optim.SGD(grown.parameters(), lr=0.1)
    for _ in range(2):
        _step(grown, optimizer)
    added = grown.get_submodule("layer1.1")
    assert all(
        bool(param.grad.abs().sum() > 0) for param in added.parameters() if param.grad is not None
    )


@pytest.mark.parametrize(
    ("few", "many", "message"),
    [
        ((8, "A", {}), (8, "A", {}), "is not deeper"),
        ((14, "A", {}), (8, "A", {}), "is not deeper"),
        ((8, "A", {}), (14, "B", {}), "differ in shortcut"),
        ((8, "none", PREACTIVATED), (14, "none", PREACTIVATED), "can be the identity"),
        ((11, "none", BOTTLENECK), (20, "none", BOTTLENECK), "can be the identity"),
        ((8, "C", PREACTIVATED), (14, "C", PREACTIVATED), "projections see"),
        ((8, "C", RELU_ONLY), (14, "C", RELU_ONLY), "projections see"),
        ((8, "A", BN_AFTER), (14, "A", BN_AFTER), "batch norm follows its addition"),
        ((8, "A", RELU_BEFORE), (14, "A", RELU_BEFORE), "its branch ends in ReLU"),
        ((8, "A", GATED), (14, "A", GATED), "its shortcut has the form shortcut-only-gating"),
        ((8, "A", {}), (14, "A", GATED), "differ in shortcut_form, gate_bias"),
        ((8, "A", SURVIVAL), (14, "A", SURVIVAL), "depend on the number of blocks"),
        ((8, "A", {}), (14, "A", RELU_ONLY), "differ in activation_order"),
    ],
)
def test_architectures_that_cannot_be_deepened_say_why(few: Any, many: Any, message: str) -> None:
    shallow, deep = (
        architectures.make_architecture(Family.CIFAR, depth, Shortcut(shortcut), **choices)
        for depth, shortcut, choices in (few, many)
    )
    assert message in (architectures.find_deepening_mismatch(shallow, deep) or "")


@pytest.mark.parametrize("shortcut", ["A", "none"])
def test_a_deepened_run_starts_with_the_test_error_of_the_shallower_network(
    tmp_path: Path, shortcut: str
) -> None:
    """Trained with a learning rate that does not change the network."""
    recipe = {"iterations": 20, "warmup_learning_rate": None, "warmup_until_error": None}
    shallow, source = run(small_spec(recipe, shortcut=shortcut), tmp_path / "shallow")
    frozen = recipe | {"iterations": 1, "learning_rate": 1e-12}
    start = {"job": "0" * 16, "mode": "deepen"}
    spec = small_spec(frozen, shortcut=shortcut, depth=14, start_from=start)
    outcome, _ = run(
        spec, tmp_path / "deep", resume=source.files[shallow.iteration], start_mode=StartMode.DEEPEN
    )
    assert outcome.test_error is not None
    assert shallow.test_error is not None
    # One step has moved the running statistics by a tenth.
    assert abs(outcome.test_error - shallow.test_error) < 10.0


def test_starting_from_weights_begins_at_iteration_0(tmp_path: Path) -> None:
    _, source = run(small_spec(), tmp_path / "source")
    start = {"job": "0" * 16, "mode": "weights"}
    spec = small_spec(
        {"learning_rate": 1e-12, "warmup_learning_rate": None, "warmup_until_error": None},
        start_from=start,
        seed=3,
    )
    outcome, observer = run(
        spec, tmp_path / "own", resume=source.files[12], start_mode=StartMode.WEIGHTS
    )
    assert outcome.iteration == 12
    assert sorted(observer.files) == [6, 12], "from the first iteration on"
    ours, theirs = (
        checkpoint.load(files[12], spec=spec).weights
        for files, spec in ((observer.files, spec), (source.files, small_spec()))
    )
    torch.testing.assert_close(ours["conv1.weight"], theirs["conv1.weight"])


def test_fine_tuning_takes_all_weights_but_the_classifiers(tmp_path: Path) -> None:
    _, source = run(small_spec(), tmp_path / "source")
    spec = small_spec(
        {
            "name": "fine-tune",
            "iterations": 1,
            "batch_size": 3,
            "learning_rate": 1e-12,
            "warmup_learning_rate": None,
            "warmup_until_error": None,
        },
        dataset="folder:colors",
        start_from={"job": "0" * 16, "mode": "fine-tune"},
    )
    colors = tmp_path / "data" / "colors"
    for name, color in (("blue", (0, 0, 200)), ("red", (200, 0, 0)), ("sky", (0, 90, 200))):
        (colors / name).mkdir(parents=True)
        for number in range(5):
            Image.new("RGB", (32, 32), color).save(colors / name / f"{number}.png")
    _, observer = run(
        spec,
        tmp_path / "own",
        resume=source.files[12],
        start_mode=StartMode.FINE_TUNE,
        data_dir=colors.parent,
    )
    ours, theirs = (
        checkpoint.load(files, spec=spec).weights
        for files, spec in ((observer.files[1], spec), (source.files[12], small_spec()))
    )
    assert ours["fc.weight"].shape == (3, 64)
    for name in ("conv1.weight", "layer3.0.conv2.weight"):
        torch.testing.assert_close(ours[name], theirs[name])


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_fine_tuning_starts_from_published_weights(tmp_path: Path, suffix: str) -> None:
    published = torchvision.models.resnet18(num_classes=7)
    path = tmp_path / "data" / "weights" / f"resnet18.{suffix}"
    path.parent.mkdir(parents=True)
    if suffix == "pth":
        torch.save(published.state_dict(), path)
    else:
        safetensors.torch.save_file(published.state_dict(), path)
    recipe = {
        "name": "quick",
        "iterations": 1,
        "learning_rate": 1e-12,
        "warmup_learning_rate": None,
        "warmup_until_error": None,
    }
    start = {"weights": path.name}
    spec = small_spec(recipe, depth=18, shortcut="B", start_from=start)
    assert spec.start_from is not None
    assert spec.start_from.mode is StartMode.FINE_TUNE
    _, observer = run(spec, tmp_path / "own", data_dir=tmp_path / "data")
    assert f"starting with the weights of {path.name}" in observer.lines
    ours = checkpoint.load(observer.files[1], spec=spec).weights
    torch.testing.assert_close(ours["conv1.weight"], published.state_dict()["conv1.weight"])
    assert ours["fc.weight"].shape == (10, 512)

    for changed, message in (
        ({"depth": 34}, "has the weights of resnet-18-B of family imagenet; the job's network is"),
        ({"start_from": start | {"mode": "weights"}}, "does not fit resnet-18-B"),
        ({"start_from": {"weights": "missing.pth"}}, "does not have weights to start from"),
    ):
        fields: dict[str, Any] = {"depth": 18, "shortcut": "B", "start_from": start} | changed
        with pytest.raises(WeightsMismatch, match=message):
            run(small_spec(recipe, **fields), tmp_path / "other", data_dir=tmp_path / "data")


def test_weights_of_another_job_are_fine_tuned_from_their_file(tmp_path: Path) -> None:
    _, source = run(small_spec(), tmp_path / "source")
    (tmp_path / "data" / "weights").mkdir(parents=True)
    shutil.copy(
        source.files[12][CheckpointPart.WEIGHTS], tmp_path / "data/weights/mine.safetensors"
    )
    frozen = {"learning_rate": 1e-12, "warmup_learning_rate": None, "warmup_until_error": None}
    spec = small_spec(
        frozen | {"iterations": 1}, start_from={"weights": "mine.safetensors", "mode": "weights"}
    )
    _, observer = run(spec, tmp_path / "own", data_dir=tmp_path / "data")
    ours, theirs = (
        checkpoint.load(files, spec=spec).weights
        for files, spec in ((observer.files[1], spec), (source.files[12], small_spec()))
    )
    torch.testing.assert_close(ours["fc.weight"], theirs["fc.weight"])


def test_a_continued_run_equals_the_uninterrupted_one(tmp_path: Path) -> None:
    _, uninterrupted = run(small_spec(), tmp_path / "uninterrupted")
    start = {"job": "0" * 16, "mode": "continue"}
    spec = small_spec({"checkpoint_every": 4}, start_from=start)
    _, observer = run(
        spec, tmp_path / "own", resume=uninterrupted.files[6], start_mode=StartMode.CONTINUE
    )
    digest, expected = (
        checkpoint.weights_sha256(checkpoint.load(files[12], spec=spec).weights)
        for files, spec in ((uninterrupted.files, small_spec()), (observer.files, spec))
    )
    assert digest == expected


def test_weights_of_another_network_are_rejected(tmp_path: Path) -> None:
    _, source = run(small_spec({"iterations": 1}), tmp_path / "source")
    spec = small_spec(depth=14, start_from={"job": "0" * 16, "mode": "weights"})
    with pytest.raises(WeightsMismatch, match="do not fit resnet-14-A"):
        run(spec, tmp_path / "own", resume=source.files[1], start_mode=StartMode.WEIGHTS)
    assert CheckpointPart.WEIGHTS in source.files[1]
