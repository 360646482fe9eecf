"""Faster R-CNN (Ren et al. 2015) with a feature pyramid (Lin et al. 2017) on our networks.

Torchvision's detector, whose backbone is a trained ResNet without its classifier. As in the paper's
appendix, the statistics and scales of batch normalization are fixed; the stem and the first stage
are fixed too, as usual.

Shapes: N batch, C channels, H height, W width.
"""

import base64
import json
from pathlib import Path

import numpy as np
import safetensors
import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops import FrozenBatchNorm2d

from service.catalog.architectures import Architecture
from workers.training.errors import WeightsMismatch
from workers.training.models import resnet, weight_markers
from workers.training.models.resnet import ResNet

_FPN_CHANNELS = 256
# Of an anchor in pixels: 32 at a stride of 4, as in Lin et al.
_ANCHOR_STRIDES = 8
_ASPECT_RATIOS = (0.5, 1.0, 2.0)


def build_detector(weights: Path, *, classes: int, min_size: int, max_size: int) -> FasterRCNN:
    """A detector for `classes` categories besides the background, on the CPU.

    `weights`: a safetensors file of this service. `min_size`, `max_size`: in pixels, of the shorter
    and the longer side that images are resized to. WeightsMismatch if the file has no network that
    is suitable.
    """
    architecture, body, (mean, std) = _load_network(weights)
    channels = [stage.out_channels for stage in architecture.stages]
    layers = {name: str(index) for index, name in enumerate(body.stages)}
    backbone = BackboneWithFPN(body, layers, channels, _FPN_CHANNELS)
    anchors = [_ANCHOR_STRIDES * stride for stride in _measure_strides(backbone)]
    return FasterRCNN(
        backbone,
        num_classes=1 + classes,
        rpn_anchor_generator=AnchorGenerator(
            tuple((size,) for size in anchors), (_ASPECT_RATIOS,) * len(anchors)
        ),
        min_size=min_size,
        max_size=max_size,
        image_mean=mean,
        image_std=std,
    )


def _load_network(path: Path) -> tuple[Architecture, ResNet, tuple[list[float], list[float]]]:
    """The network, and the mean and deviation of each channel, of images from 0 to 1."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        architecture = Architecture.from_metadata(metadata)
        tensors = weight_markers.load_weights(path)
        mean_HWC = np.frombuffer(base64.b64decode(metadata["mean_image"]), dtype="<f4")
        mean = mean_HWC.reshape(-1, 3).mean(axis=0) / 255
        std = [value / 255 for value in json.loads(metadata["std"])]
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise WeightsMismatch(
            f"{path} is not a safetensors file of this service: {error}"
        ) from error
    if architecture.is_vgg or architecture.activation_order.is_preactivation:
        raise WeightsMismatch(
            f"{architecture.label} cannot be a backbone: its stages end without an activation"
        )
    network = resnet.create_network(architecture, classes=len(tensors["fc.bias"]))
    assert isinstance(network, ResNet)
    network.load_state_dict(tensors, strict=True)
    _freeze_batch_norm(network)
    for module in (network.conv1, network.bn1, network.get_submodule(network.stages[0])):
        module.requires_grad_(requires_grad=False)
    return architecture, network, (mean.tolist(), std)


def _freeze_batch_norm(module: nn.Module) -> None:
    """Replaces each batch normalization by its fixed affine function."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            frozen = FrozenBatchNorm2d(child.num_features, eps=child.eps)
            frozen.load_state_dict(child.state_dict(), strict=False)
            setattr(module, name, frozen)
        else:
            _freeze_batch_norm(child)


@torch.no_grad()
def _measure_strides(backbone: nn.Module) -> list[int]:
    """Pixels of the image for one of each level's map, from the finest level."""
    size = 64
    maps_NCHW: dict[str, Tensor] = backbone(torch.zeros(1, 3, size, size))
    return [size // level_NCHW.shape[-1] for level_NCHW in maps_NCHW.values()]
