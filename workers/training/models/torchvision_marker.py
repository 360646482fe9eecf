"""A marker in weights that torchvision would load without complaint and compute wrongly.

From 50 layers on, option B with the stride in the first 1x1 convolution (the paper's) has the same
names and shapes as torchvision's networks, whose stride is in the 3x3. Files of such weights hold
one extra tensor, so torchvision's strict `load_state_dict` refuses them and names the reason.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from service.catalog.architectures import Architecture, Block, Family, Shortcut, Stem, StrideAt

MARKER_KEY = "stride_is_in_the_first_1x1_of_each_bottleneck"


def needs_marker(network: Architecture) -> bool:
    """Whether a torchvision class loads the weights and computes another function."""
    return (
        network.family is Family.IMAGENET
        and network.block is Block.BOTTLENECK
        and network.shortcut is Shortcut.B
        and network.stem is Stem.IMAGENET
        and network.stride_at is StrideAt.CONV_1X1
        and not network.preactivation
    )


def add_marker(weights: Mapping[str, Tensor], network: Architecture) -> dict[str, Tensor]:
    """The weights as files store them."""
    return dict(weights) | ({MARKER_KEY: torch.tensor(1)} if needs_marker(network) else {})


def remove_marker(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights as our networks load them."""
    return {name: tensor for name, tensor in weights.items() if name != MARKER_KEY}
