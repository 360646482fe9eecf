"""What an image file shows: the one rule for training, evaluation and predictions."""

from typing import Final

import numpy as np
from PIL import ExifTags, Image

from service.catalog import image_folder_layout

# By EXIF orientation. Pillow's exif_transpose fails if any other EXIF field is broken.
_TRANSPOSE: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UndefinedMode(ValueError):
    """The numbers of an image have no defined range; the message has no subject."""


def decode_upright(file: Image.Image) -> Image.Image:
    """RGB, upright by its EXIF orientation.

    UndefinedMode; a broken file raises what its decoder raises.
    """
    transpose = _TRANSPOSE.get(file.getexif().get(ExifTags.Base.Orientation, 1))
    problem = image_folder_layout.find_mode_problem(file.mode)
    if problem is not None:
        raise UndefinedMode(problem)
    if file.mode.startswith("I;16"):
        # Pillow's convert would clip instead of scale.
        image = Image.fromarray((np.asarray(file) >> 8).astype(np.uint8)).convert("RGB")
    else:
        image = file.convert("RGB")
    return image if transpose is None else image.transpose(transpose)
