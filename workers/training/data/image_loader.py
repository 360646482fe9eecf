"""Photographs that stream from their files: as many as the disk holds, cut anew at every sight.

Processes beside the training read, and beside a CPU decode and cut as well. They are told places
in the stream of images, and all else follows: any number of them at any number of ranks makes the
same batches.

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
from workers.training.data import augmentation, crops, image_decoding, image_folders
from workers.training.data.augmentation import Normalizer, Sampler
from workers.training.data.crops import Box, CropParams
from workers.training.data.datasets import Split
from workers.training.data.image_decoding import DecodedBatch, DecodePrefetcher, EncodedBatch
from workers.training.data.image_folders import SplitListing
from workers.training.errors import DatasetUnusable

# Of the images that the mean is taken over, and the deviation.
MEAN_IMAGES = 2_000
_TEST_BATCH = 32

_Item = tuple[Tensor, Tensor, int]
_File = tuple[Path, Tensor, Box | None, bool, Tensor, int]


class StreamingSource:
    """A source (workers.training.sources) over an image folder."""

    is_resident = False

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        *,
        seed: int,
        device: torch.device,
        processes: int,
        is_decoded_there: bool,
    ) -> None:
        """`is_decoded_there`: on the device, else by the processes."""
        listed = image_folders.list_images(folder)
        if recipe.validation_images >= len(listed.train):
            raise DatasetUnusable(
                f"{recipe.validation_images} validation images cannot be held out of "
                f"{len(listed.train)} training images"
            )
        kept, held = augmentation.split_held_out(len(listed.train), recipe.validation_images)
        train = listed.train.only(kept)
        self._validation, self._test = listed.train.only(held), listed.test
        self.classes = len(listed.classes)
        self.train_images, self.test_images = len(train), len(self._test)
        self.validation_images = len(self._validation)
        self._recipe, self._device, self._processes = recipe, device, processes
        decoder = "the device" if is_decoded_there else "processes beside the training"
        self.description = f"files, decoded by {decoder}"
        self._train, self._seed, self._is_decoded_there = train, seed, is_decoded_there
        self._stretch = (-1, -1)
        self._batches: DecodePrefetcher | Iterator[DecodedBatch] | None = None
        self._last: tuple[Tensor, Tensor] | None = None
        self.normaliser = _measure_normalization(folder, train, recipe, device)

    def batch(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Batches that follow each other as a training's do have been read ahead."""
        if self._last is not None and self._stretch == (start, stop):
            return self._last
        step = self._recipe.batch_size
        if self._batches is None or self._stretch != (start - step, stop - step):
            self._batches = self._opened(_BatchRanges(start, stop, step))
        self._stretch = (start, stop)
        decoded = next(self._batches)
        images_NHWC, light_NC, labels_N = (
            each.to(self._device, non_blocking=True)
            for each in (decoded.images_NHWC, decoded.light_NC, decoded.labels_N)
        )
        self._last = (self.normaliser(images_NHWC + light_NC[:, None, None, :]), labels_N)
        return self._last

    def _opened(self, stretches: "_BatchRanges") -> DecodePrefetcher | Iterator[DecodedBatch]:
        """Batches from there on."""
        self.close()
        if self._is_decoded_there:
            files = EncodedImages(self._train, self._recipe, self._seed)
            loader: DataLoader[Any] = DataLoader(
                files,
                batch_sampler=stretches,
                num_workers=self._processes,
                collate_fn=_collate_encoded,
            )
            return DecodePrefetcher(iter(loader), self._device)
        cuts = CroppedImages(self._train, self._recipe, self._seed)
        loader = DataLoader(
            cuts,
            batch_sampler=stretches,
            num_workers=self._processes,
            pin_memory=self._device.type == "cuda",
        )
        return starmap(DecodedBatch, loader)

    def views(
        self, *, of_validation: bool, rank: int, world_size: int
    ) -> Iterator[tuple[list[Tensor], Tensor]]:
        listing = self._validation if of_validation else self._test
        is_one_by_one = (
            self._recipe.test_time_augmentation is TtaMode.MULTI_SCALE
        )  # each has a shape of its own
        loader = DataLoader(
            _TestImages(
                listing.only(np.arange(rank, len(listing), world_size)),
                self._recipe.test_time_augmentation,
            ),
            batch_size=1 if is_one_by_one else _TEST_BATCH,
            num_workers=self._processes,
        )
        for views_NHWC, labels_N in loader:
            yield (
                [self.normaliser(each.to(self._device)) for each in views_NHWC],
                labels_N.to(self._device),
            )

    def close(self) -> None:
        if isinstance(self._batches, DecodePrefetcher):
            self._batches.close()
        self._batches = None


