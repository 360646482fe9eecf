"""A network with its preprocessing inside: bytes of an image of any size in, logits out.

The evaluation resizes and crops in Pillow or torchvision, which no export format contains. Here a
resize is two matrix products, with the weights of the same bicubic filter (a = -0.5, widened where
the image shrinks); the result differs by at most a few units of 255.

Shapes: H height, W width, C channels, S side of the network's images, K classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from service.catalog import datasets
from service.catalog.recipes import Crop
from workers.training.data.normalization import Normalizer

_CUBIC = -0.5
_CUBIC_RADIUS = 2  # in pixels of the smaller image


class ImageClassifier(nn.Module):
    """image_HWC uint8 RGB, upright -> logits_K.

    Args:
        model: takes normalized images_NCHW.
        normalizer: of the run; its mean image has the size that the network was trained on.
        crop: the run's, which decides what the evaluation keeps of an image.
    """

    mean_HWC: Tensor
    std_C: Tensor

    def __init__(self, model: nn.Module, normalizer: Normalizer, crop: Crop) -> None:
        super().__init__()
        self.model, self.crop = model, crop
        self.size = normalizer.mean_HWC.shape[0]
        self.register_buffer("mean_HWC", normalizer.mean_HWC.clone())
        self.register_buffer("std_C", normalizer.std_C.clone())

    def forward(self, image_HWC: Tensor) -> Tensor:
        bytes_SSC = self.resize(image_HWC)
        normal_SSC = (bytes_SSC - self.mean_HWC) / self.std_C
        logits_NK: Tensor = self.model(normal_SSC.permute(2, 0, 1)[None])
        return logits_NK[0]

    def resize(self, image_HWC: Tensor) -> Tensor:
        """The part of the image that is evaluated, bytes_SSC as float32."""
        rows_H, columns_W = _count(image_HWC.shape[0]), _count(image_HWC.shape[1])
        shorter = torch.minimum(rows_H[-1], columns_W[-1]) + 1
        sample = _sample_center_crop if self.crop is not Crop.PAD_CROP else _sample_resized
        vertical = _filter(rows_H, sample(rows_H[-1] + 1, shorter, self.size), self.size)
        horizontal = _filter(columns_W, sample(columns_W[-1] + 1, shorter, self.size), self.size)
        image_CHW = image_HWC.permute(2, 0, 1).float()
        # Rounded after each pass, as Pillow and torchvision store bytes in between.
        narrow_CHS = torch.matmul(image_CHW, horizontal.T).round().clamp(0, 255)
        bytes_CSS = torch.matmul(vertical, narrow_CHS).round().clamp(0, 255)
        return bytes_CSS.permute(1, 2, 0)


@dataclass(frozen=True)
class _Samples:
    """Which pixels of an image a resize reads along one side; scalar tensors.

    Pixel i of the result begins at `start` + i * `scale` and is `scale` pixels wide. It is computed
    from the pixels `low` to `high` (exclusive).
    """

    start: Tensor
    scale: Tensor
    low: Tensor
    high: Tensor


def _count(length: int) -> Tensor:
    """0, 1, ... as float32: sizes stay in tensors, so that an exported program has none fixed."""
    return torch.arange(length, dtype=torch.float32)


def _sample_center_crop(length: Tensor, shorter: Tensor, size: int) -> _Samples:
    """The square that crops.evaluation_crops cuts, resized to `size` pixels."""
    crop = size * shorter / datasets.EVALUATION_SIDE
    pixels = crop.round().clamp(min=1)
    start = torch.minimum(((length - crop) / 2).round(), length - pixels)
    return _Samples(start, pixels / size, start, start + pixels)


def _sample_resized(length: Tensor, shorter: Tensor, size: int) -> _Samples:
    """The center of the image resized to a shorter side of `size`, as image_folders decodes it."""
    resized = (length * (size / shorter)).round().clamp(min=size)
    scale = length / resized
    left = ((resized - size) / 2).floor()
    return _Samples(left * scale, scale, torch.zeros_like(length), length)


def _filter(pixels_L: Tensor, samples: _Samples, size: int) -> Tensor:
    """weights_SL of a bicubic filter with antialiasing over L pixels; each row sums to 1."""
    centers_S = samples.start + (_count(size) + 0.5) * samples.scale
    width = samples.scale.clamp(min=1)
    distance_SL = ((pixels_L[None] + 0.5 - centers_S[:, None]) / width).abs()
    near = ((_CUBIC + 2) * distance_SL - (_CUBIC + 3)) * distance_SL**2 + 1
    far = _CUBIC * (((distance_SL - 5) * distance_SL + 8) * distance_SL - 4)
    outer = torch.where(distance_SL < _CUBIC_RADIUS, far, 0.0)
    weights_SL = torch.where(distance_SL < 1, near, outer)
    is_used_L = (pixels_L >= samples.low) & (pixels_L < samples.high)
    weights_SL = torch.where(is_used_L, weights_SL, 0.0)
    return weights_SL / weights_SL.sum(dim=1, keepdim=True)
