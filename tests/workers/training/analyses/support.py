"""Networks and images that analyses are tested on."""

from typing import Any

import torch
from torch import Tensor, nn

from service.catalog import architectures
from service.catalog.architectures import Architecture, Family, Shortcut
from workers.training.analyses.measuring import ImageSubset
from workers.training.data.data_source import EvaluationSplit


class Stop(Exception):
    """Raised by a report, as a job that is cancelled does."""


class Reports:
    """Keeps what is reported; `stop_after` reports, it raises Stop."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.seen: list[tuple[int, int]] = []
        self._stop_after = stop_after

    def __call__(self, done: int, total: int) -> None:
        self.seen.append((done, total))
        if self._stop_after is not None and len(self.seen) > self._stop_after:
            raise Stop

    def check_complete(self) -> None:
        """Every step was reported once, in order, to the last."""
        total = self.seen[-1][1]
        assert self.seen == [(done, total) for done in range(total + 1)]


def make_network(depth: int, shortcut: Shortcut, **choices: Any) -> Architecture:
    return architectures.make_architecture(Family.CIFAR, depth, shortcut, **choices)


def make_images(count: int = 8, *, batch: int = 5, size: int = 8) -> ImageSubset:
    generator = torch.Generator().manual_seed(1)
    images_NCHW = torch.randn(count, 3, size, size, generator=generator)
    labels_N = torch.randint(0, 10, (count,), generator=generator)
    starts = range(0, count, batch)
    batches = [(images_NCHW[at : at + batch], labels_N[at : at + batch]) for at in starts]
    return ImageSubset(EvaluationSplit.TEST, count, count, batches)


def copy_state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def check_unchanged(model: nn.Module, before: dict[str, Tensor]) -> None:
    """Weights, statistics, modules, hooks and modes."""
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert getattr(module, "is_dropped", None) is None
        assert not module.training, "as it was built"
