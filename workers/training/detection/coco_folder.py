"""Images and boxes of a folder in COCO's format, and the scores of COCO's evaluation.

FOLDER/annotations/instances_<split>.json   boxes, categories and file names
FOLDER/<split>/                             the images

The training split is the one whose name begins with `train`, the test split the one with `val` or
`test`: train2017 and val2017 of COCO.

Shapes: C channels, H height, W width, N boxes.
"""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from workers.training.data import image_folders
from workers.training.errors import DatasetMissing, DatasetUnusable

_PREFIX = "instances_"


@dataclass(frozen=True)
class DetectionScores:
    """Mean average precision from 0 to 1: over IoU 0.5 to 0.95, at 0.5 (Pascal VOC's), at 0.75."""

    ap: float
    ap50: float
    ap75: float


class CocoSplit:
    """Annotated images by index; labels count from 1, since a detector's 0 is the background."""

    def __init__(self, annotations: Path, images: Path) -> None:
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
                self.coco = COCO(str(annotations))
            self.image_ids: list[int] = sorted(self.coco.getImgIds())
            categories = self.coco.loadCats(sorted(self.coco.getCatIds()))
        except (KeyError, OSError, TypeError, ValueError, AssertionError) as error:
            raise DatasetUnusable(f"{annotations} is not in COCO's format: {error}") from error
        self._images = images
        self.category_ids: list[int] = [category["id"] for category in categories]
        self.class_names: list[str] = [category["name"] for category in categories]
        if not self.image_ids or not self.category_ids:
            raise DatasetUnusable(f"{annotations} has no images or no categories")

    def __len__(self) -> int:
        return len(self.image_ids)

    def load_image(self, index: int) -> Tensor:
        """image_CHW float32 from 0 to 1, RGB. DatasetUnusable names a file that is no image."""
        name = self.coco.loadImgs(self.image_ids[index])[0]["file_name"]
        image_HWC = np.asarray(image_folders.open_image(self._images / name))
        return torch.from_numpy(image_HWC.copy()).permute(2, 0, 1).float() / 255

    def load_target(self, index: int) -> dict[str, Tensor]:
        """`boxes_N4` as left, top, right, bottom in pixels, and labels; without crowds."""
        ids = self.coco.getAnnIds(imgIds=self.image_ids[index], iscrowd=False)
        found = [entry for entry in self.coco.loadAnns(ids) if min(entry["bbox"][2:]) > 0]
        boxes_N4 = torch.tensor([entry["bbox"] for entry in found], dtype=torch.float32)
        boxes_N4 = boxes_N4.reshape(-1, 4)
        boxes_N4[:, 2:] += boxes_N4[:, :2]
        labels = [self.category_ids.index(entry["category_id"]) + 1 for entry in found]
        return {"boxes": boxes_N4, "labels": torch.tensor(labels, dtype=torch.int64)}

    def score(self, detections: Sequence[dict[str, Tensor]]) -> DetectionScores:
        """`detections` of all images: `boxes` as above, `labels`, and `scores`."""
        rows = [
            self._describe(index, box, label, score)
            for index, found in enumerate(detections)
            for box, label, score in zip(
                *(found[name].tolist() for name in ("boxes", "labels", "scores")), strict=True
            )
        ]
        if not rows:
            return DetectionScores(0.0, 0.0, 0.0)
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = COCOeval(self.coco, self.coco.loadRes(rows), "bbox")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        ap, ap50, ap75 = (float(value) for value in evaluation.stats[:3])
        return DetectionScores(ap, ap50, ap75)

    def _describe(
        self, index: int, box: Sequence[float], label: int, score: float
    ) -> dict[str, Any]:
        """A detection as COCO's results list it."""
        left, top, right, bottom = box
        return {
            "image_id": self.image_ids[index],
            "category_id": self.category_ids[label - 1],
            "bbox": [left, top, right - left, bottom - top],
            "score": score,
        }


def open_splits(folder: Path) -> tuple[CocoSplit, CocoSplit]:
    """The training and the test split, of equal categories."""
    train, test = _open_split(folder, ("train",)), _open_split(folder, ("val", "test"))
    if train.category_ids != test.category_ids:
        raise DatasetUnusable(f"the splits of {folder} have different categories")
    return train, test


def _open_split(folder: Path, prefixes: tuple[str, ...]) -> CocoSplit:
    for annotations in sorted((folder / "annotations").glob(f"{_PREFIX}*.json")):
        split = annotations.stem.removeprefix(_PREFIX)
        if split.startswith(prefixes):
            return CocoSplit(annotations, folder / split)
    wanted = " or ".join(prefixes)
    raise DatasetMissing(f"{folder}/annotations has no {_PREFIX}*.json of a split named {wanted}")
