"""Large datasets: images are read from their files and cropped anew in each epoch.

Reader processes read files and, unless a GPU does, decode and crop them. They receive positions of
the training sequence and derive everything else, so any number of readers and ranks makes the same
batches.

Shapes: N batch, C channels, H height, W width.
"""

from collections.abc import Iterator
from itertools import count, starmap
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from service.catalog.recipes import Recipe, TtaMode
from service.text import count_of
from workers.training.data import crops, image_decoding, image_folders, sampling
from workers.training.data.crops import Box, CropParams
from workers.training.data.image_decoding import DecodedBatch, DecodePrefetcher, EncodedBatch
from workers.training.data.image_folders import SplitListing
from workers.training.data.normalization import Normalizer
from workers.training.data.sampling import Sampler
from workers.training.errors import DatasetUnusable
from workers.training.observers import LogFunction, ignore_log

# Sample of training images that normalization is measured on.
NORMALIZATION_IMAGES = 2_000
_EVALUATION_BATCH = 32

_Cropped = tuple[Tensor, Tensor, int]
_Encoded = tuple[Path, Tensor, Box | None, bool, Tensor, int]


class StreamingSource:
    """A DataSource over an image folder.

    Args:
        folder: laid out as workers.training.data.image_folders describes.
        num_processes: reader processes; 0 reads in this process.
        decodes_on_device: images are decoded by the device, not by the reader processes.
    """

    is_resident = False

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        *,
        seed: int,
        device: torch.device,
        num_processes: int,
        decodes_on_device: bool,
        log: LogFunction = ignore_log,
        normalizer: Normalizer | None = None,
    ) -> None:
        listing = image_folders.list_images(folder)
        self._folder = folder
        if recipe.validation_images >= len(listing.train):
            raise DatasetUnusable(
                f"recipe.validation_images is {recipe.validation_images}, but {folder} has only "
                f"{count_of(len(listing.train), 'training image')}"
            )
        kept, held_out = sampling.split_held_out(len(listing.train), recipe.validation_images)
        self._train = listing.train.select(kept)
        self._splits = {
            "train": self._train,
            "validation": listing.train.select(held_out),
            "test": listing.test,
        }
        self.class_names, self.classes = listing.classes, len(listing.classes)
        self.checksum = image_folders.hash_file_list(listing)
        self.train_images, self.test_images = len(self._train), len(listing.test)
        self.validation_images = len(held_out)
        decoder = "the device" if decodes_on_device else "reader processes"
        self.description = f"files, decoded by {decoder}"
        if normalizer is None:
            normalizer = _measure_normalization(folder, self._train, recipe, log)
        self.normalizer = normalizer.to(device)
        self._recipe, self._seed, self._device = recipe, seed, device
        self._num_processes, self._decodes_on_device = num_processes, decodes_on_device
        self._batches: DecodePrefetcher | Iterator[DecodedBatch] | None = None
        self._range = (-1, -1)
        self._last: tuple[Tensor, Tensor] | None = None

    def load_batch(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Consecutive batches of a run are read ahead; any other range restarts the readers."""
        if self._last is not None and self._range == (start, stop):
            return self._last
        step = self._recipe.batch_size
        if self._batches is None or self._range != (start - step, stop - step):
            self._batches = self._read_from(_BatchRanges(start, stop, step))
        self._range = (start, stop)
        decoded = next(self._batches)
        images_NHWC, lighting_NC, labels_N = (
            tensor.to(self._device, non_blocking=True)
            for tensor in (decoded.images_NHWC, decoded.lighting_NC, decoded.labels_N)
        )
        self._last = (self.normalizer(images_NHWC + lighting_NC[:, None, None, :]), labels_N)
        return self._last

    def _read_from(self, ranges: "_BatchRanges") -> DecodePrefetcher | Iterator[DecodedBatch]:
        self.close()
        if self._decodes_on_device:
            files = EncodedImages(self._train, self._recipe, self._seed)
            loader: DataLoader[Any] = DataLoader(
                files,
                batch_sampler=ranges,
                num_workers=self._num_processes,
                collate_fn=_collate_encoded,
            )
            return DecodePrefetcher(iter(loader), self._device)
        loader = DataLoader(
            CroppedImages(self._train, self._recipe, self._seed),
            batch_sampler=ranges,
            num_workers=self._num_processes,
            pin_memory=self._device.type == "cuda",
        )
        return starmap(DecodedBatch, loader)

    def load_evaluation_batches(
        self,
        split: str,
        *,
        rank: int,
        world_size: int,
        chosen: NDArray[np.int64] | None = None,
    ) -> Iterator[tuple[list[Tensor], Tensor]]:
        listing, mode = self._splits[split], self._recipe.test_time_augmentation
        listing = listing if chosen is None else listing.select(chosen)
        begin, end = sampling.evaluation_range(len(listing), rank=rank, world_size=world_size)
        share = listing.select(np.arange(begin, end))
        loader = DataLoader(
            _EvaluationImages(share, mode),
            # At several scales each image keeps its own shape.
            batch_size=1 if mode is TtaMode.MULTI_SCALE else _EVALUATION_BATCH,
            num_workers=self._num_processes,
        )
        for views_NHWC, labels_N in loader:
            yield (
                [self.normalizer(view_NHWC.to(self._device)) for view_NHWC in views_NHWC],
                labels_N.to(self._device),
            )

    def list_names(self, split: str) -> list[str]:
        return image_folders.name_images(self._splits[split], self._folder)

    def close(self) -> None:
        if isinstance(self._batches, DecodePrefetcher):
            self._batches.close()
        self._batches = None


class _TrainingImages:
    """Training images by position in the sequence, with their crops."""

    def __init__(self, listing: SplitListing, recipe: Recipe, seed: int) -> None:
        self._listing, self._recipe, self._seed = listing, recipe, seed
        self._sampler = Sampler(seed, len(listing), offsets=1, flip=None)

    def _find_image(self, position: int) -> int:
        return int(self._sampler.draw(position, position + 1).index_N)

    def _draw_crop(self, position: int, image: int, *, width: int, height: int) -> CropParams:
        return crops.draw_crop(
            self._recipe,
            seed=self._seed,
            epoch=position // len(self._listing),
            image=image,
            width=width,
            height=height,
        )

    def _decode_and_crop(self, position: int, image: int) -> tuple[Tensor, Tensor]:
        """image_HWC uint8 and the lighting_C to add to it."""
        image_CHW = image_decoding.open_image(self._listing.paths[image])
        height, width = image_CHW.shape[1:]
        crop = self._draw_crop(position, image, width=width, height=height)
        image_HWC = crops.crop_image(image_CHW, crop.box)
        return image_HWC.flip(1) if crop.is_flipped else image_HWC, crop.lighting_C


class CroppedImages(_TrainingImages, Dataset[_Cropped]):
    """By position: image_HWC uint8, lighting_C, label."""

    def __getitem__(self, position: int) -> _Cropped:
        image = self._find_image(position)
        return *self._decode_and_crop(position, image), int(self._listing.labels[image])


class EncodedImages(_TrainingImages, Dataset[_Encoded]):
    """By position: the file's bytes and its crop, where a device can decode it."""

    def __getitem__(self, position: int) -> _Encoded:
        image = self._find_image(position)
        path, label = self._listing.paths[image], int(self._listing.labels[image])
        jpeg = image_decoding.read_jpeg(path)
        if jpeg is None:
            image_HWC, lighting_C = self._decode_and_crop(position, image)
            return path, image_HWC, None, False, lighting_C, label
        crop = self._draw_crop(position, image, width=jpeg.width, height=jpeg.height)
        return path, jpeg.bytes, crop.box, crop.is_flipped, crop.lighting_C, label


def _collate_encoded(images: list[_Encoded]) -> EncodedBatch:
    paths, contents, boxes, is_flipped, lighting_NC, labels_N = zip(*images, strict=True)
    return EncodedBatch(
        list(paths),
        torch.cat([content.flatten() for content in contents]),
        [content.numel() for content in contents],
        list(boxes),
        list(is_flipped),
        torch.stack(lighting_NC),
        torch.tensor(labels_N),
    )


class _EvaluationImages(Dataset[tuple[list[Tensor], int]]):
    def __init__(self, listing: SplitListing, mode: TtaMode) -> None:
        self._listing, self._mode = listing, mode

    def __getitem__(self, index: int) -> tuple[list[Tensor], int]:
        image_CHW = image_decoding.open_image(self._listing.paths[index])
        return crops.evaluation_crops(image_CHW, self._mode), int(self._listing.labels[index])

    def __len__(self) -> int:
        return len(self._listing)


class _BatchRanges:
    """The positions of a rank's consecutive batches, without end."""

    def __init__(self, start: int, stop: int, step: int) -> None:
        self._start, self._stop, self._step = start, stop, step

    def __iter__(self) -> Iterator[list[int]]:
        for offset in count(0, self._step):
            yield list(range(self._start + offset, self._stop + offset))


def _measure_normalization(
    folder: Path, train: SplitListing, recipe: Recipe, log: LogFunction
) -> Normalizer:
    """From center crops of a fixed sample; cached beside the folder."""
    sample_size = min(NORMALIZATION_IMAGES, len(train))
    chosen: NDArray[np.int64]
    _, chosen = sampling.split_held_out(len(train), sample_size)
    sample = train.select(chosen)

    def measure() -> dict[str, NDArray[np.float32]]:
        centers = [
            crops.evaluation_crops(image_decoding.open_image(path), TtaMode.NONE)[0]
            for path in sample.paths
        ]
        measured = Normalizer.measure(
            torch.stack(centers), recipe.normalization, torch.device("cpu")
        )
        return {"mean": measured.mean_HWC.numpy(), "std": measured.std_C.numpy()}

    # Everything the result depends on besides the files.
    crop = f"{crops.EVALUATION_SIDE}x{crops.CROP_SIZE}"
    kind = f"{recipe.normalization}-{crop}-without-{recipe.validation_images}"
    arrays = image_folders.load_cached(folder, kind, sample.paths, measure, log)
    return Normalizer(torch.from_numpy(arrays["mean"]), torch.from_numpy(arrays["std"]))
