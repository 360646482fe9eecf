"""The interface between training and its images, and the choice of the implementation.

Shapes: N batch, C channels, H height, W width.
"""

from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.catalog.recipes import Crop
from service.specs.job_spec import JobSpec
from workers.training.data import datasets
from workers.training.data.normalization import Normalizer
from workers.training.data.resident_source import ResidentSource
from workers.training.observers import DataChecksum, LogFunction, ignore_log

EvaluationBatches = Iterable[tuple[list[Tensor], Tensor]]
"""Batches to evaluate: the augmented views of the images, each images_NCHW, and labels_N."""


class EvaluationSplit(StrEnum):
    """Images to evaluate on; `train`: without augmentation, for analyses."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


class DataSource(Protocol):
    """Training batches by position, and batches to evaluate on.

    `description`: how images reach the network. `is_resident`: all images are on the device, so
    no batch is waited for. `class_names` in the order of their labels. `validation_images` is 0
    if none are held out. `checksum`: of the dataset, held-out images included.
    """

    description: str
    is_resident: bool
    class_names: list[str]
    classes: int
    train_images: int
    validation_images: int
    test_images: int
    normalizer: Normalizer
    checksum: DataChecksum

    def load_batch(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """images_NCHW float32 and labels_N of these positions (workers.training.data.sampling)."""

    def load_evaluation_batches(
        self,
        split: EvaluationSplit,
        *,
        rank: int,
        world_size: int,
        chosen: NDArray[np.int64] | None = None,
    ) -> Iterator[tuple[list[Tensor], Tensor]]:
        """The rank's share of the split (sampling.evaluation_range), in the images' order.

        `chosen`: indices of the only images to load; None: all.
        """

    def list_names(self, split: EvaluationSplit) -> list[str]:
        """Of the split's images, in their order: paths in an image folder, else numbers."""

    def close(self) -> None:
        """Stops reading ahead."""


def open_data_source(
    spec: JobSpec,
    data_dir: Path,
    *,
    device: torch.device,
    threads: int,
    log: LogFunction = ignore_log,
    normalizer: Normalizer | None = None,
) -> DataSource:
    """Small images are kept in memory; crops of large images are read from their files.

    `normalizer`: of a network that was trained on other images; None: measured on these.

    DatasetMissing says how to fetch the images, DatasetUnusable what is wrong with them.
    """
    if spec.recipe.crop is Crop.PAD_CROP:
        images = datasets.read_images(spec.dataset, data_dir, stem=spec.stem, log=log)
        return ResidentSource(
            images, spec.recipe, seed=spec.seed, device=device, normalizer=normalizer
        )
    # torchvision and torchcodec take seconds to import and are used by this source only.
    from workers.training.data import image_decoding  # noqa: PLC0415
    from workers.training.data.streaming_source import StreamingSource  # noqa: PLC0415

    is_gpu = device.type == "cuda"
    return StreamingSource(
        datasets.image_folder_path(spec.dataset, data_dir),
        spec.recipe,
        seed=spec.seed,
        device=device,
        # With a GPU all threads can read images; on a CPU half of them train.
        num_processes=threads if is_gpu else threads // 2,
        decodes_on_device=is_gpu and image_decoding.supports_jpeg_decoding(device),
        log=log,
        normalizer=normalizer,
    )
