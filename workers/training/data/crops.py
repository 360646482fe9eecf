"""Which part of a photograph a network sees (He et al. 2015, section 3.4), as boxes to resize.

What is drawn hangs on (seed, epoch, image) alone. A crop of a resized image is cut out of the
photograph itself and resized then: what lies beside it is not computed. Torchvision's transforms
do it on bytes, which takes less time than on Pillow's images.

Shapes: H height, W width, C channels, V views.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from service.catalog.recipes import Crop, Flip, Recipe, TtaMode

CROP_SIZE = 224
# Of the shorter side: in training, before a centre crop or ten, in multi-scale testing.
TRAIN_SIDES = (256, 480)
TEST_SIDE = 256
TEST_SIDES = (224, 256, 384, 480, 640)
# Of a random resized crop (Szegedy et al. 2014; torchvision's references): area and aspect.
_AREA = (0.08, 1.0)
_ASPECT = (3 / 4, 4 / 3)
_TRIES = 10
# How the colours of ImageNet's images, in [0, 1], vary together (Krizhevsky et al. 2012; the
# numbers are those of fb.resnet.torch): deviations along the columns of eigenvectors.
_EIGENVALUES_3 = torch.tensor([0.2175, 0.0188, 0.0045])
_EIGENVECTORS_C3 = torch.tensor(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
)
_LIGHTING_STDDEV = 0.1

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels of the photograph."""


@dataclass(frozen=True)
class CropParams:
    """`light_C` is added to the image's bytes."""

    box: Box
    is_flipped: bool
    light_C: Tensor


def draw_crop(
    recipe: Recipe, *, seed: int, epoch: int, image: int, width: int, height: int
) -> CropParams:
    """How a photograph of that size is cut in training."""
    # Philox is a function of its key: nothing is kept between two images.
    random = np.random.Generator(np.random.Philox(key=[seed, (epoch << 32) | image]))
    if recipe.crop is Crop.SCALE_JITTER:
        box = _scale_jitter(random, width, height)
    else:
        box = _random_resized_crop(random, width, height)
    is_flipped = bool(random.integers(2))
    if recipe.flip is Flip.ALTERNATING:
        first = np.random.Generator(np.random.Philox(key=[seed, image])).integers(2)
        is_flipped = bool((int(first) + epoch) % 2)
    light_C = torch.zeros(3)
    if recipe.pca_lighting:
        alphas_3 = torch.from_numpy(random.normal(0.0, _LIGHTING_STDDEV, 3)).float()
        light_C = 255 * (_EIGENVECTORS_C3 @ (alphas_3 * _EIGENVALUES_3))
    return CropParams(box, is_flipped, light_C)


def evaluation_crops(photograph_CHW: Tensor, views: TtaMode) -> list[Tensor]:
    """The views of a photograph, each image_HWC uint8."""
    if views is TtaMode.MULTI_SCALE:
        return [_resize_shorter_side(photograph_CHW, side) for side in TEST_SIDES]
    height, width = photograph_CHW.shape[1:]
    length = CROP_SIZE * min(height, width) / TEST_SIDE
    right, bottom = width - length, height - length
    places = [(right / 2, bottom / 2)]
    if views is TtaMode.TEN_CROP:
        places += [(left, top) for left in (0.0, right) for top in (0.0, bottom)]
    seen = [crop_image(photograph_CHW, (x, y, x + length, y + length)) for x, y in places]
    if views in {TtaMode.TEN_CROP, TtaMode.HFLIP}:
        seen += [image_HWC.flip(1) for image_HWC in seen]
    return seen


def crop_image(photograph_CHW: Tensor, box: Box) -> Tensor:
    """image_HWC uint8 of SIZE pixels a side, from the whole pixels nearest to the box."""
    left, top, right, bottom = box
    height, width = max(1, round(bottom - top)), max(1, round(right - left))
    piece_CHW = transforms.crop(
        photograph_CHW,
        top=min(round(top), photograph_CHW.shape[1] - height),
        left=min(round(left), photograph_CHW.shape[2] - width),
        height=height,
        width=width,
    )
    return _resized_to(piece_CHW, CROP_SIZE, CROP_SIZE)


def _resize_shorter_side(photograph_CHW: Tensor, side: int) -> Tensor:
    scale = side / min(photograph_CHW.shape[1:])
    height, width = (max(side, round(each * scale)) for each in photograph_CHW.shape[1:])
    return _resized_to(photograph_CHW, height, width)


def _resized_to(image_CHW: Tensor, height: int, width: int) -> Tensor:
    """image_HWC."""
    resized_CHW: Tensor = transforms.resize(
        image_CHW, [height, width], interpolation=InterpolationMode.BICUBIC, antialias=True
    )
    return resized_CHW.permute(1, 2, 0)


def _scale_jitter(random: np.random.Generator, width: int, height: int) -> Box:
    """224 pixels of the photograph, whose shorter side would have some in [256, 480]."""
    first, last = TRAIN_SIDES
    length = CROP_SIZE * min(width, height) / int(random.integers(first, last + 1))
    left, top = random.random() * (width - length), random.random() * (height - length)
    return (left, top, left + length, top + length)


def _random_resized_crop(random: np.random.Generator, width: int, height: int) -> Box:
    for _ in range(_TRIES):
        area = width * height * random.uniform(*_AREA)
        aspect = math.exp(random.uniform(math.log(_ASPECT[0]), math.log(_ASPECT[1])))
        across, down = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if across <= width and down <= height:
            left, top = random.random() * (width - across), random.random() * (height - down)
            return (left, top, left + across, top + down)
    # As torchvision: the largest centre crop of an aspect that is allowed.
    across = min(width, height * _ASPECT[1])
    down = min(height, width / _ASPECT[0])
    left, top = (width - across) / 2, (height - down) / 2
    return (left, top, left + across, top + down)
