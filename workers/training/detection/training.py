"""Trains a detector and scores it: one process, one device.

Shapes: N batch, C channels, H height, W width.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from service.states import LogLevel
from workers.training.detection import coco_folder
from workers.training.detection.coco_folder import CocoSplit, DetectionScores
from workers.training.detection.detector import build_detector
from workers.training.errors import TrainingDiverged
from workers.training.observers import LogFunction

# Learning rate for a batch of 16 images (Lin et al. 2017); it is proportional to the batch.
_LEARNING_RATE, _BATCH_SIZE = 0.02, 16
_MOMENTUM, _WEIGHT_DECAY = 0.9, 1e-4
# Shares of the training at which the learning rate drops, as at 60k and 80k of 90k iterations.
_DROPS = (2 / 3, 8 / 9)
_DROP_FACTOR = 0.1
_MAX_WARMUP_ITERATIONS = 500
_REPORT_EVERY = 20


@dataclass(frozen=True)
class DetectionSettings:
    """Sizes in pixels: of the shorter and the longer side that images are resized to."""

    iterations: int
    device: torch.device
    batch_size: int = 2
    min_size: int = 800
    max_size: int = 1333
    seed: int = 0


def train_detector(
    weights: Path, folder: Path, settings: DetectionSettings, log: LogFunction
) -> tuple[nn.Module, DetectionScores]:
    """Fine-tunes a detector on the training split of a COCO folder, and scores it on the other."""
    train, test = coco_folder.open_splits(folder)
    torch.manual_seed(settings.seed)
    detector = build_detector(
        weights,
        classes=len(train.class_names),
        min_size=settings.min_size,
        max_size=settings.max_size,
    ).to(settings.device)
    trained = [parameter for parameter in detector.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.0, momentum=_MOMENTUM, weight_decay=_WEIGHT_DECAY)
    detector.train()
    for iteration, batch in enumerate(_draw_batches(train, settings)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(iteration, settings)
        images, targets = zip(*batch, strict=True)
        losses: dict[str, Tensor] = detector(list(images), list(targets))
        loss = torch.stack(list(losses.values())).sum()
        if iteration % _REPORT_EVERY == 0:
            log(LogLevel.INFO, f"iteration {iteration}: loss {loss.item():.4f}")
            if not loss.isfinite():
                raise TrainingDiverged(f"the loss of the detector is {loss.item()}")
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return detector, score_detector(detector, test, settings.device)


def learning_rate_at(iteration: int, settings: DetectionSettings) -> float:
    """Rises linearly at first, and drops twice."""
    rate = _LEARNING_RATE * settings.batch_size / _BATCH_SIZE
    warmup = min(_MAX_WARMUP_ITERATIONS, settings.iterations // 10)
    if iteration < warmup:
        return rate * (iteration + 1) / warmup
    drops = sum(iteration >= share * settings.iterations for share in _DROPS)
    return rate * _DROP_FACTOR**drops


@torch.no_grad()
def score_detector(detector: nn.Module, split: CocoSplit, device: torch.device) -> DetectionScores:
    detector.eval()
    found = []
    for index in range(len(split)):
        (detections,) = detector([split.load_image(index).to(device)])
        found.append({name: tensor.cpu() for name, tensor in detections.items()})
    return split.score(found)


def _draw_batches(
    split: CocoSplit, settings: DetectionSettings
) -> Iterator[list[tuple[Tensor, dict[str, Tensor]]]]:
    """Images in an order that the seed decides, half of them flipped."""
    generator = torch.Generator().manual_seed(settings.seed)
    order: list[int] = []
    for _ in range(settings.iterations):
        while len(order) < settings.batch_size:
            order += torch.randperm(len(split), generator=generator).tolist()
        chosen, order = order[: settings.batch_size], order[settings.batch_size :]
        is_flipped_N = torch.rand(len(chosen), generator=generator) < 0.5  # noqa: PLR2004 - half
        yield [
            _load(split, index, settings.device, is_flipped=bool(is_flipped))
            for index, is_flipped in zip(chosen, is_flipped_N, strict=True)
        ]


def _load(
    split: CocoSplit, index: int, device: torch.device, *, is_flipped: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    image_CHW, target = split.load_image(index), split.load_target(index)
    if is_flipped:
        width = image_CHW.shape[2]
        boxes_N4 = target["boxes"].clone()
        boxes_N4[:, [0, 2]] = width - boxes_N4[:, [2, 0]]
        image_CHW, target = image_CHW.flip(2), target | {"boxes": boxes_N4}
    return image_CHW.to(device), {name: tensor.to(device) for name, tensor in target.items()}
