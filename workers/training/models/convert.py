"""Conversion of published weights: torchvision's files, and CIFAR checkpoints like akamaster's.

Our own files, converted ones too, name their network in the metadata. What another file does not
say follows from its origin: torchvision puts the stride in the 3x3 convolution, akamaster's option
A pads channels on both sides. The converted network computes what the original network computes.
"""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from service.catalog import architectures
from service.catalog.architectures import (
    ActivationOrder,
    Architecture,
    Block,
    Family,
    Shortcut,
    StrideAt,
    ZeroPadding,
)
from workers.training.models import resnet, weight_markers

StateDict = dict[str, Tensor]

_FIRST_CONV_OF_BLOCK = re.compile(r"(layer\d)\.\d+\.conv1\.weight")


def convert_file(path: Path, target: Path) -> Architecture:
    """Writes the file's weights as safetensors with our names and the network in the metadata.

    Of a file of ours, all tensors and all metadata stay as they are.
    """
    architecture, network = load_network(path)
    metadata = _read_metadata(path)
    if _names_network(metadata):
        state = safetensors.torch.load_file(path)
    else:
        state = weight_markers.add_markers(network.state_dict(), architecture)
    weights = {name: tensor.contiguous() for name, tensor in state.items()}
    described = {"format": "pt"} | metadata | architecture.metadata
    safetensors.torch.save_file(weights, target, described)
    return architecture


def load_network(path: Path) -> tuple[Architecture, nn.Module]:
    """The network of a file (.pt, .pth, .th or .safetensors), in evaluation mode.

    ValueError if the file is of no known origin. No code in the file is run.
    """
    architecture, state = read_weights(path)
    network = resnet.create_network(architecture, classes=_count_classes(state))
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise ValueError(f"{path} is not a {architecture.label}: {error}") from error
    return architecture, network.eval()


def read_weights(path: Path) -> tuple[Architecture, StateDict]:
    """The network of a file, and its weights under our names.

    ValueError as in `load_network`, but also tensors that do not fit the network are returned.
    """
    metadata = _read_metadata(path)
    if _names_network(metadata):
        return Architecture.from_metadata(metadata), weight_markers.load_weights(path)
    return recognize(_read_state_dict(path))


def _read_metadata(path: Path) -> dict[str, str]:
    """Of a safetensors file; other files have none."""
    if path.suffix != ".safetensors":
        return {}
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except safetensors.SafetensorError as error:
        raise ValueError(f"not a safetensors file: {error}") from error


def _names_network(metadata: Mapping[str, str]) -> bool:
    return {"family", "depth", "shortcut"} <= metadata.keys()


def _count_classes(state: StateDict) -> int:
    """The length of the classifier's bias: of VGG the last layer of `classifier`."""
    biases = [state[name] for name in ("fc.bias", "classifier.6.bias") if name in state]
    if not biases:
        raise ValueError("the weights have no classifier: fc.bias is missing")
    return len(biases[0])


def recognize(published: StateDict) -> tuple[Architecture, StateDict]:
    """The network that the tensors belong to, and the tensors under our names.

    ValueError if they do not identify a network.
    """
    variant = _find_variant(published)
    if variant is not None:
        raise ValueError(
            f"a network with {variant}, which its tensors do not define completely; "
            "the safetensors file of its job does, in its metadata"
        )
    stride_at = (
        StrideAt.CONV_1X1 if weight_markers.STRIDE_MARKER in published else StrideAt.CONV_3X3
    )
    names = {name: _to_our_name(name) for name in weight_markers.remove_markers(published)}
    state = {ours: published[theirs] for theirs, ours in names.items()}
    if "conv1.weight" not in state or "fc.bias" not in state:
        raise ValueError("not a residual network: no conv1.weight and fc.bias (or linear.bias)")
    is_akamaster = any(name.removeprefix("module.").startswith("linear.") for name in published)
    blocks = Counter(match[1] for name in state if (match := _FIRST_CONV_OF_BLOCK.fullmatch(name)))
    is_bottleneck = "layer1.0.conv3.weight" in state
    is_cifar = state["conv1.weight"].shape[-1] == 3  # noqa: PLR2004 - else 7
    has_projections = any(".downsample." in name for name in state)
    if not (is_akamaster or has_projections):
        raise ValueError(
            "ambiguous: fc.* without downsample.* is a plain network or one with option A"
        )
    architecture = architectures.make_architecture(
        Family.CIFAR if is_cifar else Family.IMAGENET,
        depth=sum(blocks.values()) * (3 if is_bottleneck else 2) + 2,
        shortcut=Shortcut.B if has_projections else Shortcut.A,
        block=Block.BOTTLENECK if is_bottleneck else Block.BASIC,
        stride_at=stride_at,
        zero_padding=ZeroPadding.BOTH if is_akamaster else ZeroPadding.END,
    )
    return architecture, _add_batch_counters(state)


def _find_variant(published: StateDict) -> str | None:
    """What distinguishes the tensors from those of the first paper's networks; None: nothing."""
    if "bn2.weight" in published:
        return f"activation order {ActivationOrder.FULL_PREACTIVATION}"
    if any(".gate." in name for name in published):
        return "gated shortcuts"
    markers = weight_markers.VARIANT_MARKERS & published.keys()
    return f"the marker {', '.join(sorted(markers))}" if markers else None


def _to_our_name(name: str) -> str:
    name = name.removeprefix("module.")
    name = re.sub(r"^linear\.", "fc.", name)
    return name.replace(".shortcut.", ".downsample.")


def _add_batch_counters(state: StateDict) -> StateDict:
    """Files from before torch 0.4.1 lack num_batches_tracked, which evaluation does not use."""
    counters = {
        name.replace("running_mean", "num_batches_tracked"): torch.tensor(0)
        for name in state
        if name.endswith("running_mean")
    }
    return counters | state


def _read_state_dict(path: Path) -> StateDict:
    if path.suffix == ".safetensors":
        return safetensors.torch.load_file(path)
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(state, dict) or not all(
        isinstance(value, Tensor) for value in state.values()
    ):
        raise ValueError(f"{path} does not contain a state_dict")
    return state
