"""Dropped, repeated and reordered parts, against networks that are computed step by step.

Shapes: N batch, C channels, H height, W width, K classes.
"""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from service.catalog import architectures
from service.catalog.architectures import ActivationOrder, Block, Family, Shortcut, ShortcutForm
from tests.workers.training.analyses.support import (
    Reports,
    Stop,
    check_unchanged,
    copy_state,
    make_images,
    make_network,
)
from tests.workers.training.models.reference_network import ReferenceNetwork
from tests.workers.training.models.test_blocks import build
from workers.training.analyses import lesion
from workers.training.analyses.lesion import LesionKind, LesionResult
from workers.training.models import resnet
from workers.training.models.resnet import ResNet

CHOICES: list[dict[str, Any]] = [
    *({"activation_order": order} for order in ActivationOrder),
    {"shortcut_form": ShortcutForm.EXCLUSIVE_GATING, "gate_bias": -1.0},
    {"shortcut_form": ShortcutForm.CONSTANT_SCALING},
]
IMAGES = make_images()


def study(model: nn.Module, **options: Any) -> list[LesionResult]:
    chosen: dict[str, Any] = {"max_deleted": 0, "max_pairs": 0, "samples": 1, "seed": 0}
    reports = Reports()
    results = lesion.study_lesions(model, IMAGES, **chosen | options, report=reports)
    reports.check_complete()
    return results


def loss_of(logits_NK: Tensor) -> float:
    labels_N = torch.cat([labels_N for _, labels_N in IMAGES.batches])
    return functional.cross_entropy(logits_NK, labels_N).item()


def all_images() -> Tensor:
    return torch.cat([images_NCHW for images_NCHW, _ in IMAGES.batches])


def losses(results: list[LesionResult], kind: LesionKind) -> dict[str, float | None]:
    return {
        " ".join(result.lesion.parts): None if result.means is None else result.means.loss
        for result in results
        if result.lesion.kind is kind
    }


@pytest.mark.parametrize("choices", CHOICES, ids=str)
@pytest.mark.parametrize("shortcut", [Shortcut.A, Shortcut.C])
@torch.no_grad()
def test_of_a_dropped_block_the_shortcut_stays(shortcut: Shortcut, choices: dict[str, Any]) -> None:
    model = build(make_network(8, shortcut, **choices))
    results = study(model)
    dropped = losses(results, LesionKind.DROP)
    names = [f"layer{stage}.0" for stage in (1, 2, 3)]
    assert list(dropped) == names
    for number, name in enumerate(names):
        scales = tuple(float(other != number) for other in range(3))
        reference = ReferenceNetwork(model.network, model.state_dict(), branch_scales=scales)
        assert dropped[name] == pytest.approx(loss_of(reference(all_images())), rel=1e-4)
    intact = ReferenceNetwork(model.network, model.state_dict())
    (before,) = losses(results, LesionKind.NONE).values()
    assert before == pytest.approx(loss_of(intact(all_images())), rel=1e-4)


@pytest.mark.parametrize(
    ("block", "depth", "movable"),
    [
        (Block.BASIC, 14, ["layer1.0", "layer1.1", "layer2.1", "layer3.1"]),
        (Block.BOTTLENECK, 20, ["layer1.1", "layer2.1", "layer3.1"]),
    ],
)
@torch.no_grad()
def test_swapped_blocks_change_places_and_repeated_ones_come_twice(
    block: Block, depth: int, movable: list[str]
) -> None:
    model = build(make_network(depth, Shortcut.A, block=block))
    results = study(model, max_pairs=1)
    swaps = losses(results, LesionKind.SWAP)
    assert list(swaps) == (["layer1.0 layer1.1"] if block is Block.BASIC else [])
    for pair, loss in swaps.items():
        first, second = pair.split()
        swapped = build(model.network)
        state = copy_state(model)
        for name, tensor in model.state_dict().items():
            if name.startswith(f"{first}."):
                state[name.replace(first, second)] = tensor
            elif name.startswith(f"{second}."):
                state[name.replace(second, first)] = tensor
        swapped.load_state_dict(state)
        assert loss == pytest.approx(loss_of(swapped(all_images())), rel=1e-5)
    repeats = losses(results, LesionKind.REPEAT)
    assert list(repeats) == movable
    for name, loss in repeats.items():
        assert loss == pytest.approx(loss_of(_compute_with_repeated(model, name)), rel=1e-5)


def _compute_with_repeated(model: ResNet, name: str) -> Tensor:
    maps_NCHW = model.relu(model.bn1(model.conv1(all_images())))
    for stage in model.stages:
        for index, block in enumerate(model.get_submodule(stage).children()):
            for _ in range(2 if f"{stage}.{index}" == name else 1):
                maps_NCHW = block(maps_NCHW)
    logits_NK: Tensor = model.fc(maps_NCHW.mean(dim=(2, 3)))
    return logits_NK


