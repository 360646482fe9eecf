"""One optimizer step: forward, backward, SGD. What makes it fast keeps the recipe.

Maps lie in memory with channels last, convolutions are computed in the run's precision, nothing
waits for the device: sums stay there until somebody reports them. On one GPU a step is replayed.

Shapes: N batch, C channels, H height, W width, K classes, S sums.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from service.catalog.recipes import Precision, Recipe
from service.states import LogLevel
from workers.training import cuda_graphs, metric_sums, precision
from workers.training.cuda_graphs import GraphedStep, GraphRecorder
from workers.training.optimizer import Optimizer


def step_state(model: nn.Module, optimizer: Optimizer) -> list[Tensor]:
    """All that a step changes."""
    return [*model.parameters(), *model.buffers(), *optimizer.momentum().values()]


class TrainStep:
    """`parallel` is the model or DDP around it; all parameters are the model's."""

    def __init__(
        self,
        model: nn.Module,
        parallel: nn.Module,
        optimizer: Optimizer,
        recipe: Recipe,
        *,
        computed_in: Precision,
        device: torch.device,
        recorder: GraphRecorder | None = None,
        log: Callable[[LogLevel, str], None] = cuda_graphs.ignore_log,
    ) -> None:
        self._model = model
        self._parallel = parallel
        self._optimizer = optimizer
        self._recipe = recipe
        self._precision = computed_in
        self._device = device
        self._loss_scale = precision.loss_scale(computed_in)
        # Chance would take two other ways in a step that is taken twice.
        has_chance = any(isinstance(each, nn.Dropout) for each in model.modules())
        self._repeated = GraphedStep(None if has_chance else recorder, log)
        precision.set_tf32(computed_in, device)

    def step(self, images_NCHW: Tensor, labels_N: Tensor, learning_rate: float) -> Tensor:
        """The step of this rank's share of a batch. Returns its sums_S."""
        self._optimizer.prepare(learning_rate)
        return self._repeated(self, [images_NCHW, labels_N])

    def compute(self, inputs: Sequence[Tensor]) -> Tensor:
        images_NCHW, labels_N = inputs
        size = self._recipe.micro_batch_size or len(labels_N)
        passes = list(zip(torch.split(images_NCHW, size), torch.split(labels_N, size), strict=True))
        sums_S = metric_sums.zeros(self._device)
        for number, (images, labels) in enumerate(passes, start=1):
            is_last = number == len(passes)
            sums_S += self._pass(images, labels, len(labels) / len(labels_N), is_last=is_last)
        if self._loss_scale != 1.0:
            gradients = [each.grad for each in self._model.parameters() if each.grad is not None]
            torch._foreach_div_(gradients, self._loss_scale)
        self._optimizer.step()
        return sums_S

    def state(self) -> list[Tensor]:
        return step_state(self._model, self._optimizer)

    def forget(self) -> None:
        self._optimizer.forget()

    def _pass(
        self, images_NCHW: Tensor, labels_N: Tensor, share: float, *, is_last: bool
    ) -> Tensor:
        """Adds the gradients of a part of the share; ranks talk in the last one only."""
        parallel = self._parallel
        is_silent = isinstance(parallel, DistributedDataParallel) and not is_last
        with cast("DistributedDataParallel", parallel).no_sync() if is_silent else nullcontext():
            with precision.autocast(self._precision, self._device):
                logits_NK = parallel(images_NCHW)
                loss = functional.cross_entropy(
                    logits_NK, labels_N, label_smoothing=self._recipe.label_smoothing
                )
            scale = share * self._loss_scale
            (loss if scale == 1.0 else loss * scale).backward()  # type: ignore[no-untyped-call]
        return metric_sums.count(logits_NK.detach(), labels_N, loss.detach() * len(labels_N))
