"""The networks of the two papers: families, depths, blocks and stages.

He et al. 2015 (arXiv:1512.03385), sections 3.3 and 4.2; He et al. 2016 (arXiv:1603.05027) for
shortcut forms, activation orders and CIFAR bottlenecks; Huang et al. 2016 (arXiv:1603.09382) for
stochastic depth; VGG (Simonyan and Zisserman 2014), the baseline of Table 3.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from functools import cache

from pydantic import TypeAdapter, ValidationError


class Family(StrEnum):
    """The networks for CIFAR (three stages) and for ImageNet (four stages), and VGG."""

    CIFAR = "cifar"
    IMAGENET = "imagenet"
    VGG = "vgg"
    VGG_BN = "vgg-bn"

    @property
    def is_vgg(self) -> bool:
        return self in {Family.VGG, Family.VGG_BN}


class Shortcut(StrEnum):
    """Shortcut connections (section 3.3): options A, B and C; `none` is the plain network.

    A: identity, zero-padded where channels increase. B: projections where the shape changes.
    C: projections everywhere.
    """

    NONE = "none"
    A = "A"
    B = "B"
    C = "C"


class ShortcutForm(StrEnum):
    """What a block does with its shortcut before the addition (He et al. 2016, Fig. 2, Table 1).

    For an input x with shortcut h(x), the residual branch F(x) and the gate
    g(x) = sigmoid(W x + b), a 1x1 convolution:

    identity: h(x) + F(x). constant-scaling: shortcut_scale h(x) + residual_scale F(x).
    exclusive-gating: (1 - g(x)) h(x) + g(x) F(x). shortcut-only-gating: (1 - g(x)) h(x) + F(x).
    dropout: dropout(h(x)) + F(x). The paper's 1x1 convolution on each shortcut is option C.
    """

    IDENTITY = "identity"
    CONSTANT_SCALING = "constant-scaling"
    EXCLUSIVE_GATING = "exclusive-gating"
    SHORTCUT_ONLY_GATING = "shortcut-only-gating"
    DROPOUT = "dropout"

    @property
    def is_gated(self) -> bool:
        return self in {ShortcutForm.EXCLUSIVE_GATING, ShortcutForm.SHORTCUT_ONLY_GATING}


# The parameters of each form with their defaults: the values of Table 1 that converge best.
FORM_PARAMETERS: dict[ShortcutForm, Mapping[str, float]] = {
    ShortcutForm.IDENTITY: {},
    ShortcutForm.CONSTANT_SCALING: {"shortcut_scale": 0.5, "residual_scale": 0.5},
    ShortcutForm.EXCLUSIVE_GATING: {"gate_bias": -6.0},
    ShortcutForm.SHORTCUT_ONLY_GATING: {"gate_bias": -6.0},
    ShortcutForm.DROPOUT: {"dropout_rate": 0.5},
}


class ActivationOrder(StrEnum):
    """Where a block normalizes and activates (He et al. 2016, Fig. 4, Table 2)."""

    ORIGINAL = "original"  # each convolution, then batch norm; ReLU after the addition
    BN_AFTER_ADDITION = "bn-after-addition"  # the last batch norm follows the addition, then ReLU
    RELU_BEFORE_ADDITION = "relu-before-addition"  # the last ReLU ends the residual branch
    RELU_ONLY_PREACTIVATION = "relu-only-preactivation"  # the ReLU begins the residual branch
    FULL_PREACTIVATION = "full-preactivation"  # batch norm and ReLU before each convolution

    @property
    def is_preactivation(self) -> bool:
        return self in {
            ActivationOrder.RELU_ONLY_PREACTIVATION,
            ActivationOrder.FULL_PREACTIVATION,
        }

    @property
    def normalizes_projections(self) -> bool:
        """Whether batch norm follows a shortcut's 1x1 convolution, as it does each convolution.

        In the other orders batch norm follows the addition, or precedes the next convolution.
        """
        return self not in {
            ActivationOrder.BN_AFTER_ADDITION,
            ActivationOrder.FULL_PREACTIVATION,
        }


# In a plain network the ReLU has no addition to precede or follow: the other orders compute what
# the original does.
PLAIN_ORDERS = (ActivationOrder.ORIGINAL, ActivationOrder.FULL_PREACTIVATION)
# The residual branch ends in batch norm; where a ReLU follows it, a scale of 0 gets no gradient.
ZERO_INIT_ORDERS = (ActivationOrder.ORIGINAL, ActivationOrder.RELU_ONLY_PREACTIVATION)


class Block(StrEnum):
    """Basic: two 3x3 convolutions. Bottleneck: 1x1, 3x3, and 1x1 with 4x the filters (Fig. 5)."""

    BASIC = "basic"
    BOTTLENECK = "bottleneck"


class Stem(StrEnum):
    """CIFAR: a 3x3 convolution. ImageNet: a 7x7 convolution and a max-pool, both of stride 2."""

    CIFAR = "cifar"
    IMAGENET = "imagenet"


class StrideAt(StrEnum):
    """Which convolution of a bottleneck has the stride: the first 1x1 (paper) or the 3x3.

    torchvision uses the 3x3 ("v1.5"). The weights of both have the same shapes, so loading them
    into the other network succeeds and gives wrong outputs.
    """

    CONV_1X1 = "1x1"
    CONV_3X3 = "3x3"


class ZeroPadding(StrEnum):
    """Where option A adds the zero channels; the paper does not specify it.

    END: after the identity's channels (fb.resnet.torch). BOTH: half of them on either side
    (akamaster/pytorch_resnet_cifar10).
    """

    END = "end"
    BOTH = "both"


# Blocks per stage (Table 1; depth 200 is from the second paper).
IMAGENET_STAGES: dict[int, tuple[int, int, int, int]] = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}
BOTTLENECK_DEPTHS = frozenset({50, 101, 152, 200})

# Convolutions before each of the five max-pools (Simonyan and Zisserman 2014, D and E).
VGG_STAGES: dict[int, tuple[int, int, int, int, int]] = {
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
VGG_WIDTHS = (64, 128, 256, 512, 512)
VGG_HIDDEN = 4096
VGG_POOLED = 7  # height and width of the feature map before the classifier

# A CIFAR network of n blocks per stage has 6n+2 layers (section 4.2), with bottlenecks 9n+2.
_CIFAR_LAYERS_PER_N = {Block.BASIC: 6, Block.BOTTLENECK: 9}
# The largest n: 200 in section 4.2 (1202 layers), 111 in the second paper (1001 layers).
_CIFAR_MAX_N = {Block.BASIC: 200, Block.BOTTLENECK: 111}
# The second paper has these depths with bottlenecks; 164 is also 6n+2.
_CIFAR_BOTTLENECK_DEPTHS = frozenset({164, 1001})


def list_depths(family: Family, block: Block) -> list[int]:
    """Depths that exist in the family with this block, ascending."""
    if family is Family.CIFAR:
        step = _CIFAR_LAYERS_PER_N[block]
        return [step * n + 2 for n in range(1, _CIFAR_MAX_N[block] + 1)]
    if family is Family.IMAGENET:
        has_bottlenecks = block is Block.BOTTLENECK
        return [
            depth for depth in IMAGENET_STAGES if (depth in BOTTLENECK_DEPTHS) == has_bottlenecks
        ]
    return list(VGG_STAGES)


def get_default_block(family: Family, depth: int) -> Block:
    """The block that the papers use at this depth."""
    bottlenecks = BOTTLENECK_DEPTHS if family is Family.IMAGENET else _CIFAR_BOTTLENECK_DEPTHS
    return Block.BOTTLENECK if depth in bottlenecks else Block.BASIC


def get_default_stem(family: Family) -> Stem:
    return Stem.CIFAR if family is Family.CIFAR else Stem.IMAGENET


def depth_exists(family: Family, depth: int, block: Block | None = None) -> bool:
    """Whether the family has this depth; `block` defaults to the papers' at this depth."""
    return depth in list_depths(family, block or get_default_block(family, depth))