class _SampledImages:
    """By the place in the stream: which photograph, and how it is cut."""

    def __init__(self, listing: SplitListing, recipe: Recipe, seed: int) -> None:
        self._listing, self._recipe, self._seed = listing, recipe, seed
        self._sampler = Sampler(seed, len(listing), offsets=1, flip=None)

    def _image(self, place: int) -> int:
        return int(self._sampler.draw(place, place + 1).index_N)

    def _cut(self, place: int, image: int, *, width: int, height: int) -> CropParams:
        return crops.draw_crop(
            self._recipe,
            seed=self._seed,
            epoch=place // len(self._listing),
            image=image,
            width=width,
            height=height,
        )

    def _decoded(self, place: int, image: int) -> tuple[Tensor, Tensor]:
        """image_HWC, cut, and the light to add to it."""
        photograph_CHW = image_decoding.open_image(self._listing.paths[image])
        height, width = photograph_CHW.shape[1:]
        cut = self._cut(place, image, width=width, height=height)
        image_HWC = crops.crop_image(photograph_CHW, cut.box)
        return image_HWC.flip(1) if cut.is_flipped else image_HWC, cut.light_C


class CroppedImages(_SampledImages, Dataset[_Item]):
    """By the place in the stream: image_HWC uint8, the light to add to it, its label."""

    def __getitem__(self, place: int) -> _Item:
        image = self._image(place)
        return *self._decoded(place, image), int(self._listing.labels[image])


class EncodedImages(_SampledImages, Dataset[_File]):
    """The same, still to be decoded and cut where that can be left to a device."""

    def __getitem__(self, place: int) -> _File:
        image = self._image(place)
        path, label = self._listing.paths[image], int(self._listing.labels[image])
        jpeg = image_decoding.read_jpeg(path)
        if jpeg is None:
            image_HWC, light_C = self._decoded(place, image)
            return path, image_HWC, None, False, light_C, label
        cut = self._cut(place, image, width=jpeg.width, height=jpeg.height)
        return path, jpeg.bytes, cut.box, cut.is_flipped, cut.light_C, label


def _collate_encoded(files: list[_File]) -> EncodedBatch:
    paths, contents, boxes, is_flipped, light_NC, labels_N = zip(*files, strict=True)
    return EncodedBatch(
        list(paths),
        torch.cat([each.flatten() for each in contents]),
        [each.numel() for each in contents],
        list(boxes),
        list(is_flipped),
        torch.stack(light_NC),
        torch.tensor(labels_N),
    )


class _TestImages(Dataset[tuple[list[Tensor], int]]):
    def __init__(self, listing: SplitListing, seen: TtaMode) -> None:
        self._listing, self._seen = listing, seen

    def __getitem__(self, number: int) -> tuple[list[Tensor], int]:
        photograph_CHW = image_decoding.open_image(self._listing.paths[number])
        return crops.evaluation_crops(photograph_CHW, self._seen), int(self._listing.labels[number])

    def __len__(self) -> int:
        return len(self._listing)


class _BatchRanges:
    """The places of one rank's batches, for ever: its share of each global batch."""

    def __init__(self, start: int, stop: int, step: int) -> None:
        self._start, self._stop, self._step = start, stop, step

    def __iter__(self) -> Iterator[list[int]]:
        for offset in count(0, self._step):
            yield list(range(self._start + offset, self._stop + offset))


def _measure_normalization(
    folder: Path, train: SplitListing, recipe: Recipe, device: torch.device
) -> Normalizer:
    """From the centres of some images; which they are depends on their number alone."""
    chosen: NDArray[np.int64]
    _, chosen = augmentation.split_held_out(len(train), min(MEAN_IMAGES, len(train)))
    sample = train.only(chosen)

    def measure() -> dict[str, NDArray[np.float32]]:
        centres = [
            crops.evaluation_crops(image_decoding.open_image(path), TtaMode.NONE)[0]
            for path in sample.paths
        ]
        split = Split(torch.stack(centres), torch.from_numpy(sample.labels))
        measured = Normalizer.of(split, recipe.normalization, torch.device("cpu"))
        return {"mean": measured.mean_HWC.numpy(), "deviation": measured.deviation_C.numpy()}

    # What else decides it, beside the files: how they are cut, and which are held out.
    cut = f"{crops.TEST_SIDE}x{crops.CROP_SIZE}"
    kind = f"{recipe.normalization}-{cut}-without-{recipe.validation_images}"
    found = image_folders.load_cached(folder, kind, [sample], measure)
    return Normalizer(*(torch.from_numpy(found[name]).to(device) for name in ("mean", "deviation")))
