"""Markers in weights that would load into another network without complaint and compute nonsense.

From 50 layers on, option B with the stride in the first 1x1 convolution (the paper's) has the same
names and shapes as torchvision's networks, whose stride is in the 3x3. Constant scaling, dropout
and stochastic depth, and the place of an activation, change no name or shape of any network.
Files of such weights hold an extra tensor, so a strict `load_state_dict` into the usual network
refuses them and names the reason. Gates and full pre-activation have names of their own.
"""

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from service.catalog.architectures import (
    ActivationOrder,
    Architecture,
    Block,
    Family,
    Shortcut,
    ShortcutForm,
    Stem,
    StrideAt,
)

STRIDE_MARKER = "stride_is_in_the_first_1x1_of_each_bottleneck"
_FORM_MARKERS = {
    form: f"shortcut_form_is_{form.replace('-', '_')}"
    for form in (ShortcutForm.CONSTANT_SCALING, ShortcutForm.DROPOUT)
}
_ORDER_MARKERS = {
    order: f"activation_order_is_{order.replace('-', '_')}"
    for order in (
        ActivationOrder.BN_AFTER_ADDITION,
        ActivationOrder.RELU_BEFORE_ADDITION,
        ActivationOrder.RELU_ONLY_PREACTIVATION,
    )
}
_SURVIVAL_MARKER = "survival_is_below_1"
# What a file with one of these does not say is in the metadata of the job's safetensors file.
VARIANT_MARKERS = frozenset({*_FORM_MARKERS.values(), *_ORDER_MARKERS.values(), _SURVIVAL_MARKER})


def list_markers(network: Architecture) -> list[str]:
    """Names of the extra tensors in the network's files."""
    markers = []
    if _has_torchvisions_names(network) and network.stride_at is StrideAt.CONV_1X1:
        markers.append(STRIDE_MARKER)
    if network.shortcut_form in _FORM_MARKERS:
        markers.append(_FORM_MARKERS[network.shortcut_form])
    if network.activation_order in _ORDER_MARKERS:
        markers.append(_ORDER_MARKERS[network.activation_order])
    if network.survival < 1:
        markers.append(_SURVIVAL_MARKER)
    return markers


def _has_torchvisions_names(network: Architecture) -> bool:
    """Whether a torchvision class with bottlenecks has the same names and shapes."""
    return (
        network.family is Family.IMAGENET
        and network.block is Block.BOTTLENECK
        and network.shortcut is Shortcut.B
        and network.stem is Stem.IMAGENET
        and not network.shortcut_form.is_gated
        and network.activation_order is not ActivationOrder.FULL_PREACTIVATION
    )


def add_markers(weights: Mapping[str, Tensor], network: Architecture) -> dict[str, Tensor]:
    """The weights as files store them."""
    return dict(weights) | {name: torch.tensor(1) for name in list_markers(network)}


def remove_markers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights as our networks load them."""
    markers = VARIANT_MARKERS | {STRIDE_MARKER}
    return {name: tensor for name, tensor in weights.items() if name not in markers}


def load_weights(path: Path) -> dict[str, Tensor]:
    """The weights of a safetensors file, as our networks load them."""
    return remove_markers(safetensors.torch.load_file(path))
