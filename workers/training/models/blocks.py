"""Building blocks of residual networks (He et al. 2015, Fig. 5; He et al. 2016, Fig. 4e).

Shapes: N batch, C channels, H height, W width.
"""

from torch import Tensor, nn
from torch.nn import functional

from service.catalog import architectures
from service.catalog.architectures import (
    Architecture,
    Block,
    Shortcut,
    Stage,
    Stem,
    StrideAt,
    ZeroPadding,
)


def make_stage(
    network: Architecture, stage: Stage, inputs: int, *, is_first: bool
) -> nn.Sequential:
    """The blocks of a stage; `is_first`: it follows the stem."""
    blocks = nn.Sequential()
    for index in range(stage.blocks):
        stride = stage.stride if index == 0 else 1
        if network.preactivation:
            block: nn.Module = PreactivatedBlock(
                network, stage, inputs, stride, is_first=is_first and index == 0
            )
        elif network.block is Block.BASIC:
            block = BasicBlock(network, stage, inputs, stride)
        else:
            block = Bottleneck(network, stage, inputs, stride)
        blocks.append(block)
        inputs = stage.out_channels
    return blocks


class BasicBlock(nn.Module):
    """Two 3x3 convolutions (Fig. 5 left); without a shortcut, two layers of a plain network."""

    def __init__(self, network: Architecture, stage: Stage, inputs: int, stride: int) -> None:
        super().__init__()
        self.is_residual = network.shortcut is not Shortcut.NONE
        self.conv1 = make_conv(3, inputs, stage.width, stride=stride)
        self.bn1 = nn.BatchNorm2d(stage.width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = make_conv(3, stage.width, stage.width)
        self.bn2 = nn.BatchNorm2d(stage.width)
        self.downsample = _make_shortcut(network, stage, inputs, stride)

    def forward(self, maps_NCHW: Tensor) -> Tensor:
        out_NCHW = self.relu(self.bn1(self.conv1(maps_NCHW)))
        out_NCHW = self.bn2(self.conv2(out_NCHW))
        if self.is_residual:
            out_NCHW += maps_NCHW if self.downsample is None else self.downsample(maps_NCHW)
        activated_NCHW: Tensor = self.relu(out_NCHW)
        return activated_NCHW


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions (Fig. 5 right); the last has four times the filters."""

    def __init__(self, network: Architecture, stage: Stage, inputs: int, stride: int) -> None:
        super().__init__()
        self.is_residual = network.shortcut is not Shortcut.NONE
        first, second = _split_stride(network, stride)
        self.conv1 = make_conv(1, inputs, stage.width, stride=first)
        self.bn1 = nn.BatchNorm2d(stage.width)
        self.conv2 = make_conv(3, stage.width, stage.width, stride=second)
        self.bn2 = nn.BatchNorm2d(stage.width)
        self.conv3 = make_conv(1, stage.width, stage.out_channels)
        self.bn3 = nn.BatchNorm2d(stage.out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _make_shortcut(network, stage, inputs, stride)

    def forward(self, maps_NCHW: Tensor) -> Tensor:
        out_NCHW = self.relu(self.bn1(self.conv1(maps_NCHW)))
        out_NCHW = self.relu(self.bn2(self.conv2(out_NCHW)))
        out_NCHW = self.bn3(self.conv3(out_NCHW))
        if self.is_residual:
            out_NCHW += maps_NCHW if self.downsample is None else self.downsample(maps_NCHW)
        activated_NCHW: Tensor = self.relu(out_NCHW)
        return activated_NCHW


class PreactivatedBlock(nn.Module):
    """Batch normalization and ReLU before each convolution, nothing after the addition.

    Where the shape changes, and in the first block, the shortcut takes the activated input, too
    (He et al. 2016, appendix; the authors' resnet-pre-act.lua). An ImageNet stem has already
    activated the first block's input.
    """

    def __init__(
        self, network: Architecture, stage: Stage, inputs: int, stride: int, *, is_first: bool
    ) -> None:
        super().__init__()
        self.is_residual = network.shortcut is not Shortcut.NONE
        is_activated = is_first and network.stem is Stem.IMAGENET
        self.bn1 = nn.Identity() if is_activated else nn.BatchNorm2d(inputs)
        self.relu = nn.ReLU(inplace=not is_activated)
        self.bn2 = nn.BatchNorm2d(stage.width)
        self.conv3: nn.Conv2d | None = None
        if network.block is Block.BASIC:
            self.conv1 = make_conv(3, inputs, stage.width, stride=stride)
            self.conv2 = make_conv(3, stage.width, stage.width)
        else:
            first, second = _split_stride(network, stride)
            self.conv1 = make_conv(1, inputs, stage.width, stride=first)
            self.conv2 = make_conv(3, stage.width, stage.width, stride=second)
            self.bn3 = nn.BatchNorm2d(stage.width)
            self.conv3 = make_conv(1, stage.width, stage.out_channels)
        self.downsample = _make_shortcut(network, stage, inputs, stride)
        self.shares_activation = is_first or self.downsample is not None

    def forward(self, maps_NCHW: Tensor) -> Tensor:
        activated_NCHW = self.relu(self.bn1(maps_NCHW))
        out_NCHW: Tensor = self.conv2(self.relu(self.bn2(self.conv1(activated_NCHW))))
        if self.conv3 is not None:
            out_NCHW = self.conv3(self.relu(self.bn3(out_NCHW)))
        if not self.is_residual:
            return out_NCHW
        shortcut_NCHW = activated_NCHW if self.shares_activation else maps_NCHW
        if self.downsample is not None:
            shortcut_NCHW = self.downsample(shortcut_NCHW)
        return out_NCHW + shortcut_NCHW


class PaddedShortcut(nn.Module):
    """Option A: subsamples with the stride, and pads the new channels with zeros."""

    def __init__(self, new_channels: int, stride: int, zero_padding: ZeroPadding) -> None:
        super().__init__()
        before = new_channels // 2 if zero_padding is ZeroPadding.BOTH else 0
        self.padding = (before, new_channels - before)
        self.stride = stride

    def forward(self, maps_NCHW: Tensor) -> Tensor:
        # Sliced in channels-last order, the layout of the maps: otherwise the gradient has another
        # layout, and additions with it cost an eighth of a ResNet-20's step on 2 cores.
        maps_NHWC = maps_NCHW.permute(0, 2, 3, 1)[:, :: self.stride, :: self.stride]
        return functional.pad(maps_NHWC, self.padding).permute(0, 3, 1, 2)


def make_conv(kernel: int, inputs: int, outputs: int, *, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


def _split_stride(network: Architecture, stride: int) -> tuple[int, int]:
    """The strides of a bottleneck's first 1x1 and of its 3x3."""
    return (stride, 1) if network.stride_at is StrideAt.CONV_1X1 else (1, stride)


def _make_shortcut(
    network: Architecture, stage: Stage, inputs: int, stride: int
) -> nn.Module | None:
    """None is the identity; in a plain network, no shortcut."""
    outputs = stage.out_channels
    if architectures.uses_projection(
        network.shortcut, in_channels=inputs, out_channels=outputs, stride=stride
    ):
        projection = make_conv(1, inputs, outputs, stride=stride)
        if network.preactivation:
            return projection
        return nn.Sequential(projection, nn.BatchNorm2d(outputs))
    if network.shortcut is Shortcut.A and (stride != 1 or inputs != outputs):
        return PaddedShortcut(outputs - inputs, stride, network.zero_padding)
    return None
