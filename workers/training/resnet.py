"""The networks of He et al. 2015 (arXiv:1512.03385) in torch, with torchvision's names.

An ImageNet network with option B has torchvision's state_dict to the last key and computes the
same logits. With any other shortcut, and for CIFAR, the modules are called the same, but no
torchvision class takes the weights.

Shapes: N batch, C channels, H height, W width, K classes.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from service import networks
from service.networks import Family, Shortcut, Stage, StrideAt
from service.spec import JobSpec


def build(spec: JobSpec, classes: int) -> "ResNet":
    """The spec's network on the CPU, its weights drawn from the spec's seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        return ResNet(spec.family, spec.depth, spec.shortcut, classes=classes)


class ResNet(nn.Module):
    """A plain or residual network: images_NCHW float -> logits_NK.

    cifar is the 6n+2 shape for 32x32 images (section 4.2), imagenet that of Table 1; both take
    other sizes, since the last map is averaged. `stride_at` tells bottlenecks apart: the paper
    halves the map in the first 1x1 convolution, torchvision and this service in the 3x3.
    """

    def __init__(
        self,
        family: Family,
        depth: int,
        shortcut: Shortcut,
        *,
        classes: int,
        channels: int = 3,
        stride_at: StrideAt = StrideAt.CONV_3X3,
    ) -> None:
        super().__init__()
        stages = networks.stages(family, depth)
        self.inplanes = stages[0].width
        self.maxpool: nn.Module
        if family is Family.CIFAR:
            self.conv1 = _convolution(3, channels, self.inplanes)
        else:
            self.conv1 = _convolution(7, channels, self.inplanes, stride=2)
        self.bn1 = nn.BatchNorm2d(self.inplanes)
        self.relu = nn.ReLU(inplace=True)
        if family is Family.CIFAR:
            self.maxpool = nn.Identity()
        else:
            self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.stages = [f"layer{number}" for number in range(1, len(stages) + 1)]
        for name, stage in zip(self.stages, stages, strict=True):
            self.add_module(name, self._make_stage(stage, shortcut, stride_at))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(self.inplanes, classes)
        self.apply(_initialise)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        maps_NCHW = self.maxpool(self.relu(self.bn1(self.conv1(images_NCHW))))
        for name in self.stages:
            maps_NCHW = self.get_submodule(name)(maps_NCHW)
        logits_NK: Tensor = self.fc(self.avgpool(maps_NCHW).flatten(1))
        return logits_NK

    def _make_stage(self, stage: Stage, shortcut: Shortcut, stride_at: StrideAt) -> nn.Sequential:
        blocks = nn.Sequential()
        for number in range(stage.blocks):
            stride = stage.stride if number == 0 else 1
            if stage.outputs == stage.width:
                block: nn.Module = BasicBlock(self.inplanes, stage.width, stride, shortcut)
            else:
                block = Bottleneck(self.inplanes, stage.width, stride, shortcut, stride_at)
            blocks.append(block)
            self.inplanes = stage.outputs
        return blocks


class BasicBlock(nn.Module):
    """Two 3x3 convolutions (Fig. 5 left); without its shortcut a piece of the plain network."""

    def __init__(self, inputs: int, width: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.is_residual = shortcut is not Shortcut.NONE
        self.conv1 = _convolution(3, inputs, width, stride=stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _convolution(3, width, width)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(shortcut, inputs=inputs, outputs=width, stride=stride)

    def forward(self, maps_NCHW: Tensor) -> Tensor:
        out_NCHW = self.relu(self.bn1(self.conv1(maps_NCHW)))
        out_NCHW = self.bn2(self.conv2(out_NCHW))
        if self.is_residual:
            out_NCHW += maps_NCHW if self.downsample is None else self.downsample(maps_NCHW)
        activated_NCHW: Tensor = self.relu(out_NCHW)
        return activated_NCHW


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions (Fig. 5 right); the last has four times the filters."""

    def __init__(
        self, inputs: int, width: int, stride: int, shortcut: Shortcut, stride_at: StrideAt
    ) -> None:
        super().__init__()
        self.is_residual = shortcut is not Shortcut.NONE
        first, second = (stride, 1) if stride_at is StrideAt.CONV_1X1 else (1, stride)
        self.conv1 = _convolution(1, inputs, width, stride=first)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _convolution(3, width, width, stride=second)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = _convolution(1, width, 4 * width)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(shortcut, inputs=inputs, outputs=4 * width, stride=stride)

    def forward(self, maps_NCHW: Tensor) -> Tensor:
        out_NCHW = self.relu(self.bn1(self.conv1(maps_NCHW)))
        out_NCHW = self.relu(self.bn2(self.conv2(out_NCHW)))
        out_NCHW = self.bn3(self.conv3(out_NCHW))
        if self.is_residual:
            out_NCHW += maps_NCHW if self.downsample is None else self.downsample(maps_NCHW)
        activated_NCHW: Tensor = self.relu(out_NCHW)
        return activated_NCHW


class PaddedShortcut(nn.Module):
    """Option A: every stride-th pixel, and zeros for the channels that are new.

    The zeros come after the identity's channels, as in fb.resnet.torch; the paper does not say.
    """

    def __init__(self, new_channels: int, stride: int) -> None:
        super().__init__()
        self.new_channels = new_channels
        self.stride = stride

    def forward(self, maps_NCHW: Tensor) -> Tensor:
        kept_NCHW = maps_NCHW[:, :, :: self.stride, :: self.stride]
        return functional.pad(kept_NCHW, (0, 0, 0, 0, 0, self.new_channels))


def _shortcut(shortcut: Shortcut, *, inputs: int, outputs: int, stride: int) -> nn.Module | None:
    """None is the identity, or nothing at all in the plain network."""
    if networks.is_projected(shortcut, inputs=inputs, outputs=outputs, stride=stride):
        return nn.Sequential(
            _convolution(1, inputs, outputs, stride=stride), nn.BatchNorm2d(outputs)
        )
    if shortcut is Shortcut.A and (stride != 1 or inputs != outputs):
        return PaddedShortcut(outputs - inputs, stride)
    return None


def _convolution(kernel: int, inputs: int, outputs: int, *, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


def _initialise(module: nn.Module) -> None:
    """He et al. 2015, arXiv:1502.01852; fan_out as in the authors' Torch code and torchvision."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
