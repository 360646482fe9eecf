"""Predictions for the test images of a finished run, kept as a file of its last checkpoint.

From it follow ensembles, errors by class, calibration and comparisons of two networks image by
image, without evaluating again.

Shapes: N images, K classes; T the 5 highest, or K with fewer classes; R ranks.
"""

import json
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from service.specs.job_spec import JobSpec
from workers.training.distributed import RankGroup
from workers.training.metric_sums import TOP

# Of float16 logits. Above it, as on ImageNet with 100 MB, only the highest are kept.
MAX_LOGIT_BYTES = 20_000_000


class PredictionRecorder:
    """Collects the scores of this rank's share of `images` test images, in their order.

    Ranks have consecutive shares of equal length; the last ones may be shorter.
    """

    def __init__(self, images: int, classes: int) -> None:
        self._images = images
        self._keeps_logits = 2 * images * classes <= MAX_LOGIT_BYTES
        self._batches: list[dict[str, Tensor]] = []

    def add(self, scores_NK: Tensor, labels_N: Tensor) -> None:
        top = scores_NK.topk(min(TOP, scores_NK.shape[1]), dim=1)
        kept = {"labels": labels_N.int(), "predicted": scores_NK.argmax(dim=1).int()}
        if self._keeps_logits:
            kept["logits"] = scores_NK.half()
        else:
            kept["top5_labels"] = top.indices.int()
            kept["top5_logits"] = top.values.half()
            kept["margin"] = (top.values[:, 0] - top.values[:, 1]).half()
        self._batches.append(kept)

    def gather(self, ranks: RankGroup) -> dict[str, Tensor]:
        """On the CPU, all images in their order. Called by all ranks.

        `labels`, `predicted` int32 (N,); `logits` float16 (N, K), or `top5_labels` int32 and
        `top5_logits` float16 (N, T) with `margin` float16 (N,) between the two highest.
        """
        share = -(-self._images // ranks.world_size)
        gathered = {}
        for name in self._batches[0]:
            mine = torch.cat([batch[name] for batch in self._batches])
            padding = mine.new_zeros((share - len(mine), *mine.shape[1:]))
            shares_RN = ranks.all_gather(torch.cat([mine, padding]))
            gathered[name] = shares_RN.flatten(0, 1)[: self._images].cpu()
        return gathered


def write_predictions(
    path: Path, tensors: dict[str, Tensor], *, spec: JobSpec, class_names: list[str], iteration: int
) -> None:
    """A safetensors file. Row i is image i of the dataset's test images, in their fixed order."""
    metadata = {
        "dataset": spec.dataset,
        "network": spec.network,
        "seed": str(spec.seed),
        "iteration": str(iteration),
        "test_time_augmentation": spec.recipe.test_time_augmentation,
        "class_names": json.dumps(class_names, ensure_ascii=False),
    }
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    safetensors.torch.save_file(contiguous, path, metadata)
