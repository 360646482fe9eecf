"""Which networks of the paper exist and what each weighs (He et al. 2015, sections 3.3, 4.2)."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum


class Family(StrEnum):
    """The paper's two shapes: 3x3 stem and three stages, or 7x7 stem, max-pool and four."""

    CIFAR = "cifar"
    IMAGENET = "imagenet"


class Shortcut(StrEnum):
    """How a block's input reaches its output (section 3.3); `none` is the plain network."""

    NONE = "none"
    A = "A"
    B = "B"
    C = "C"


# Blocks in the four stages (Table 1). 18 and 34 have basic blocks, the others bottlenecks.
IMAGENET_STAGES: dict[int, tuple[int, int, int, int]] = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
BOTTLENECK_DEPTHS = frozenset({50, 101, 152})

# Section 4.2 goes to 1202 layers (n = 200).
MAX_CIFAR_DEPTH = 1202


def cifar_blocks(depth: int) -> int:
    """Blocks in each of the three stages: n of 6n+2. ValueError where no such network exists."""
    if not exists(Family.CIFAR, depth):
        raise ValueError(f"{depth} is not 6n+2 with n from 1 to 200")
    return (depth - 2) // 6


def exists(family: Family, depth: int) -> bool:
    if family is Family.IMAGENET:
        return depth in IMAGENET_STAGES
    return (depth - 2) % 6 == 0 and 8 <= depth <= MAX_CIFAR_DEPTH  # noqa: PLR2004 - n = 1


def nearest_depths(family: Family, depth: int) -> list[int]:
    """At most one depth below and one above that exist in the family, ascending."""
    if family is Family.IMAGENET:
        depths = sorted(IMAGENET_STAGES)
    else:
        depths = list(range(8, MAX_CIFAR_DEPTH + 1, 6))
    below = [known for known in depths if known < depth][-1:]
    above = [known for known in depths if known > depth][:1]
    return below + above


def label(depth: int, shortcut: Shortcut) -> str:
    """The paper's way to name a network: plain-20, resnet-20-A."""
    if shortcut is Shortcut.NONE:
        return f"plain-{depth}"
    return f"resnet-{depth}-{shortcut}"


class StrideAt(StrEnum):
    """Which convolution of a bottleneck halves the map: the paper's first 1x1, or the 3x3.

    The service trains with the 3x3, as torchvision does ("v1.5"): weights of one computed as the
    other load without complaint and mean nothing.
    """

    CONV_1X1 = "1x1"
    CONV_3X3 = "3x3"


@dataclass(frozen=True)
class Stage:
    """Blocks whose maps have one size; the first block's stride leads there.

    A block has `width` filters and hands on `outputs` channels, four times as many in a bottleneck.
    """

    blocks: int
    width: int
    outputs: int
    stride: int


def stages(family: Family, depth: int) -> list[Stage]:
    """The stages behind the stem (Table 1; section 4.2)."""
    if family is Family.CIFAR:
        blocks = cifar_blocks(depth)
        return [
            Stage(blocks, width, width, stride) for width, stride in ((16, 1), (32, 2), (64, 2))
        ]
    expansion = 4 if depth in BOTTLENECK_DEPTHS else 1
    widths = ((64, 1), (128, 2), (256, 2), (512, 2))
    return [
        Stage(blocks, width, width * expansion, stride)
        for blocks, (width, stride) in zip(IMAGENET_STAGES[depth], widths, strict=True)
    ]


def is_projected(shortcut: Shortcut, *, inputs: int, outputs: int, stride: int) -> bool:
    """Whether a block's shortcut is a 1x1 convolution: B's where the shape changes, C's always."""
    if shortcut is Shortcut.B:
        return stride != 1 or inputs != outputs
    return shortcut is Shortcut.C


@dataclass(frozen=True)
class Convolution:
    """Without bias, batch normalisation behind it; `positions`: pixels of its output map."""

    kernel: int
    inputs: int
    outputs: int
    positions: int

    @property
    def weights(self) -> int:
        return self.kernel**2 * self.inputs * self.outputs


@dataclass(frozen=True)
class Counts:
    """What a network weighs. `multiply_adds` are one image's, in convolutions and the classifier.

    `activations` are the values in one image's convolution outputs.
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


def count(
    family: Family,
    depth: int,
    shortcut: Shortcut,
    *,
    classes: int,
    height: int,
    width: int,
    channels: int = 3,
    stride_at: StrideAt = StrideAt.CONV_3X3,
) -> Counts:
    """Counts of the network for images of that size in pixels, without building it."""
    convolutions = list(
        _convolutions(family, depth, shortcut, stride_at, channels, height=height, width=width)
    )
    features = stages(family, depth)[-1].outputs
    normalised = sum(conv.outputs for conv in convolutions)
    conv_fc_parameters = sum(conv.weights for conv in convolutions) + (features + 1) * classes
    return Counts(
        parameters=conv_fc_parameters + 2 * normalised,
        conv_fc_parameters=conv_fc_parameters,
        bn_parameters=2 * normalised,
        buffers=2 * normalised + len(convolutions),
        multiply_adds=sum(conv.weights * conv.positions for conv in convolutions)
        + features * classes,
        activations=sum(conv.outputs * conv.positions for conv in convolutions),
        layers=len(convolutions) + 1,
    )


def _convolutions(
    family: Family,
    depth: int,
    shortcut: Shortcut,
    stride_at: StrideAt,
    channels: int,
    *,
    height: int,
    width: int,
) -> Iterator[Convolution]:
    """In the order of the forward pass; a block's projection comes last."""
    if family is Family.CIFAR:
        inputs, scale = 16, 1
        yield Convolution(3, channels, inputs, height * width)
    else:
        inputs, scale = 64, 4  # the 7x7 convolution halves the map, and so does the max-pool
        yield Convolution(7, channels, inputs, _positions(height, width, scale=2))
    for stage in stages(family, depth):
        for block in range(stage.blocks):
            stride = stage.stride if block == 0 else 1
            before = _positions(height, width, scale=scale)
            scale *= stride
            after = _positions(height, width, scale=scale)
            if stage.outputs == stage.width:
                yield Convolution(3, inputs, stage.width, after)
                yield Convolution(3, stage.width, stage.width, after)
            else:
                reduced = after if stride_at is StrideAt.CONV_1X1 else before
                yield Convolution(1, inputs, stage.width, reduced)
                yield Convolution(3, stage.width, stage.width, after)
                yield Convolution(1, stage.width, stage.outputs, after)
            if is_projected(shortcut, inputs=inputs, outputs=stage.outputs, stride=stride):
                yield Convolution(1, inputs, stage.outputs, after)
            inputs = stage.outputs


def _positions(height: int, width: int, *, scale: int) -> int:
    """Of a map at 1/scale of the image: each halving rounds up, and so does their chain."""
    return -(-height // scale) * -(-width // scale)
