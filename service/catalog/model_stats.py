"""Exact counts of a network's parameters, multiply-adds and activations, without building it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from service.catalog import architectures
from service.catalog.architectures import (
    ActivationOrder,
    Architecture,
    Block,
    Family,
    Stage,
    Stem,
    StrideAt,
)


@dataclass(frozen=True)
class ModelStats:
    """Counts of one network.

    `multiply_adds`: of the convolutions and linear layers, for one image (fvcore's "flops").
    `activations`: output values of these layers, for one image.
    `buffers`: batch norm's running mean and variance per channel, and its batch counters.
    `layers`: convolutions, projections included, and linear layers.
    """

    parameters: int
    conv_fc_parameters: int
    bn_parameters: int
    buffers: int
    multiply_adds: int
    activations: int
    layers: int


@dataclass(frozen=True)
class _WeightLayer:
    """A convolution or linear layer; `positions`: height times width of its output."""

    weights: int
    biases: int
    out_channels: int
    positions: int = 1


@dataclass(frozen=True)
class _BatchNorm:
    channels: int


_Layers = Iterator[_WeightLayer | _BatchNorm]


def compute_model_stats(
    network: Architecture, *, classes: int, height: int, width: int, channels: int = 3
) -> ModelStats:
    """Counts for input images of `height` x `width` pixels."""
    images = _InputImages(height, width, channels)
    layers = list(
        _vgg(network, images, classes) if network.is_vgg else _resnet(network, images, classes)
    )
    weighted = [layer for layer in layers if isinstance(layer, _WeightLayer)]
    normalized = [layer.channels for layer in layers if isinstance(layer, _BatchNorm)]
    conv_fc_parameters = sum(layer.weights + layer.biases for layer in weighted)
    return ModelStats(
        parameters=conv_fc_parameters + 2 * sum(normalized),
        conv_fc_parameters=conv_fc_parameters,
        bn_parameters=2 * sum(normalized),
        buffers=2 * sum(normalized) + len(normalized),
        multiply_adds=sum(layer.weights * layer.positions for layer in weighted),
        activations=sum(layer.out_channels * layer.positions for layer in weighted),
        layers=len(weighted),
    )


@dataclass(frozen=True)
class _InputImages:
    height: int
    width: int
    channels: int

    def positions(self, scale: int, *, is_rounded_up: bool = True) -> int:
        """Pixels of a feature map at 1/scale of the image.

        A padded convolution of stride 2 rounds a halved side up; VGG's max-pools round it down.
        """
        if is_rounded_up:
            return -(-self.height // scale) * -(-self.width // scale)
        return (self.height // scale) * (self.width // scale)


def _conv(kernel: int, in_channels: int, out_channels: int, positions: int) -> _WeightLayer:
    return _WeightLayer(kernel**2 * in_channels * out_channels, 0, out_channels, positions)


def _linear(in_features: int, out_features: int) -> _WeightLayer:
    return _WeightLayer(in_features * out_features, out_features, out_features)


def _resnet(network: Architecture, images: _InputImages, classes: int) -> _Layers:
    in_channels = network.stem_width
    if network.stem is Stem.CIFAR:
        scale = 1
        yield _conv(3, images.channels, in_channels, images.positions(1))
    else:
        scale = 4  # the 7x7 convolution and the max-pool have stride 2
        yield _conv(7, images.channels, in_channels, images.positions(2))
    is_preact = network.activation_order is ActivationOrder.FULL_PREACTIVATION
    if not is_preact or network.stem is Stem.IMAGENET:
        yield _BatchNorm(in_channels)
    for number, stage in enumerate(network.stages):
        for block in range(stage.blocks):
            stride = stage.stride if block == 0 else 1
            # After an ImageNet stem the first block's input is already activated.
            is_first = number == block == 0 and network.stem is Stem.IMAGENET
            yield from _block(
                network, images, stage, in_channels, stride=stride, scale=scale, is_first=is_first
            )
            scale *= stride
            in_channels = stage.out_channels
    if is_preact:
        yield _BatchNorm(in_channels)
    yield _linear(in_channels, classes)


def _block(
    network: Architecture,
    images: _InputImages,
    stage: Stage,
    in_channels: int,
    *,
    stride: int,
    scale: int,
    is_first: bool,
) -> _Layers:
    before, after = images.positions(scale), images.positions(scale * stride)
    if network.block is Block.BASIC:
        yield _conv(3, in_channels, stage.width, after)
        yield _conv(3, stage.width, stage.width, after)
        between = [stage.width]
    else:
        reduced = after if network.stride_at is StrideAt.CONV_1X1 else before
        yield _conv(1, in_channels, stage.width, reduced)
        yield _conv(3, stage.width, stage.width, after)
        yield _conv(1, stage.width, stage.out_channels, after)
        between = [stage.width, stage.width]
    for channels in between:
        yield _BatchNorm(channels)
    order = network.activation_order
    if order is not ActivationOrder.FULL_PREACTIVATION:
        yield _BatchNorm(stage.out_channels)
    elif not is_first:
        yield _BatchNorm(in_channels)
    if architectures.uses_projection(
        network.shortcut, in_channels=in_channels, out_channels=stage.out_channels, stride=stride
    ):
        yield _conv(1, in_channels, stage.out_channels, after)
        if order.normalizes_projections:
            yield _BatchNorm(stage.out_channels)
    if network.shortcut_form.is_gated:
        gate = _conv(1, in_channels, stage.out_channels, after)
        yield replace(gate, biases=stage.out_channels)


def _vgg(network: Architecture, images: _InputImages, classes: int) -> _Layers:
    in_channels, scale = images.channels, 1
    stages = zip(architectures.VGG_STAGES[network.depth], architectures.VGG_WIDTHS, strict=True)
    for convolutions, width in stages:
        for _ in range(convolutions):
            positions = images.positions(scale, is_rounded_up=False)
            yield _WeightLayer(9 * in_channels * width, width, width, positions)
            if network.family is Family.VGG_BN:
                yield _BatchNorm(width)
            in_channels = width
        scale *= 2
    yield _linear(in_channels * architectures.VGG_POOLED**2, architectures.VGG_HIDDEN)
    yield _linear(architectures.VGG_HIDDEN, architectures.VGG_HIDDEN)
    yield _linear(architectures.VGG_HIDDEN, classes)
