"""Crops of large images, for training and for evaluation (He et al. 2015, section 3.4).

What is drawn depends on (seed, epoch, image) alone. A crop of a resized image is cut from the
original and then resized, so pixels outside the crop are never computed. torchvision's transforms
on uint8 tensors take less time than Pillow.

Shapes: H height, W width, C channels.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from service.catalog import datasets
from service.catalog.recipes import Crop, Flip, Recipe, TtaMode
from workers.training.data.sampling import Purpose, random_words

CROP_SIZE, EVALUATION_SIDE = datasets.CROP_SIZE, datasets.EVALUATION_SIDE
# Lengths of the shorter side: in training; of multi-scale evaluation.
TRAIN_SIDES = (256, 480)
MULTI_SCALE_SIDES = (224, 256, 384, 480, 640)
# Random resized crop (Szegedy et al. 2014; torchvision's references): share of area, aspect ratio.
_AREA = (0.08, 1.0)
_ASPECT = (3 / 4, 4 / 3)
_MAX_TRIES = 10
# Covariance of ImageNet's colors in [0, 1] (Krizhevsky et al. 2012; numbers of fb.resnet.torch):
# standard deviations along the columns of eigenvectors.
_EIGENVALUES_3 = torch.tensor([0.2175, 0.0188, 0.0045])
_EIGENVECTORS_C3 = torch.tensor(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
)
_LIGHTING = NormalDist(0.0, 0.1)
# Enough for every draw of one image: _MAX_TRIES pairs, an offset, a flip, three of lighting.
_NUM_DRAWS = 2 * _MAX_TRIES + 6

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels of the original image."""


@dataclass(frozen=True)
class CropParams:
    """`lighting_C` is added to the bytes of the crop."""

    box: Box
    is_flipped: bool
    lighting_C: Tensor


def draw_crop(
    recipe: Recipe, *, seed: int, epoch: int, image: int, width: int, height: int
) -> CropParams:
    """The training crop of an image of that size in pixels."""
    words = random_words(seed, Purpose.IMAGE, _NUM_DRAWS, epoch=epoch, image=image)
    # Midpoints of 2**53 equal intervals: never 0 or 1, which have no normal quantile.
    uniforms = iter((((words >> np.uint64(11)) + 0.5) * 2.0**-53).tolist())
    if recipe.crop is Crop.SCALE_JITTER:
        box = _scale_jitter(uniforms, width, height)
    else:
        box = _random_resized_crop(uniforms, width, height)
    is_flipped = next(uniforms) < 0.5  # noqa: PLR2004 - a fair coin
    if recipe.flip is Flip.ALTERNATING:
        first = random_words(seed, Purpose.FLIP, 1, image=image)
        is_flipped = bool((int(first[0]) + epoch) % 2)
    lighting_C = torch.zeros(3)
    if recipe.pca_lighting:
        alphas_3 = torch.tensor([_LIGHTING.inv_cdf(next(uniforms)) for _ in range(3)])
        lighting_C = 255 * (_EIGENVECTORS_C3 @ (alphas_3 * _EIGENVALUES_3))
    return CropParams(box, is_flipped, lighting_C)


def evaluation_crops(image_CHW: Tensor, mode: TtaMode) -> list[Tensor]:
    """The views of an image that are evaluated, each image_HWC uint8."""
    if mode is TtaMode.MULTI_SCALE:
        return [_resize_shorter_side(image_CHW, side) for side in MULTI_SCALE_SIDES]
    height, width = image_CHW.shape[1:]
    length = CROP_SIZE * min(height, width) / EVALUATION_SIDE
    right, bottom = width - length, height - length
    corners = [(right / 2, bottom / 2)]
    if mode is TtaMode.TEN_CROP:
        corners += [(left, top) for left in (0.0, right) for top in (0.0, bottom)]
    views = [crop_image(image_CHW, (x, y, x + length, y + length)) for x, y in corners]
    if mode in {TtaMode.TEN_CROP, TtaMode.HFLIP}:
        views += [view_HWC.flip(1) for view_HWC in views]
    return views


def crop_image(image_CHW: Tensor, box: Box) -> Tensor:
    """The box rounded to pixels, resized to image_HWC uint8 of CROP_SIZE pixels a side."""
    left, top, right, bottom = box
    height, width = max(1, round(bottom - top)), max(1, round(right - left))
    crop_CHW = transforms.crop(
        image_CHW,
        top=min(round(top), image_CHW.shape[1] - height),
        left=min(round(left), image_CHW.shape[2] - width),
        height=height,
        width=width,
    )
    return _resize(crop_CHW, CROP_SIZE, CROP_SIZE)


def _scale_jitter(uniforms: Iterator[float], width: int, height: int) -> Box:
    """CROP_SIZE pixels of the image resized to a shorter side drawn from TRAIN_SIDES."""
    shortest, longest = TRAIN_SIDES
    side = shortest + int(next(uniforms) * (longest - shortest + 1))
    length = CROP_SIZE * min(width, height) / side
    left, top = next(uniforms) * (width - length), next(uniforms) * (height - length)
    return (left, top, left + length, top + length)


def _random_resized_crop(uniforms: Iterator[float], width: int, height: int) -> Box:
    for _ in range(_MAX_TRIES):
        area = width * height * _interpolate(_AREA, next(uniforms))
        log_aspect = (math.log(_ASPECT[0]), math.log(_ASPECT[1]))
        aspect = math.exp(_interpolate(log_aspect, next(uniforms)))
        crop_width, crop_height = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if crop_width <= width and crop_height <= height:
            left = next(uniforms) * (width - crop_width)
            top = next(uniforms) * (height - crop_height)
            return (left, top, left + crop_width, top + crop_height)
    # As torchvision: the largest center crop with an allowed aspect ratio.
    crop_width = min(width, height * _ASPECT[1])
    crop_height = min(height, width / _ASPECT[0])
    left, top = (width - crop_width) / 2, (height - crop_height) / 2
    return (left, top, left + crop_width, top + crop_height)


def _interpolate(bounds: tuple[float, float], share: float) -> float:
    return bounds[0] + (bounds[1] - bounds[0]) * share


def _resize_shorter_side(image_CHW: Tensor, side: int) -> Tensor:
    scale = side / min(image_CHW.shape[1:])
    height, width = (max(side, round(length * scale)) for length in image_CHW.shape[1:])
    return _resize(image_CHW, height, width)


def _resize(image_CHW: Tensor, height: int, width: int) -> Tensor:
    """image_HWC."""
    resized_CHW: Tensor = transforms.resize(
        image_CHW, [height, width], interpolation=InterpolationMode.BICUBIC, antialias=True
    )
    return resized_CHW.permute(1, 2, 0)