def describe_depths(family: Family, depth: int, block: Block) -> str:
    """The valid depths as text, for an error message about `depth`."""
    if family is Family.CIFAR:
        return f"{_CIFAR_LAYERS_PER_N[block]}n+2"
    return f"one of {', '.join(map(str, _list_alternatives(family, depth, block)))}"


def find_nearest_depths(family: Family, depth: int, block: Block | None = None) -> list[int]:
    """The next smaller and the next larger valid depth, as far as they exist."""
    known = _list_alternatives(family, depth, block or get_default_block(family, depth))
    smaller = [other for other in known if other < depth][-1:]
    larger = [other for other in known if other > depth][:1]
    return smaller + larger


def _list_alternatives(family: Family, depth: int, block: Block) -> list[int]:
    """Valid depths with this block if it was chosen explicitly, else with their default block."""
    if block is not get_default_block(family, depth):
        return list_depths(family, block)
    known = {other for kind in Block for other in list_depths(family, kind)}
    return sorted(other for other in known if depth_exists(family, other))


@dataclass(frozen=True)
class Architecture:
    """A network without its number of classes. Defaults are the first paper's.

    The parameters of other shortcut forms are None. `survival`: probability that a training step
    keeps the last residual branch; 1 keeps all of them.
    """

    family: Family
    depth: int
    shortcut: Shortcut
    block: Block
    stem: Stem
    shortcut_form: ShortcutForm = ShortcutForm.IDENTITY
    shortcut_scale: float | None = None
    residual_scale: float | None = None
    gate_bias: float | None = None
    dropout_rate: float | None = None
    activation_order: ActivationOrder = ActivationOrder.ORIGINAL
    survival: float = 1.0
    stride_at: StrideAt = StrideAt.CONV_1X1
    zero_padding: ZeroPadding = ZeroPadding.END
    zero_init_residual: bool = False

    @property
    def is_vgg(self) -> bool:
        return self.family.is_vgg

    @property
    def label(self) -> str:
        """The papers' name of the network and its deviations from them: resnet-50-B-v1.5.

        Networks that compute different functions of the same weights have different labels.
        """
        if self.is_vgg:
            return f"vgg-{self.depth}{'-bn' if self.family is Family.VGG_BN else ''}"
        is_plain = self.shortcut is Shortcut.NONE
        is_preact = self.activation_order is ActivationOrder.FULL_PREACTIVATION
        kind = "preact" if is_preact else "plain" if is_plain else "resnet"
        parts = [kind, str(self.depth)]
        if is_preact and is_plain:
            parts.insert(0, "plain")
        is_bottleneck = self.block is Block.BOTTLENECK
        if is_bottleneck and self.family is Family.CIFAR:
            parts.append("bottleneck")
        if not is_plain:
            parts.append(self.shortcut)
        if is_bottleneck and self.stride_at is StrideAt.CONV_3X3:
            parts.append("v1.5")
        if self.shortcut is Shortcut.A and self.zero_padding is ZeroPadding.BOTH:
            parts.append("padded-both")
        if self.family is Family.IMAGENET and self.stem is Stem.CIFAR:
            parts.append("cifar-stem")
        return "-".join([*parts, *self._list_variants()])

    def _list_variants(self) -> list[str]:
        """Differences to the first paper's network, but full pre-activation."""
        parts: list[str] = []
        if self.shortcut_form is ShortcutForm.CONSTANT_SCALING:
            parts.append(f"scaled-{self.shortcut_scale:g}-{self.residual_scale:g}")
        elif self.shortcut_form.is_gated:
            parts.append(f"{self.shortcut_form}-b{self.gate_bias:g}")
        elif self.shortcut_form is ShortcutForm.DROPOUT:
            parts.append(f"dropout-{self.dropout_rate:g}")
        if self.activation_order not in PLAIN_ORDERS:
            parts.append(self.activation_order)
        if self.survival < 1:
            parts.append(f"survival-{self.survival:g}")
        return parts

    @property
    def metadata(self) -> dict[str, str]:
        """Every choice as text; parameters that do not belong to the shortcut form are left out."""
        return {name: str(choice) for name, choice in asdict(self).items() if choice is not None}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> "Architecture":
        """The network of weights with this metadata. ValueError if the metadata does not say it."""
        names = {field.name for field in fields(cls)}
        chosen = {name: choice for name, choice in metadata.items() if name in names}
        try:
            return _get_adapter().validate_strings(chosen)
        except ValidationError as error:
            missing = ", ".join(str(part["loc"][-1]) for part in error.errors(include_url=False))
            raise ValueError(
                f"the metadata of the weights does not name their network: {missing}"
            ) from error

    @property
    def survival_probabilities(self) -> list[float]:
        """Of each residual block's branch, in the order of the blocks.

        Linear decay from 1 for the input to `survival` for the last block (Huang et al. 2016,
        equation 4).
        """
        blocks = sum(stage.blocks for stage in self.stages)
        return [1 - index / blocks * (1 - self.survival) for index in range(1, blocks + 1)]

    @property
    def stem_width(self) -> int:
        """Channels of the stem's output."""
        return 16 if self.family is Family.CIFAR else 64

    @property
    def min_image_size(self) -> int:
        """Least height and width in pixels: VGG's five max-pools halve them, rounded down."""
        return 1 << len(VGG_WIDTHS) if self.is_vgg else 1

    @property
    def has_batch_norm(self) -> bool:
        return self.family is not Family.VGG

    def last_map_size(self, image_size: int) -> int:
        """Height and width of the last feature map that is normalized."""
        if self.is_vgg:
            return image_size >> len(VGG_WIDTHS) - 1
        scale = 1 if self.stem is Stem.CIFAR else 4
        for stage in self.stages:
            scale *= stage.stride
        return -(-image_size // scale)

    @property
    def stages(self) -> list["Stage"]:
        """The stages after the stem (Table 1; section 4.2); VGG has none."""
        assert not self.is_vgg
        if self.family is Family.CIFAR:
            counts = [self.depth // _CIFAR_LAYERS_PER_N[self.block]] * 3
            widths = [16, 32, 64]
        else:
            counts, widths = list(IMAGENET_STAGES[self.depth]), [64, 128, 256, 512]
        expansion = 4 if self.block is Block.BOTTLENECK else 1
        return [
            Stage(blocks, width, width * expansion, stride=1 if number == 0 else 2)
            for number, (blocks, width) in enumerate(zip(counts, widths, strict=True))
        ]


@cache
def _get_adapter() -> TypeAdapter[Architecture]:
    return TypeAdapter(Architecture)


@dataclass(frozen=True)
class Stage:
    """Consecutive blocks with feature maps of one size; `stride` is the first block's.

    A block has `width` filters and `out_channels` outputs: 4x `width` in a bottleneck, else equal.
    """

    blocks: int
    width: int
    out_channels: int
    stride: int


def make_architecture(
    family: Family,
    depth: int,
    shortcut: Shortcut,
    *,
    block: Block | None = None,
    stem: Stem | None = None,
    shortcut_form: ShortcutForm = ShortcutForm.IDENTITY,
    activation_order: ActivationOrder = ActivationOrder.ORIGINAL,
    survival: float = 1.0,
    stride_at: StrideAt = StrideAt.CONV_1X1,
    zero_padding: ZeroPadding = ZeroPadding.END,
    zero_init_residual: bool = False,
    **form_parameters: float,
) -> Architecture:
    """An architecture with the papers' block, stem and form parameters by default.

    Raises ValueError if the family has no such depth.
    """
    block = block or get_default_block(family, depth)
    if not depth_exists(family, depth, block):
        raise ValueError(f"family {family} has no depth {depth} with block {block}")
    return Architecture(
        family=family,
        depth=depth,
        shortcut=shortcut,
        block=block,
        stem=stem or get_default_stem(family),
        shortcut_form=shortcut_form,
        **dict(FORM_PARAMETERS[shortcut_form]) | form_parameters,
        activation_order=activation_order,
        survival=survival,
        stride_at=stride_at,
        zero_padding=zero_padding,
        zero_init_residual=zero_init_residual,
    )


def uses_projection(
    shortcut: Shortcut, *, in_channels: int, out_channels: int, stride: int
) -> bool:
    """Whether a block's shortcut is a 1x1 convolution."""
    if shortcut is Shortcut.B:
        return stride != 1 or in_channels != out_channels
    return shortcut is Shortcut.C


def find_deepening_mismatch(shallow: Architecture, deep: Architecture) -> str | None:
    """Why `deep` cannot be built from the layers of `shallow` and identity blocks; None: it can.

    workers.training.models.deepen builds it.
    """
    if shallow.is_vgg or deep.is_vgg:
        return "a VGG network cannot be deepened"
    may_differ = {"depth", "zero_padding", "zero_init_residual"}
    differing = [
        field.name
        for field in fields(Architecture)
        if field.name not in may_differ
        and getattr(shallow, field.name) != getattr(deep, field.name)
    ]
    if shallow.shortcut is Shortcut.A and shallow.zero_padding is not deep.zero_padding:
        differing.append("zero_padding")
    if differing:
        return f"{shallow.label} and {deep.label} differ in {', '.join(differing)}"
    if deep.survival < 1:
        return (
            f"{deep.label} scales the copied branches otherwise than {shallow.label}: survival "
            "probabilities depend on the number of blocks"
        )
    obstacle = _find_identity_obstacle(deep)
    if obstacle is not None:
        return f"no added block of {deep.label} can be the identity: {obstacle}"
    counts = [
        (before.blocks, after.blocks)
        for before, after in zip(shallow.stages, deep.stages, strict=True)
    ]
    if deep.depth <= shallow.depth or any(before > after for before, after in counts):
        return f"{deep.label} is not deeper than {shallow.label}, or has fewer blocks in a stage"
    return None


def _find_identity_obstacle(network: Architecture) -> str | None:
    """Why no block of the network can be the identity and be trained; None: it can."""
    is_plain, order = network.shortcut is Shortcut.NONE, network.activation_order
    obstacles = {
        "its ReLU changes the negative values of the block's input": (
            is_plain and order is not ActivationOrder.ORIGINAL
        ),
        "its first convolution has fewer channels than its input": (
            is_plain and network.block is Block.BOTTLENECK
        ),
        f"its shortcut has the form {network.shortcut_form}": (
            network.shortcut_form is not ShortcutForm.IDENTITY
        ),
        "batch norm follows its addition": order is ActivationOrder.BN_AFTER_ADDITION,
        "its branch ends in ReLU, which passes no gradient where the branch is 0": (
            order is ActivationOrder.RELU_BEFORE_ADDITION
        ),
        "its projections see ReLU(x)": (order.is_preactivation and network.shortcut is Shortcut.C),
    }
    return next((obstacle for obstacle, applies in obstacles.items() if applies), None)
