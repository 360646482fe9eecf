"""Published weights as ours: torchvision's files, and CIFAR checkpoints in akamaster's manner.

What a file does not say is decided by who writes such files: torchvision puts the stride in the
3x3, akamaster's option A adds its zero channels on both sides. The network that comes back
computes what the file's own network computes.
"""

import re
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from service.catalog import architectures
from service.catalog.architectures import (
    Architecture,
    Block,
    Family,
    Shortcut,
    StrideAt,
    ZeroPadding,
)
from workers.training.models import resnet, torchvision_marker

StateDict = dict[str, Tensor]


def load(path: Path) -> tuple[Architecture, nn.Module]:
    """The network of a file (.pt, .pth, .th or .safetensors), in evaluation mode.

    ValueError where the file is none of the two kinds. No code in it is run.
    """
    published = _read(path)
    architecture, state = recognize(published)
    network = resnet.create_network(architecture, classes=len(state["fc.bias"]))
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise ValueError(f"{path} is no {architecture.label}: {error}") from error
    return architecture, network.eval()


def write(path: Path, target: Path) -> Architecture:
    """The file's weights as safetensors under our names, the architecture in the metadata."""
    architecture, network = load(path)
    metadata = {name: str(choice) for name, choice in asdict(architecture).items()}
    state = torchvision_marker.add_marker(network.state_dict(), architecture)
    weights = {name: tensor.contiguous() for name, tensor in state.items()}
    safetensors.torch.save_file(weights, target, {"format": "pt"} | metadata)
    return architecture


def recognize(published: StateDict) -> tuple[Architecture, StateDict]:
    """The network that the tensors are of, and they under our names.

    ValueError where they do not tell which it is.
    """
    stride_at = (
        StrideAt.CONV_1X1 if torchvision_marker.MARKER_KEY in published else StrideAt.CONV_3X3
    )
    names = {name: _our_name(name) for name in torchvision_marker.remove_marker(published)}
    state = {ours: published[theirs] for theirs, ours in names.items()}
    if "conv1.weight" not in state or "fc.bias" not in state:
        raise ValueError("no conv1.weight and fc.bias (or linear.bias): not a residual network")
    is_akamaster = any(name.removeprefix("module.").startswith("linear.") for name in published)
    blocks = Counter(match[1] for name in state if (match := _FIRST_OF_BLOCK.fullmatch(name)))
    convolutions = 3 if "layer1.0.conv3.weight" in state else 2
    family = Family.CIFAR if state["conv1.weight"].shape[-1] == 3 else Family.IMAGENET  # noqa: PLR2004
    is_projected = any(".downsample." in name for name in state)
    if not (is_akamaster or is_projected):
        raise ValueError(
            "fc.* and no downsample.*: a plain network or one with option A, and which of them "
            "the names do not tell"
        )
    architecture = architectures.make_architecture(
        family,
        depth=sum(blocks.values()) * convolutions + 2,
        shortcut=Shortcut.B if is_projected else Shortcut.A,
        block=Block.BOTTLENECK if convolutions == 3 else Block.BASIC,  # noqa: PLR2004
        stride_at=stride_at,
        zero_padding=ZeroPadding.BOTH if is_akamaster else ZeroPadding.END,
    )
    return architecture, _with_counters(state)


_FIRST_OF_BLOCK = re.compile(r"(layer\d)\.\d+\.conv1\.weight")


def _our_name(name: str) -> str:
    name = name.removeprefix("module.")
    name = re.sub(r"^linear\.", "fc.", name)
    return name.replace(".shortcut.", ".downsample.")


def _with_counters(state: StateDict) -> StateDict:
    """Files from before torch 0.4.1 lack num_batches_tracked, which testing does not need."""
    counters = {
        name.replace("running_mean", "num_batches_tracked"): torch.tensor(0)
        for name in state
        if name.endswith("running_mean")
    }
    return counters | state


def _read(path: Path) -> StateDict:
    if path.suffix == ".safetensors":
        return safetensors.torch.load_file(path)
    found = torch.load(path, map_location="cpu", weights_only=True)
    found = found.get("state_dict", found) if isinstance(found, dict) else found
    if not isinstance(found, dict) or not all(isinstance(each, Tensor) for each in found.values()):
        raise ValueError(f"{path} holds no state_dict")
    return found
