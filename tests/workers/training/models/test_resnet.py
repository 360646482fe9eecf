from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor

from service.catalog import architectures, model_stats
from service.catalog.architectures import (
    ActivationOrder,
    Architecture,
    Block,
    Family,
    Shortcut,
    ShortcutForm,
    Stem,
    StrideAt,
    ZeroPadding,
)
from tests.workers.training.support import small_spec
from workers.training.checkpoint import weights_sha256
from workers.training.models import blocks, resnet
from workers.training.models.blocks import PaddedShortcut
from workers.training.models.resnet import ResNet

CIFAR, IMAGENET = Family.CIFAR, Family.IMAGENET
PREACT = ActivationOrder.FULL_PREACTIVATION


def network(
    family: Family, depth: int, shortcut: Shortcut = Shortcut.A, **choices: Any
) -> Architecture:
    return architectures.make_architecture(family, depth, shortcut, **choices)


SHALLOW = [
    network(family, depth, shortcut, activation_order=order, **choices)
    for shortcut in Shortcut
    for order in architectures.PLAIN_ORDERS
    for family, depth, choices in (
        (CIFAR, 8, {}),
        (CIFAR, 20, {}),
        (CIFAR, 11, {"block": Block.BOTTLENECK}),
        (IMAGENET, 18, {}),
        (IMAGENET, 18, {"stem": Stem.CIFAR}),
        (IMAGENET, 34, {}),
        (IMAGENET, 50, {}),
        (IMAGENET, 50, {"stride_at": StrideAt.CONV_3X3}),
    )
]
VARIANTS = [
    network(family, depth, shortcut, shortcut_form=form, activation_order=order, **choices)
    for shortcut in (Shortcut.A, Shortcut.B, Shortcut.C)
    for form, order in (
        *((ShortcutForm.IDENTITY, order) for order in ActivationOrder),
        *((form, ActivationOrder.ORIGINAL) for form in ShortcutForm),
        (ShortcutForm.EXCLUSIVE_GATING, PREACT),
    )
    if form is not ShortcutForm.IDENTITY or order not in architectures.PLAIN_ORDERS
    for family, depth, choices in (
        (CIFAR, 8, {}),
        (CIFAR, 11, {"block": Block.BOTTLENECK}),
        (IMAGENET, 18, {}),
    )
]


def images(*, size: int, count: int = 2) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def imagenet(depth: int, **choices: Any) -> ResNet:
    choices = {"stride_at": StrideAt.CONV_3X3} | choices
    return ResNet(network(IMAGENET, depth, Shortcut.B, **choices), classes=1000)


SLOW = [pytest.param(depth, marks=pytest.mark.slow) for depth in (101, 152)]


@pytest.mark.parametrize("depth", [18, 34, 50, *SLOW])
@torch.no_grad()
def test_option_b_weights_convert_to_torchvision_and_back_with_equal_logits(depth: int) -> None:
    ours = imagenet(depth).eval()
    theirs = torchvision.models.get_model(f"resnet{depth}", weights=None).eval()
    images_NCHW = images(size=64)

    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert torch.equal(theirs(images_NCHW), ours(images_NCHW))

    nn.init.normal_(theirs.conv1.weight)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert torch.equal(theirs(images_NCHW), ours(images_NCHW))


def test_children_have_the_names_and_order_that_detection_backbones_expect() -> None:
    ours = imagenet(18)
    theirs = torchvision.models.resnet18()
    assert [name for name, _ in ours.named_children()] == [
        name for name, _ in theirs.named_children()
    ]
    assert ours.inplanes == theirs.inplanes == 512


@pytest.mark.parametrize("depth", [18, 50])
def test_our_networks_are_detection_backbones(depth: int) -> None:
    body = imagenet(depth)
    backbone = _resnet_fpn_extractor(body, trainable_layers=3)
    frozen = {name for name, param in body.named_parameters() if not param.requires_grad}
    assert {name.split(".")[0] for name in frozen} == {"conv1", "bn1", "layer1", "fc"}
    detector = torchvision.models.detection.FasterRCNN(
        backbone, num_classes=3, min_size=64, max_size=64
    ).eval()
    with torch.no_grad():
        levels = backbone(images(size=64))
        (found,) = detector([images(size=64)[0]])
    assert list(levels) == ["0", "1", "2", "3", "pool"]
    assert found.keys() == {"boxes", "labels", "scores"}


