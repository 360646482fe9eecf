"""Building blocks of residual networks (He et al. 2015, Fig. 5; He et al. 2016, Figs. 2 and 4).

Shapes: N batch, C channels, H height, W width.
"""

from torch import Tensor, nn
from torch.nn import functional

from service.catalog import architectures
from service.catalog.architectures import (
    ActivationOrder,
    Architecture,
    Block,
    Shortcut,
    ShortcutForm,
    Stage,
    Stem,
    StrideAt,
    ZeroPadding,
)
from workers.training.models.random_layers import ShortcutDropout, drop_branch


def make_stage(
    network: Architecture, stage: Stage, inputs: int, *, is_first: bool
) -> nn.Sequential:
    """The blocks of a stage; `is_first`: it follows the stem."""
    blocks = nn.Sequential()
    for index in range(stage.blocks):
        stride = stage.stride if index == 0 else 1
        if network.activation_order is ActivationOrder.FULL_PREACTIVATION:
            block: ResidualBlock = PreactivatedBlock(
                network, stage, inputs, stride, is_first=is_first and index == 0
            )
        elif network.block is Block.BASIC:
            block = BasicBlock(network, stage, inputs, stride)
        else:
            block = Bottleneck(network, stage, inputs, stride)
        blocks.append(block)
        inputs = stage.out_channels
    return blocks


class ResidualBlock(nn.Module):
    """What all blocks share: the shortcut, its form, and what a training step does at random.

    Without a shortcut a block is two or three layers of a plain network.

    `survival`: probability that a training step keeps the residual branch (Huang et al. 2016).
    `is_dropped`: whether this step drops it; None outside of a step: the branch is then scaled by
    `survival`, its expectation.
    """

    survival: float = 1.0
    is_dropped: bool | None = None

    def __init__(self, network: Architecture) -> None:
        super().__init__()
        self.network, self.order = network, network.activation_order
        self.shares_activation = False

    def build_shortcut(self, stage: Stage, inputs: int, stride: int) -> None:
        """Called last: torchvision's blocks have the shortcut's weights at their end."""
        network = self.network
        self.downsample = _make_shortcut(network, stage, inputs, stride)
        self.gate: nn.Conv2d | None = None
        if network.shortcut_form.is_gated:
            self.gate = nn.Conv2d(inputs, stage.out_channels, 1, stride)
        self.dropout: ShortcutDropout | None = None
        if network.dropout_rate is not None:
            self.dropout = ShortcutDropout(network.dropout_rate)

    def forward(self, maps_NCHW: Tensor) -> Tensor:
        # Of a dropped branch, only what the shortcut shares is computed.
        is_skipped = self.is_dropped and not self.shares_activation
        activated_NCHW = maps_NCHW if is_skipped else self.activate_input(maps_NCHW)
        if self.network.shortcut is Shortcut.NONE:
            sum_NCHW = self.compute_branch(activated_NCHW)
        elif self.shares_activation:
            sum_NCHW = self._add(activated_NCHW, activated_NCHW)
        else:
            sum_NCHW = self._add(maps_NCHW, activated_NCHW)
        return self.activate_sum(sum_NCHW)

    def activate_input(self, maps_NCHW: Tensor) -> Tensor:
        """The input of the residual branch; must not change `maps_NCHW`."""
        raise NotImplementedError

    def compute_branch(self, activated_NCHW: Tensor) -> Tensor:
        raise NotImplementedError

    def activate_sum(self, sum_NCHW: Tensor) -> Tensor:
        """The output of the block."""
        return sum_NCHW

    def _add(self, maps_NCHW: Tensor, activated_NCHW: Tensor) -> Tensor:
        """The shortcut of `maps_NCHW` plus the branch of `activated_NCHW`."""
        network, gate_NCHW = self.network, None
        shortcut_NCHW = maps_NCHW if self.downsample is None else self.downsample(maps_NCHW)
        if network.shortcut_scale is not None:
            shortcut_NCHW = shortcut_NCHW * network.shortcut_scale
        if self.dropout is not None:
            shortcut_NCHW = self.dropout(shortcut_NCHW)
        if self.gate is not None:
            # float32: below 1, bf16 has steps of 1/256, and sigmoid(-6) is 1/404.
            gate_NCHW = self.gate(maps_NCHW).float().sigmoid()
            shortcut_NCHW = shortcut_NCHW * (1 - gate_NCHW)
        if self.is_dropped:
            return drop_branch(shortcut_NCHW, self)
        branch_NCHW = self.compute_branch(activated_NCHW)
        if gate_NCHW is not None and network.shortcut_form is ShortcutForm.EXCLUSIVE_GATING:
            branch_NCHW = branch_NCHW * gate_NCHW
        if network.residual_scale is not None:
            branch_NCHW = branch_NCHW * network.residual_scale
        if self.is_dropped is None and self.survival < 1:
            branch_NCHW = branch_NCHW * self.survival
        if (
            branch_NCHW.dtype is not shortcut_NCHW.dtype
            or self.order is ActivationOrder.RELU_BEFORE_ADDITION  # its gradient needs its output
        ):
            return branch_NCHW + shortcut_NCHW
        branch_NCHW += shortcut_NCHW
        return branch_NCHW