@torch.no_grad()
def test_a_dropped_layer_of_a_plain_network_passes_its_input_on() -> None:
    model = build(make_network(8, Shortcut.NONE))
    dropped = losses(study(model), LesionKind.DROP)
    assert [name for name, loss in dropped.items() if loss is None] == [
        "layer2.0.conv1",
        "layer3.0.conv1",
    ]
    reference = build(model.network)
    reference.load_state_dict(model.state_dict())
    block = reference.get_submodule("layer3.0")
    block.conv2, block.bn2 = nn.Identity(), nn.Identity()
    assert dropped["layer3.0.conv2"] == pytest.approx(loss_of(reference(all_images())), rel=1e-5)


@torch.no_grad()
def test_a_dropped_layer_of_a_plain_preactivated_network_passes_its_input_on() -> None:
    order = ActivationOrder.FULL_PREACTIVATION
    model = build(make_network(8, Shortcut.NONE, activation_order=order))
    dropped = losses(study(model), LesionKind.DROP)
    maps_NCHW = model.conv1(all_images())
    for name in ("layer1.0", "layer2.0", "layer3.0"):
        block: Any = model.get_submodule(name)
        maps_NCHW = block.conv1(block.bn1(maps_NCHW).relu())
        if name != "layer2.0":
            maps_NCHW = block.conv2(block.bn2(maps_NCHW).relu())
    logits_NK = model.fc(model.bn2(maps_NCHW).relu().mean(dim=(2, 3)))
    assert dropped["layer2.0.conv2"] == pytest.approx(loss_of(logits_NK), rel=1e-5)


def test_vgg_layers_that_keep_the_shape_can_be_dropped() -> None:
    network = architectures.make_architecture(Family.VGG_BN, 16, Shortcut.NONE)
    with torch.device("meta"):
        model = resnet.create_network(network, classes=10)
    parts = lesion._Parts(model)
    assert len(parts.droppable) == 13
    assert [part for part in parts.droppable if not parts.keeps_shape(part)] == [
        f"features.{index}" for index in (0, 7, 14, 24)
    ]
    assert parts.movable == {}


@torch.no_grad()
def test_all_blocks_deleted_leave_the_shortcuts_alone() -> None:
    model = build(make_network(8, Shortcut.B))
    deleted = losses(study(model, max_deleted=99, samples=2), LesionKind.DELETE)
    reference = ReferenceNetwork(model.network, model.state_dict(), branch_scales=(0.0, 0.0, 0.0))
    expected = loss_of(reference(all_images()))
    assert deleted["layer1.0 layer2.0 layer3.0"] == pytest.approx(expected, rel=1e-5)


def test_the_seed_decides_what_is_drawn() -> None:
    parts = lesion._Parts(build(make_network(32, Shortcut.A)))

    def draw(seed: int) -> list[lesion.Lesion]:
        return [
            *lesion._draw_deletions(parts, 4, 5, seed),
            *lesion._draw_swaps(parts, 4, 5, seed),
        ]

    assert draw(7) == draw(7)
    assert draw(7) != draw(8)
    for drawn in draw(7):
        if drawn.kind is LesionKind.DELETE:
            assert len(set(drawn.parts)) == len(drawn.parts)
        else:
            pairs = zip(drawn.parts[::2], drawn.parts[1::2], strict=True)
            assert all(left != right and left[:6] == right[:6] for left, right in pairs)
            assert not {"layer2.0", "layer3.0"} & set(drawn.parts)


@pytest.mark.parametrize(
    ("permuted", "expected"),
    [("abcd", 1.0), ("dcba", -1.0), ("bacd", 1 - 2 / 6), ("dbca", 1 - 2 * 5 / 6), ("a", 1.0)],
)
def test_kendalls_tau_counts_pairs_in_the_wrong_order(permuted: str, expected: float) -> None:
    assert lesion.kendall_tau(sorted(permuted), permuted) == pytest.approx(expected)


@pytest.mark.parametrize("shortcut", [Shortcut.A, Shortcut.NONE])
@pytest.mark.parametrize("stop_after", [None, 2, 8, 13])
def test_the_network_is_as_before_also_after_a_stop(
    shortcut: Shortcut, stop_after: int | None
) -> None:
    model = build(make_network(14, shortcut))
    modules = dict(model.named_modules())
    before = copy_state(model)
    reports = Reports(stop_after)
    options: dict[str, Any] = {"max_deleted": 2, "max_pairs": 1, "samples": 1, "seed": 0}
    try:
        lesion.study_lesions(model, make_images(1), **options, report=reports)
    except Stop:
        assert stop_after is not None
    check_unchanged(model, before)
    assert dict(model.named_modules()) == modules