@torch.no_grad()
def test_the_papers_stride_loads_the_same_weights_and_computes_other_logits() -> None:
    ours = imagenet(50).eval()
    paper = imagenet(50, stride_at=StrideAt.CONV_1X1).eval()
    paper.load_state_dict(ours.state_dict(), strict=True)
    images_NCHW = images(size=64)
    assert not torch.allclose(paper(images_NCHW), ours(images_NCHW))


def check_counts(architecture: Architecture, *, height: int, width: int) -> None:
    stats = model_stats.compute_model_stats(architecture, classes=7, height=height, width=width)
    with torch.device("meta"):
        built = resnet.create_network(architecture, classes=7)
        with FlopCounterMode(display=False) as flops:
            built(torch.empty(1, 3, height, width))

    assert stats.parameters == sum(param.numel() for param in built.parameters())
    assert stats.buffers == sum(buffer.numel() for buffer in built.buffers())
    assert 2 * stats.multiply_adds == flops.get_total_flops()
    weighted = [module for module in built.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert stats.layers == len(weighted)
    assert stats.conv_fc_parameters == sum(
        param.numel() for module in weighted for param in module.parameters()
    )
    assert stats.bn_parameters == stats.parameters - stats.conv_fc_parameters


@pytest.mark.parametrize(
    "architecture", SHALLOW + VARIANTS, ids=lambda network: f"{network.family}-{network.label}"
)
def test_stats_equal_those_of_the_built_network(architecture: Architecture) -> None:
    size = 75 if architecture.family is IMAGENET else 27  # odd sizes: every halving rounds
    check_counts(architecture, height=size, width=size + 2)


@pytest.mark.parametrize("depth", [110, 164])
def test_gates_add_a_1x1_convolution_with_biases_to_each_block(depth: int) -> None:
    """54 blocks: one for each gate, as many channels out of it as out of its block."""
    plain, gated = (
        model_stats.compute_model_stats(
            network(CIFAR, depth, Shortcut.A, shortcut_form=form), classes=10, height=32, width=32
        )
        for form in (ShortcutForm.IDENTITY, ShortcutForm.EXCLUSIVE_GATING)
    )
    e = 1 if depth == 110 else 4
    inputs = [16, *[16 * e] * 17, 16 * e, *[32 * e] * 17, 32 * e, *[64 * e] * 17]
    outputs = [*[16 * e] * 18, *[32 * e] * 18, *[64 * e] * 18]
    pairs = list(zip(inputs, outputs, strict=True))
    assert gated.layers - plain.layers == 54
    assert gated.parameters - plain.parameters == sum(i * o + o for i, o in pairs)
    positions = [*[32**2] * 18, *[16**2] * 18, *[8**2] * 18]
    assert gated.multiply_adds - plain.multiply_adds == sum(
        i * o * p for (i, o), p in zip(pairs, positions, strict=True)
    )


@pytest.mark.parametrize("family", [Family.VGG, Family.VGG_BN])
@pytest.mark.parametrize("depth", [16, 19])
def test_vgg_stats_equal_those_of_torchvisions_network(family: Family, depth: int) -> None:
    check_counts(network(family, depth, Shortcut.NONE), height=75, width=77)


def test_resnet_18_with_a_cifar_stem_has_the_known_number_of_parameters() -> None:
    architecture = network(IMAGENET, 18, Shortcut.B, stem=Stem.CIFAR)
    stats = model_stats.compute_model_stats(architecture, classes=10, height=32, width=32)
    assert stats.parameters == 11_173_962  # kuangliu's "ResNet18"
    assert architecture.label == "resnet-18-B-cifar-stem"


@pytest.mark.parametrize("depth", [20, 56, 110])
def test_plain_and_option_a_networks_have_the_same_weights(depth: int) -> None:
    with torch.device("meta"):
        plain, residual = (
            ResNet(network(CIFAR, depth, shortcut), classes=10)
            for shortcut in (Shortcut.NONE, Shortcut.A)
        )
    assert plain.state_dict().keys() == residual.state_dict().keys()


def test_option_a_subsamples_and_appends_zero_channels() -> None:
    maps_NCHW = images(size=8)
    shortened_NCHW = PaddedShortcut(3, 2, ZeroPadding.END)(maps_NCHW)
    assert shortened_NCHW.shape == (2, 6, 4, 4)
    assert torch.equal(shortened_NCHW[:, :3], maps_NCHW[:, :, ::2, ::2])
    assert not shortened_NCHW[:, 3:].any()


def test_option_a_can_add_zero_channels_on_both_sides() -> None:
    maps_NCHW = images(size=8)
    shortened_NCHW = PaddedShortcut(4, 2, ZeroPadding.BOTH)(maps_NCHW)
    assert torch.equal(shortened_NCHW[:, 2:5], maps_NCHW[:, :, ::2, ::2])
    assert not shortened_NCHW[:, [0, 1, 5, 6]].any()


def test_the_gradient_of_option_a_has_the_memory_format_of_the_maps() -> None:
    maps_NCHW = images(size=8).contiguous(memory_format=torch.channels_last).requires_grad_()
    shortened_NCHW = PaddedShortcut(3, 2, ZeroPadding.END)(maps_NCHW)
    assert shortened_NCHW.is_contiguous(memory_format=torch.channels_last)
    (gradient_NCHW,) = torch.autograd.grad(shortened_NCHW.sum(), maps_NCHW)
    assert gradient_NCHW.is_contiguous(memory_format=torch.channels_last)


def basic_block(shortcut: Shortcut) -> blocks.BasicBlock:
    architecture = network(CIFAR, 8, shortcut)
    stage = architecture.stages[0]
    return blocks.BasicBlock(architecture, stage, inputs=16, stride=1).eval()


@torch.no_grad()
def test_a_residual_block_whose_branch_is_zero_is_the_identity() -> None:
    block = basic_block(Shortcut.A)
    nn.init.zeros_(block.bn2.weight)
    maps_NCHW = torch.rand(2, 16, 4, 4)
    assert torch.equal(block(maps_NCHW), maps_NCHW)


@torch.no_grad()
def test_a_plain_block_whose_branch_is_zero_returns_zero() -> None:
    block = basic_block(Shortcut.NONE)
    nn.init.zeros_(block.bn2.weight)
    assert not block(torch.rand(2, 16, 4, 4)).any()


@pytest.mark.parametrize(("family", "depth"), [(CIFAR, 20), (IMAGENET, 50)])
def test_zero_init_residual_zeroes_the_last_batch_norm_of_each_branch(
    family: Family, depth: int
) -> None:
    built = ResNet(network(family, depth, Shortcut.B, zero_init_residual=True), classes=10)
    zeroed = {
        name
        for name, module in built.named_modules()
        if isinstance(module, nn.BatchNorm2d) and not module.weight.any()
    }
    last = "bn2" if family is CIFAR else "bn3"
    assert zeroed == {name for name, _ in built.named_modules() if name.endswith(f".{last}")}


@pytest.mark.slow
def test_gradients_of_1001_layers_reach_the_first() -> None:
    architecture = network(
        CIFAR, 1001, Shortcut.B, activation_order=ActivationOrder.FULL_PREACTIVATION
    )
    built = resnet.create_network(architecture, classes=10)
    built(images(size=8)).logsumexp(dim=1).sum().backward()
    gradient = built.get_parameter("conv1.weight").grad
    assert gradient is not None
    assert gradient.isfinite().all()
    assert gradient.any()


def test_weights_have_he_initialization() -> None:
    built = ResNet(network(CIFAR, 20), classes=10)
    convolution = built.get_submodule("layer3.1.conv2")
    assert isinstance(convolution, nn.Conv2d)
    assert convolution.weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)
    assert not built.fc.bias.any()


def test_only_the_seed_determines_the_initial_weights() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = weights_sha256(resnet.build_network(small_spec(), 10).state_dict())
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert weights_sha256(resnet.build_network(small_spec(), 10).state_dict()) == first
    assert weights_sha256(resnet.build_network(small_spec(seed=1), 10).state_dict()) != first
