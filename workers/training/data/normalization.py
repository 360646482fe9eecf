"""Normalization of images: the mean image (the paper's), or mean and deviation per channel.

Shapes: N batch, H height, W width, C channels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from service.catalog.recipes import Normalization

# Images that a deviation is computed over at a time; bounds the memory for float64 copies.
_CHUNK_IMAGES = 4_096


@dataclass(frozen=True)
class Normalizer:
    """(bytes - mean_HWC) / std_C, both in units of bytes."""

    mean_HWC: Tensor
    std_C: Tensor

    @classmethod
    def measure(
        cls, images_NHWC: Tensor, normalization: Normalization, device: torch.device
    ) -> "Normalizer":
        """From training images as uint8; the statistics are exact, so equal on every machine."""
        mean_HWC = mean_image(images_NHWC)
        if normalization is Normalization.PIXEL_MEAN:
            # The paper divides by no deviation; 255 maps bytes to numbers up to 1.
            return cls(mean_HWC.to(device), torch.full((3,), 255.0, device=device))
        mean_C = mean_HWC.double().mean(dim=(0, 1))
        squares_C = torch.zeros(3, dtype=torch.float64)
        for chunk_NHWC in torch.split(images_NHWC, _CHUNK_IMAGES):
            squares_C += chunk_NHWC.double().square().mean(dim=(0, 1, 2)) * len(chunk_NHWC)
        variance_C = squares_C / len(images_NHWC) - mean_C.square()
        std_C = torch.where(variance_C > 0, variance_C.sqrt(), 255.0)  # constant channel: no scale
        return cls(mean_C.float().expand_as(mean_HWC).to(device), std_C.float().to(device))

    def to(self, device: torch.device) -> "Normalizer":
        return Normalizer(self.mean_HWC.to(device), self.std_C.to(device))

    def __call__(self, images_NHWC: Tensor) -> Tensor:
        """images_NCHW float32. Images of another size than the mean image lose its mean color."""
        mean_HWC = self.mean_HWC
        if images_NHWC.shape[1:] != mean_HWC.shape:
            mean_HWC = mean_HWC.mean(dim=(0, 1), keepdim=True)
        return ((images_NHWC - mean_HWC).div_(self.std_C)).permute(0, 3, 1, 2)


def mean_image(images_NHWC: Tensor) -> Tensor:
    """The per-pixel mean_HWC float32; summed in integers, so without rounding."""
    sums_HWC = images_NHWC.sum(dim=0, dtype=torch.int64)
    return (sums_HWC.double() / len(images_NHWC)).float()
