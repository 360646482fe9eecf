"""What a network does at random in a training step: which branches it drops, and dropout.

Both are pure functions of (seed, iteration): a checkpoint stores no random state, and a resumed run
drops what the uninterrupted one does. All ranks drop the same branches; dropout differs by rank,
as the images do.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from workers.training.data.sampling import Purpose, random_words
from workers.training.models.blocks import ResidualBlock

_WORDS = 2.0**64


class StepRandomness:
    """The random choices of one rank's training steps.

    Outside of a step each branch is scaled by its survival probability: in evaluation, and while
    batch normalization is measured, which needs the maps of all branches.
    """

    def __init__(self, model: nn.Module, *, seed: int, rank: int) -> None:
        self._seed, self._rank = seed, rank
        self._blocks = _list_droppable_blocks(model)
        self._has_dropout = _has_dropout(model)

    @contextmanager
    def step(self, iteration: int) -> Iterator[None]:
        """The step after `iteration` finished steps is computed inside."""
        if self._has_dropout:
            (word,) = random_words(
                self._seed, Purpose.DROPOUT, 1, epoch=iteration, image=self._rank
            )
            torch.manual_seed(int(word))  # all micro-batches of the step continue its stream
        words = random_words(self._seed, Purpose.SURVIVAL, len(self._blocks), epoch=iteration)
        for block, word in zip(self._blocks, words.tolist(), strict=True):
            block.is_dropped = word / _WORDS >= block.survival
        try:
            yield
        finally:
            for block in self._blocks:
                block.is_dropped = None


def is_random(model: nn.Module) -> bool:
    """Whether two steps with the same images and weights may differ."""
    return _has_dropout(model) or bool(_list_droppable_blocks(model))


def _has_dropout(model: nn.Module) -> bool:
    return any(isinstance(module, nn.Dropout) for module in model.modules())


def _list_droppable_blocks(model: nn.Module) -> list[ResidualBlock]:
    """In the order of the network."""
    blocks = (module for module in model.modules() if isinstance(module, ResidualBlock))
    return [block for block in blocks if block.survival < 1]
