"""The preprocessing inside a network, compared with that of the evaluation."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from service.catalog.recipes import Crop, TtaMode
from workers.training.data import crops, image_decoding, image_folders
from workers.training.data.normalization import Normalizer
from workers.training.models.image_classifier import ImageClassifier


class _MeanColor(nn.Module):
    def forward(self, images_NCHW: Tensor) -> Tensor:
        return images_NCHW.mean(dim=(2, 3))


def _classifier(crop: Crop, size: int) -> ImageClassifier:
    normalizer = Normalizer(torch.full((size, size, 3), 100.0), torch.tensor([1.0, 2.0, 4.0]))
    return ImageClassifier(_MeanColor(), normalizer, crop).eval()


@pytest.mark.parametrize("size", [(50, 70), (300, 401), (224, 224), (32, 32), (640, 1000)])
@pytest.mark.parametrize(
    ("crop", "side"), [(Crop.PAD_CROP, 32), (Crop.PAD_CROP, 224), (Crop.SCALE_JITTER, 224)]
)
def test_an_image_is_resized_as_in_the_evaluation(
    crop: Crop, side: int, size: tuple[int, int], tmp_path: Path
) -> None:
    random = np.random.RandomState(0)
    coarse = Image.fromarray(random.randint(0, 256, (9, 9, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize(size[::-1], Image.Resampling.BICUBIC)).astype(int)
    noisy = (smooth + random.randint(-20, 20, smooth.shape)).clip(0, 255).astype(np.uint8)
    path = tmp_path / "image.png"
    Image.fromarray(noisy).save(path)
    if crop is Crop.PAD_CROP:
        expected = image_folders._decode_square(path, side)
    else:
        image_CHW = image_decoding.open_image(path)
        expected = crops.evaluation_crops(image_CHW, TtaMode.NONE)[0].numpy()
    resized = _classifier(crop, side).resize(torch.from_numpy(noisy)).numpy()
    difference = np.abs(resized - expected.astype(float))
    assert difference.max() <= 2
    assert difference.mean() < 0.01


def test_an_image_is_normalized_and_classified() -> None:
    image_HWC = torch.full((40, 60, 3), 108, dtype=torch.uint8)
    assert _classifier(Crop.PAD_CROP, 32)(image_HWC).tolist() == [8.0, 4.0, 2.0]
