from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from service import networks
from service.networks import Family, Shortcut, StrideAt
from tests.workers.training.support import small_spec
from workers.training import resnet
from workers.training.checkpoint import weights_sha256
from workers.training.resnet import PaddedShortcut, ResNet

SHALLOW = [
    (Family.CIFAR, 8),
    (Family.CIFAR, 20),
    (Family.IMAGENET, 18),
    (Family.IMAGENET, 34),
    (Family.IMAGENET, 50),
]


def images(*, size: int, count: int = 2) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def imagenet(depth: int, shortcut: Shortcut = Shortcut.B, **options: Any) -> ResNet:
    return ResNet(Family.IMAGENET, depth, shortcut, classes=1000, **options)


@pytest.mark.parametrize("depth", sorted(networks.IMAGENET_STAGES))
@torch.no_grad()
def test_option_b_weights_go_to_torchvision_and_back_with_equal_logits(depth: int) -> None:
    ours = imagenet(depth).eval()
    theirs = torchvision.models.get_model(f"resnet{depth}", weights=None).eval()
    images_NCHW = images(size=64)

    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert torch.equal(theirs(images_NCHW), ours(images_NCHW))

    nn.init.normal_(theirs.conv1.weight)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert torch.equal(theirs(images_NCHW), ours(images_NCHW))


def test_children_are_named_and_ordered_as_detection_backbones_expect() -> None:
    ours = imagenet(18)
    theirs = torchvision.models.resnet18()
    assert [name for name, _ in ours.named_children()] == [
        name for name, _ in theirs.named_children()
    ]
    assert ours.inplanes == theirs.inplanes == 512


@torch.no_grad()
def test_the_papers_stride_takes_the_same_weights_and_computes_something_else() -> None:
    ours = imagenet(50).eval()
    paper = imagenet(50, stride_at=StrideAt.CONV_1X1).eval()
    paper.load_state_dict(ours.state_dict(), strict=True)
    images_NCHW = images(size=64)
    assert not torch.allclose(paper(images_NCHW), ours(images_NCHW))


@pytest.mark.parametrize("shortcut", list(Shortcut))
@pytest.mark.parametrize(("family", "depth"), SHALLOW)
def test_counts_are_those_of_the_built_network(
    family: Family, depth: int, shortcut: Shortcut
) -> None:
    size = 75 if family is Family.IMAGENET else 27  # odd sizes: every halving rounds
    counted = networks.count(family, depth, shortcut, classes=7, height=size, width=size + 2)
    with torch.device("meta"):
        network = ResNet(family, depth, shortcut, classes=7)
        with FlopCounterMode(display=False) as flops:
            network(torch.empty(1, 3, size, size + 2))

    assert counted.parameters == sum(each.numel() for each in network.parameters())
    assert counted.buffers == sum(each.numel() for each in network.buffers())
    assert 2 * counted.multiply_adds == flops.get_total_flops()
    weighted = [each for each in network.modules() if isinstance(each, nn.Conv2d | nn.Linear)]
    assert counted.layers == len(weighted)
    assert counted.conv_fc_parameters == sum(
        parameter.numel() for each in weighted for parameter in each.parameters()
    )
    assert counted.bn_parameters == counted.parameters - counted.conv_fc_parameters


@pytest.mark.parametrize("depth", [20, 56, 110])
def test_plain_and_option_a_networks_have_the_same_weights(depth: int) -> None:
    with torch.device("meta"):
        plain, residual = (
            ResNet(Family.CIFAR, depth, shortcut, classes=10)
            for shortcut in (Shortcut.NONE, Shortcut.A)
        )
    assert plain.state_dict().keys() == residual.state_dict().keys()


def test_option_a_keeps_every_second_pixel_and_adds_zeros_at_the_end() -> None:
    maps_NCHW = images(size=8)
    shortened_NCHW = PaddedShortcut(new_channels=3, stride=2)(maps_NCHW)
    assert shortened_NCHW.shape == (2, 6, 4, 4)
    assert torch.equal(shortened_NCHW[:, :3], maps_NCHW[:, :, ::2, ::2])
    assert not shortened_NCHW[:, 3:].any()


@torch.no_grad()
def test_a_residual_block_with_a_silent_branch_is_the_identity() -> None:
    block = resnet.BasicBlock(16, 16, stride=1, shortcut=Shortcut.A).eval()
    nn.init.zeros_(block.bn2.weight)
    maps_NCHW = torch.rand(2, 16, 4, 4)
    assert torch.equal(block(maps_NCHW), maps_NCHW)


@torch.no_grad()
def test_a_plain_block_with_a_silent_branch_is_silent() -> None:
    block = resnet.BasicBlock(16, 16, stride=1, shortcut=Shortcut.NONE).eval()
    nn.init.zeros_(block.bn2.weight)
    assert not block(torch.rand(2, 16, 4, 4)).any()


def test_weights_are_drawn_as_he_et_al_did() -> None:
    network = ResNet(Family.CIFAR, 20, Shortcut.A, classes=10)
    convolution = network.get_submodule("layer3.1.conv2")
    assert isinstance(convolution, nn.Conv2d)
    assert convolution.weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)
    assert not network.fc.bias.any()


def test_the_seed_decides_the_weights_and_nothing_else_does() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = weights_sha256(resnet.build(small_spec(), 10).state_dict())
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert weights_sha256(resnet.build(small_spec(), 10).state_dict()) == first
    assert weights_sha256(resnet.build(small_spec(seed=1), 10).state_dict()) != first
