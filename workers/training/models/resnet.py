"""The papers' networks in torch, with torchvision's module names.

An ImageNet network with option B and the stride in the 3x3 convolution is torchvision's: the same
state_dict keys, the same logits, and a backbone for its detectors. With other choices, and for
CIFAR, modules have the same names but no torchvision class computes the same function.

Shapes: N batch, C channels, H height, W width, K classes.
"""

import torch
from torch import Tensor, nn

from service.catalog.architectures import ActivationOrder, Architecture, Family, Stem
from service.specs.job_spec import JobSpec
from workers.training.models import blocks
from workers.training.models.blocks import ResidualBlock


def build_network(spec: JobSpec, classes: int) -> nn.Module:
    """The spec's network on the CPU; its weights depend on the spec's seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        return create_network(spec.architecture, classes=classes)


def create_network(network: Architecture, *, classes: int) -> nn.Module:
    """On the current device, with weights from torch's default generator."""
    if not network.is_vgg:
        return ResNet(network, classes=classes)
    from torchvision.models import get_model  # noqa: PLC0415 - seconds, for a baseline only

    suffix = "_bn" if network.family is Family.VGG_BN else ""
    vgg: nn.Module = get_model(f"vgg{network.depth}{suffix}", weights=None, num_classes=classes)
    return vgg


class ResNet(nn.Module):
    """A plain, residual or pre-activated network: images_NCHW float -> logits_NK.

    Family `cifar` is the network for 32x32 images (section 4.2), `imagenet` that of Table 1. Both
    accept other sizes, since the last feature map is averaged.
    """

    def __init__(self, network: Architecture, *, classes: int, channels: int = 3) -> None:
        super().__init__()
        stages = network.stages
        self.network = network
        self.inplanes = network.stem_width
        if network.stem is Stem.CIFAR:
            self.conv1 = blocks.make_conv(3, channels, self.inplanes)
        else:
            self.conv1 = blocks.make_conv(7, channels, self.inplanes, stride=2)
        self.bn1: nn.Module = nn.BatchNorm2d(self.inplanes)
        self.relu: nn.Module = nn.ReLU(inplace=True)
        self.maxpool: nn.Module = nn.Identity()
        if network.stem is Stem.IMAGENET:
            self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.stages = [f"layer{number}" for number in range(1, len(stages) + 1)]
        for name, stage in zip(self.stages, stages, strict=True):
            is_first = name == self.stages[0]
            self.add_module(
                name, blocks.make_stage(network, stage, self.inplanes, is_first=is_first)
            )
            self.inplanes = stage.out_channels
        if network.activation_order is ActivationOrder.FULL_PREACTIVATION:
            self.bn2 = nn.BatchNorm2d(self.inplanes)
            if network.stem is Stem.CIFAR:
                self.bn1 = self.relu = nn.Identity()  # the first block activates both its paths
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(self.inplanes, classes)
        self.apply(_init_weights)
        residual = [module for module in self.modules() if isinstance(module, ResidualBlock)]
        for block, survival in zip(residual, network.survival_probabilities, strict=True):
            block.survival = survival
            if block.gate is not None and network.gate_bias is not None:
                assert block.gate.bias is not None
                nn.init.constant_(block.gate.bias, network.gate_bias)
        if network.zero_init_residual:
            self.apply(_zero_init_residual)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        logits_NK: Tensor = self.fc(self.avgpool(self.forward_features(images_NCHW)).flatten(1))
        return logits_NK

    def forward_features(self, images_NCHW: Tensor) -> Tensor:
        """The activated maps_NCHW of the last stage, which the classifier averages."""
        maps_NCHW: Tensor = self.maxpool(self.relu(self.bn1(self.conv1(images_NCHW))))
        for name in self.stages:
            maps_NCHW = self.get_submodule(name)(maps_NCHW)
        # The activation of a next block, which the appendix of the second paper keeps here.
        if self.network.activation_order is ActivationOrder.FULL_PREACTIVATION:
            maps_NCHW = self.bn2(maps_NCHW)
        if self.network.activation_order.is_preactivation:
            return nn.functional.relu(maps_NCHW, inplace=True)
        return maps_NCHW


def _init_weights(module: nn.Module) -> None:
    """He et al. 2015, arXiv:1502.01852; fan_out as in the authors' Torch code and torchvision."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


def _zero_init_residual(module: nn.Module) -> None:
    """Makes each residual block start as its shortcut (Goyal et al. 2017, section 5.1)."""
    if isinstance(module, blocks.BasicBlock | blocks.Bottleneck):
        assert isinstance(module.last_norm, nn.BatchNorm2d)
        nn.init.zeros_(module.last_norm.weight)