class _ConvFirstBlock(ResidualBlock):
    """Each convolution is followed by batch normalization, as in the first paper.

    The orders differ in where the last batch normalization and the last ReLU are.
    """

    relu: nn.ReLU

    @property
    def last_norm(self) -> nn.Module:
        raise NotImplementedError

    def build_shortcut(self, stage: Stage, inputs: int, stride: int) -> None:
        super().build_shortcut(stage, inputs, stride)
        is_relu_first = self.order is ActivationOrder.RELU_ONLY_PREACTIVATION
        self.shares_activation = is_relu_first and self.downsample is not None

    def activate_input(self, maps_NCHW: Tensor) -> Tensor:
        # The stem has activated the first block's input for both paths; ReLU leaves it as it is.
        if self.order is ActivationOrder.RELU_ONLY_PREACTIVATION:
            return functional.relu(maps_NCHW)
        return maps_NCHW

    def end_branch(self, out_NCHW: Tensor) -> Tensor:
        """What follows the last convolution of the residual branch."""
        if self.order is ActivationOrder.BN_AFTER_ADDITION:
            return out_NCHW
        normal_NCHW: Tensor = self.last_norm(out_NCHW)
        if self.order is ActivationOrder.RELU_BEFORE_ADDITION:
            return functional.relu(normal_NCHW, inplace=True)
        return normal_NCHW

    def activate_sum(self, sum_NCHW: Tensor) -> Tensor:
        if self.order is ActivationOrder.BN_AFTER_ADDITION:
            sum_NCHW = self.last_norm(sum_NCHW)
        elif self.order is not ActivationOrder.ORIGINAL:
            return sum_NCHW
        activated_NCHW: Tensor = self.relu(sum_NCHW)
        return activated_NCHW


class BasicBlock(_ConvFirstBlock):
    """Two 3x3 convolutions (Fig. 5 left)."""

    def __init__(self, network: Architecture, stage: Stage, inputs: int, stride: int) -> None:
        super().__init__(network)
        self.conv1 = make_conv(3, inputs, stage.width, stride=stride)
        self.bn1 = nn.BatchNorm2d(stage.width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = make_conv(3, stage.width, stage.width)
        self.bn2 = nn.BatchNorm2d(stage.width)
        self.build_shortcut(stage, inputs, stride)

    @property
    def last_norm(self) -> nn.Module:
        return self.bn2

    def compute_branch(self, activated_NCHW: Tensor) -> Tensor:
        out_NCHW = self.relu(self.bn1(self.conv1(activated_NCHW)))
        return self.end_branch(self.conv2(out_NCHW))


class Bottleneck(_ConvFirstBlock):
    """1x1, 3x3 and 1x1 convolutions (Fig. 5 right); the last has four times the filters."""

    def __init__(self, network: Architecture, stage: Stage, inputs: int, stride: int) -> None:
        super().__init__(network)
        first, second = _split_stride(network, stride)
        self.conv1 = make_conv(1, inputs, stage.width, stride=first)
        self.bn1 = nn.BatchNorm2d(stage.width)
        self.conv2 = make_conv(3, stage.width, stage.width, stride=second)
        self.bn2 = nn.BatchNorm2d(stage.width)
        self.conv3 = make_conv(1, stage.width, stage.out_channels)
        self.bn3 = nn.BatchNorm2d(stage.out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.build_shortcut(stage, inputs, stride)

    @property
    def last_norm(self) -> nn.Module:
        return self.bn3

    def compute_branch(self, activated_NCHW: Tensor) -> Tensor:
        out_NCHW = self.relu(self.bn1(self.conv1(activated_NCHW)))
        out_NCHW = self.relu(self.bn2(self.conv2(out_NCHW)))
        return self.end_branch(self.conv3(out_NCHW))


class PreactivatedBlock(ResidualBlock):
    """Batch normalization and ReLU before each convolution, nothing after the addition.

    Where the shape changes, and in the first block, the shortcut takes the activated input, too
    (He et al. 2016, appendix; the authors' resnet-pre-act.lua). An ImageNet stem has already
    activated the first block's input.
    """

    def __init__(
        self,
        network: Architecture,
        stage: Stage,
        inputs: int,
        stride: int,
        *,
        is_first: bool,
    ) -> None:
        super().__init__(network)
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
        self.build_shortcut(stage, inputs, stride)
        self.shares_activation = is_first or self.downsample is not None

    def activate_input(self, maps_NCHW: Tensor) -> Tensor:
        activated_NCHW: Tensor = self.relu(self.bn1(maps_NCHW))
        return activated_NCHW

    def compute_branch(self, activated_NCHW: Tensor) -> Tensor:
        out_NCHW: Tensor = self.conv2(self.relu(self.bn2(self.conv1(activated_NCHW))))
        if self.conv3 is not None:
            out_NCHW = self.conv3(self.relu(self.bn3(out_NCHW)))
        return out_NCHW


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


class _Conv2d(nn.Conv2d):
    """Without its stride on maps of 1x1, where the stride changes nothing.

    There torch 2.15 leaves most of the gradient of a padded kernel undefined, in bf16 on a CPU.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        if input.shape[2:] == (1, 1):
            return functional.conv2d(input, self.weight, self.bias, padding=self.padding)
        return super().forward(input)


def make_conv(kernel: int, inputs: int, outputs: int, *, stride: int = 1) -> nn.Conv2d:
    return _Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


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
        if network.activation_order.normalizes_projections:
            return nn.Sequential(projection, nn.BatchNorm2d(outputs))
        return projection
    if network.shortcut is Shortcut.A and (stride != 1 or inputs != outputs):
        return PaddedShortcut(outputs - inputs, stride, network.zero_padding)
    return None
