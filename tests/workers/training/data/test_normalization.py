import torch
from torch import Tensor

from service.catalog.recipes import Normalization
from workers.training.data.normalization import Normalizer

CPU = torch.device("cpu")


def random_images(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, 4, 6, 3), dtype=torch.uint8, generator=generator)


def test_the_papers_normalization_only_subtracts_the_mean_image() -> None:
    images_NHWC = random_images(5)
    images_NCHW = Normalizer.measure(images_NHWC, Normalization.PIXEL_MEAN, CPU)(images_NHWC)
    assert images_NCHW.shape == (5, 3, 4, 6)
    assert torch.allclose(images_NCHW.mean(dim=0), torch.zeros(3, 4, 6), atol=1e-6)
    centered_NHWC = images_NHWC.double() - images_NHWC.double().mean(dim=0)
    expected_NCHW = (centered_NHWC / 255).float().permute(0, 3, 1, 2)
    torch.testing.assert_close(images_NCHW, expected_NCHW)


def test_channel_normalization_gives_mean_0_and_standard_deviation_1() -> None:
    images_NHWC = random_images(50)
    images_NCHW = Normalizer.measure(images_NHWC, Normalization.CHANNEL, CPU)(images_NHWC)
    assert torch.allclose(images_NCHW.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(images_NCHW.std(dim=(0, 2, 3)), torch.ones(3), atol=1e-3)


def test_a_constant_channel_stays_finite() -> None:
    images_NHWC = torch.full((4, 2, 2, 3), 7, dtype=torch.uint8)
    images_NCHW = Normalizer.measure(images_NHWC, Normalization.CHANNEL, CPU)(images_NHWC)
    assert torch.equal(images_NCHW, torch.zeros(4, 3, 2, 2))


def test_images_of_another_size_lose_the_mean_color() -> None:
    normalizer = Normalizer.measure(random_images(5), Normalization.PIXEL_MEAN, CPU)
    mean_C = normalizer.mean_HWC.mean(dim=(0, 1))
    images_NCHW = normalizer(torch.zeros(1, 9, 9, 3))
    torch.testing.assert_close(images_NCHW, (-mean_C / 255).view(1, 3, 1, 1).expand(1, 3, 9, 9))
