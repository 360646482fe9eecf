"""Which networks of the two papers exist and what each weighs.

He et al. 2015 (arXiv:1512.03385), sections 3.3 and 4.2; He et al. 2016 (arXiv:1603.05027) for
pre-activation and CIFAR bottlenecks; VGG is the baseline that Table 1's text compares with.
"""

from dataclasses import dataclass
from enum import StrEnum


class Family(StrEnum):
    """The paper's two shapes, three thin stages or four wide ones; and VGG."""

    CIFAR = "cifar"
    IMAGENET = "imagenet"
    VGG = "vgg"
    VGG_BN = "vgg-bn"


class Shortcut(StrEnum):
    """How a block's input reaches its output (section 3.3); `none` is the plain network."""

    NONE = "none"
    A = "A"
    B = "B"
    C = "C"


class Block(StrEnum):
    """Two 3x3 convolutions, or 1x1, 3x3 and 1x1 with four times the filters (Fig. 5)."""

    BASIC = "basic"
    BOTTLENECK = "bottleneck"


class Stem(StrEnum):
    """A 3x3 convolution, or a 7x7 of stride 2 with a max-pool behind it."""

    CIFAR = "cifar"
    IMAGENET = "imagenet"


class StrideAt(StrEnum):
    """Which convolution of a bottleneck halves the map: the paper's first 1x1, or the 3x3.

    torchvision has the latter ("v1.5"): weights of one computed as the other load without
    complaint and mean nothing.
    """

    CONV_1X1 = "1x1"
    CONV_3X3 = "3x3"


class ZeroPadding(StrEnum):
    """Where option A adds its zero channels: behind the identity's (fb.resnet.torch), or half of
    them on either side (akamaster's reproduction). The paper does not say.
    """

    END = "end"
    BOTH = "both"


# Blocks in the four stages (Table 1; 200 is the second paper's).
IMAGENET_STAGES: dict[int, tuple[int, int, int, int]] = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}
BOTTLENECK_DEPTHS = frozenset({50, 101, 152, 200})

