"""What a network weighs: parameters and multiply-adds, to the last digit, without building it."""

from collections.abc import Iterator
from dataclasses import dataclass

from service.catalog import architectures
from service.catalog.architectures import Architecture, Block, Family, Stage, Stem, StrideAt


@dataclass(frozen=True)
class ModelStats:
    """What a network weighs. `multiply_adds` are one image's, in convolutions and the classifier.

    `activations` are the values in the outputs of one image's convolutions and linear layers.
    `buffers` are batch normalisation's mean and variance per channel and its batch counter;
    `layers` those with weights, projections among them.
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
    """A convolution or a fully connected layer; `positions`: pixels of its output map."""

    weights: int
    biases: int
    outputs: int
    positions: int = 1


@dataclass(frozen=True)
class _BatchNorm:
    channels: int


_Layers = Iterator[_WeightLayer | _BatchNorm]


def compute_model_stats(
    network: Architecture, *, classes: int, height: int, width: int, channels: int = 3
) -> ModelStats:
    """Counts of the network for images of that size in pixels."""
    images = _InputImages(height, width, channels)
    layers = list(
        _vgg(network, images, classes) if network.is_vgg else _resnet(network, images, classes)
    )
    weighted = [layer for layer in layers if isinstance(layer, _WeightLayer)]
    normalised = [layer.channels for layer in layers if isinstance(layer, _BatchNorm)]
    conv_fc_parameters = sum(layer.weights + layer.biases for layer in weighted)
    return ModelStats(
        parameters=conv_fc_parameters + 2 * sum(normalised),
        conv_fc_parameters=conv_fc_parameters,
        bn_parameters=2 * sum(normalised),
        buffers=2 * sum(normalised) + len(normalised),
        multiply_adds=sum(layer.weights * layer.positions for layer in weighted),
        activations=sum(layer.outputs * layer.positions for layer in weighted),
        layers=len(weighted),
    )


@dataclass(frozen=True)
class _InputImages:
    height: int
    width: int
    channels: int

    def positions(self, scale: int, *, is_rounded_up: bool = True) -> int:
        """Of a map at 1/scale of the image: each halving rounds up, and so does their chain.

        VGG's max-pools round down.
        """
        if is_rounded_up:
            return -(-self.height // scale) * -(-self.width // scale)
        return (self.height // scale) * (self.width // scale)


def _conv(kernel: int, inputs: int, outputs: int, positions: int) -> _WeightLayer:
    return _WeightLayer(kernel**2 * inputs * outputs, 0, outputs, positions)


def _linear(inputs: int, outputs: int) -> _WeightLayer:
    return _WeightLayer(inputs * outputs, outputs, outputs)


def _resnet(network: Architecture, images: _InputImages, classes: int) -> _Layers:
    inputs = architectures.stem_width(network)
    if network.stem is Stem.CIFAR:
        scale = 1
        yield _conv(3, images.channels, inputs, images.positions(1))
    else:
        scale = 4  # the 7x7 convolution halves the map, and so does the max-pool
        yield _conv(7, images.channels, inputs, images.positions(2))
    if not network.preactivation or network.stem is Stem.IMAGENET:
        yield _BatchNorm(inputs)
    for number, stage in enumerate(architectures.stages(network)):
        for block in range(stage.blocks):
            stride = stage.stride if block == 0 else 1
            # Behind an ImageNet stem the first block's input is activated already.
            is_first = number == block == 0 and network.stem is Stem.IMAGENET
            yield from _block(
                network, images, stage, inputs, stride=stride, scale=scale, is_first=is_first
            )
            scale *= stride
            inputs = stage.outputs
    if network.preactivation:
        yield _BatchNorm(inputs)
    yield _linear(inputs, classes)


def _block(
    network: Architecture,
    images: _InputImages,
    stage: Stage,
    inputs: int,
    *,
    stride: int,
    scale: int,
    is_first: bool,
) -> _Layers:
    before, after = images.positions(scale), images.positions(scale * stride)
    if network.block is Block.BASIC:
        yield _conv(3, inputs, stage.width, after)
        yield _conv(3, stage.width, stage.width, after)
        between = [stage.width]
    else:
        reduced = after if network.stride_at is StrideAt.CONV_1X1 else before
        yield _conv(1, inputs, stage.width, reduced)
        yield _conv(3, stage.width, stage.width, after)
        yield _conv(1, stage.width, stage.outputs, after)
        between = [stage.width, stage.width]
    for channels in between:
        yield _BatchNorm(channels)
    if not network.preactivation:
        yield _BatchNorm(stage.outputs)
    elif not is_first:
        yield _BatchNorm(inputs)
    if architectures.uses_projection(
        network.shortcut, inputs=inputs, outputs=stage.outputs, stride=stride
    ):
        yield _conv(1, inputs, stage.outputs, after)
        if not network.preactivation:
            yield _BatchNorm(stage.outputs)


def _vgg(network: Architecture, images: _InputImages, classes: int) -> _Layers:
    inputs, scale = images.channels, 1
    stages = zip(architectures.VGG_STAGES[network.depth], architectures.VGG_WIDTHS, strict=True)
    for convolutions, width in stages:
        for _ in range(convolutions):
            positions = images.positions(scale, is_rounded_up=False)
            yield _WeightLayer(9 * inputs * width, width, width, positions)
            if network.family is Family.VGG_BN:
                yield _BatchNorm(width)
            inputs = width
        scale *= 2
    yield _linear(inputs * architectures.VGG_POOLED**2, architectures.VGG_HIDDEN)
    yield _linear(architectures.VGG_HIDDEN, architectures.VGG_HIDDEN)
    yield _linear(architectures.VGG_HIDDEN, classes)