# Convolutions before each of the five max-pools (Simonyan, Zisserman 2014, D and E).
VGG_STAGES: dict[int, tuple[int, int, int, int, int]] = {
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
VGG_WIDTHS = (64, 128, 256, 512, 512)
VGG_HIDDEN = 4096
VGG_POOLED = 7  # pixels along a side of the map that the classifier sees

# Layers of a CIFAR network that are its blocks', per block and stage (section 4.2; 9n+2).
_CIFAR_STEP = {Block.BASIC: 6, Block.BOTTLENECK: 9}
# n = 200 in section 4.2 (1202 layers), n = 111 in the second paper (1001).
_CIFAR_MAX_N = {Block.BASIC: 200, Block.BOTTLENECK: 111}
# 164 is 6n+2 too, but both depths are known from the second paper, as bottlenecks.
_CIFAR_BOTTLENECKS = frozenset({164, 1001})


def depths(family: Family, block: Block) -> list[int]:
    """The depths that exist, ascending."""
    if family is Family.CIFAR:
        step = _CIFAR_STEP[block]
        return [step * n + 2 for n in range(1, _CIFAR_MAX_N[block] + 1)]
    if family is Family.IMAGENET:
        is_bottleneck = block is Block.BOTTLENECK
        return [each for each in IMAGENET_STAGES if (each in BOTTLENECK_DEPTHS) == is_bottleneck]
    return list(VGG_STAGES)


def depth_rule(family: Family, depth: int, block: Block) -> str:
    """Which depths exist, in words."""
    if family is Family.CIFAR:
        return f"{_CIFAR_STEP[block]}n+2"
    return f"one of {', '.join(str(each) for each in _candidates(family, depth, block))}"


def default_block(family: Family, depth: int) -> Block:
    """The block that the papers have at this depth."""
    bottlenecks = BOTTLENECK_DEPTHS if family is Family.IMAGENET else _CIFAR_BOTTLENECKS
    return Block.BOTTLENECK if depth in bottlenecks else Block.BASIC


def depth_exists(family: Family, depth: int, block: Block | None = None) -> bool:
    """`block` None: the one that the papers have at this depth."""
    return depth in depths(family, block or default_block(family, depth))


def nearest_depths(family: Family, depth: int, block: Block | None = None) -> list[int]:
    """At most one depth below and one above that exist in the family, ascending."""
    known = _candidates(family, depth, block or default_block(family, depth))
    below = [each for each in known if each < depth][-1:]
    above = [each for each in known if each > depth][:1]
    return below + above


def _candidates(family: Family, depth: int, block: Block) -> list[int]:
    """Depths to take instead of this one: with that block, where it is not simply the default."""
    if block is not default_block(family, depth):
        return depths(family, block)
    known = {each for kind in Block for each in depths(family, kind)}
    return sorted(each for each in known if depth_exists(family, each))


@dataclass(frozen=True)
class Architecture:
    """What a network computes, but for its classes. Defaults are the paper's."""

    family: Family
    depth: int
    shortcut: Shortcut
    block: Block
    stem: Stem
    preactivation: bool = False
    stride_at: StrideAt = StrideAt.CONV_1X1
    zero_padding: ZeroPadding = ZeroPadding.END
    zero_init_residual: bool = False

    @property
    def is_vgg(self) -> bool:
        return self.family in {Family.VGG, Family.VGG_BN}

    @property
    def label(self) -> str:
        """The papers' way to name a network, and what differs from them: resnet-50-B-v1.5."""
        if self.is_vgg:
            return f"vgg-{self.depth}{'-bn' if self.family is Family.VGG_BN else ''}"
        is_plain = self.shortcut is Shortcut.NONE
        kind = "preact" if self.preactivation else "plain" if is_plain else "resnet"
        words = [kind, str(self.depth)]
        if kind == "preact" and is_plain:
            words.insert(0, "plain")
        is_bottleneck = self.block is Block.BOTTLENECK
        if is_bottleneck and self.family is Family.CIFAR:
            words.append("bottleneck")
        if not is_plain:
            words.append(self.shortcut)
        if is_bottleneck and self.stride_at is StrideAt.CONV_3X3:
            words.append("v1.5")
        if self.shortcut is Shortcut.A and self.zero_padding is ZeroPadding.BOTH:
            words.append("padded-both")
        if self.family is Family.IMAGENET and self.stem is Stem.CIFAR:
            words.append("cifar-stem")
        return "-".join(words)


def make_architecture(
    family: Family,
    depth: int,
    shortcut: Shortcut,
    *,
    block: Block | None = None,
    stem: Stem | None = None,
    preactivation: bool = False,
    stride_at: StrideAt = StrideAt.CONV_1X1,
    zero_padding: ZeroPadding = ZeroPadding.END,
    zero_init_residual: bool = False,
) -> Architecture:
    """The network with the paper's block and stem where none is given. ValueError: none such."""
    block = block or default_block(family, depth)
    if not depth_exists(family, depth, block):
        raise ValueError(f"no {family} network with {block} blocks has {depth} layers")
    return Architecture(
        family=family,
        depth=depth,
        shortcut=shortcut,
        block=block,
        stem=stem or default_stem(family),
        preactivation=preactivation,
        stride_at=stride_at,
        zero_padding=zero_padding,
        zero_init_residual=zero_init_residual,
    )


def default_stem(family: Family) -> Stem:
    return Stem.CIFAR if family is Family.CIFAR else Stem.IMAGENET


@dataclass(frozen=True)
class Stage:
    """Blocks whose maps have one size; the first block's stride leads there.

    A block has `width` filters and hands on `outputs` channels, four times as many in a bottleneck.
    """

    blocks: int
    width: int
    outputs: int
    stride: int


def stages(network: Architecture) -> list[Stage]:
    """The stages behind the stem (Table 1; section 4.2)."""
    assert not network.is_vgg
    if network.family is Family.CIFAR:
        counts = [network.depth // _CIFAR_STEP[network.block]] * 3
        widths = [16, 32, 64]
    else:
        counts, widths = list(IMAGENET_STAGES[network.depth]), [64, 128, 256, 512]
    expansion = 4 if network.block is Block.BOTTLENECK else 1
    return [
        Stage(blocks, width, width * expansion, stride=1 if number == 0 else 2)
        for number, (blocks, width) in enumerate(zip(counts, widths, strict=True))
    ]


def stem_width(network: Architecture) -> int:
    return 16 if network.family is Family.CIFAR else 64


def uses_projection(shortcut: Shortcut, *, inputs: int, outputs: int, stride: int) -> bool:
    """Whether a block's shortcut is a 1x1 convolution: B's where the shape changes, C's always."""
    if shortcut is Shortcut.B:
        return stride != 1 or inputs != outputs
    return shortcut is Shortcut.C


def deepening_mismatch(shallow: Architecture, deep: Architecture) -> str | None:
    """Why the deep network has no solution made of the shallow one's layers and identities.

    None: it has (workers.training.deepen).
    """
    if shallow.is_vgg or deep.is_vgg:
        return "a vgg network has no stages of equal blocks to add to"
    differing = [
        name
        for name in ("family", "block", "shortcut", "stem", "preactivation", "stride_at")
        if getattr(shallow, name) != getattr(deep, name)
    ]
    if shallow.shortcut is Shortcut.A and shallow.zero_padding is not deep.zero_padding:
        differing.append("zero_padding")
    if differing:
        return f"{shallow.label} and {deep.label} differ in {', '.join(differing)}"
    is_plain = deep.shortcut is Shortcut.NONE
    if is_plain and (deep.preactivation or deep.block is Block.BOTTLENECK):
        return f"no added block of {deep.label} can be the identity"
    if deep.preactivation and deep.shortcut is Shortcut.C:
        return f"no added block of {deep.label} can be the identity: its projections see ReLU(x)"
    counts = [
        (few.blocks, many.blocks) for few, many in zip(stages(shallow), stages(deep), strict=True)
    ]
    if deep.depth <= shallow.depth or any(few > many for few, many in counts):
        return f"{deep.label} is not deeper than {shallow.label} in every stage"
    return None
