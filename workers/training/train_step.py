"""One optimizer step: forward, backward, SGD.

Activations are in channels-last memory format and convolutions in the run's precision. Nothing in
a step waits for the device: metric sums stay there until they are reported.

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
from workers.training import metric_sums, precision
from workers.training.cuda_graphs import GraphedStep, GraphRecorder
from workers.training.models import step_randomness
from workers.training.observers import LogFunction, ignore_log
from workers.training.optimizer import Optimizer
from workers.training.precision import LossScaler


class TrainStep:
    """Steps a network on this rank's share of a batch.

    Args:
        model: whose parameters the optimizer updates.
        parallel: the model, or DDP around it.
        recorder: records steps as CUDA graphs; None computes each step kernel by kernel.
        on_backward_end: called after each backward pass, but not when a graph is replayed.
        log: receives what became of the recording.
    """

    def __init__(
        self,
        model: nn.Module,
        parallel: nn.Module,
        optimizer: Optimizer,
        recipe: Recipe,
        *,
        resolved_precision: Precision,
        device: torch.device,
        recorder: GraphRecorder | None = None,
        on_backward_end: Callable[[], None] = lambda: None,
        log: LogFunction = ignore_log,
    ) -> None:
        self._model, self._parallel, self._optimizer = model, parallel, optimizer
        self._recipe, self._on_backward_end = recipe, on_backward_end
        self._precision, self._device = resolved_precision, device
        self.scaler = LossScaler(resolved_precision, device)
        if self.scaler.is_enabled:
            optimizer.init_momentum()
        precision.set_tf32(resolved_precision, device)
        self._graphed = None
        # A replayed step would drop the same features and branches each time.
        if recorder is not None and not step_randomness.is_random(model):
            self._graphed = GraphedStep(recorder, log)

    def __call__(self, images_NCHW: Tensor, labels_N: Tensor, learning_rate: float) -> Tensor:
        """Returns the sums_S of this rank's images."""
        self._optimizer.set_learning_rate(learning_rate)
        if self._graphed is not None:
            return self._graphed(self, [images_NCHW, labels_N])
        return self.compute([images_NCHW, labels_N])

    def compute(self, inputs: Sequence[Tensor]) -> Tensor:
        """The step without the learning rate, which may be recorded as a CUDA graph."""
        images_NCHW, labels_N = inputs
        size = self._recipe.micro_batch_size or len(labels_N)
        image_chunks, label_chunks = torch.split(images_NCHW, size), torch.split(labels_N, size)
        sums_S = metric_sums.zero_sums(self._device)
        for index, (images, labels) in enumerate(zip(image_chunks, label_chunks, strict=True)):
            is_last = index == len(label_chunks) - 1
            weight = len(labels) / len(labels_N)
            sums_S += self._forward_backward(images, labels, weight=weight, is_last=is_last)
        norm = self.scaler.unscale_norm(self._optimizer.gradient_norm())
        sums_S += metric_sums.sum_gradient_norm(norm, len(labels_N))
        self._optimizer.step(self.scaler)
        return sums_S

    def state_tensors(self) -> list[Tensor]:
        """Every tensor that a step changes."""
        momentum = self._optimizer.momentum().values()
        parameters, buffers = self._model.parameters(), self._model.buffers()
        return [*parameters, *buffers, *momentum, *self.scaler.state_tensors()]

    def discard_gradients(self) -> None:
        self._optimizer.zero_grad()

    def _forward_backward(
        self, images_NCHW: Tensor, labels_N: Tensor, *, weight: float, is_last: bool
    ) -> Tensor:
        """Adds the gradients of a micro-batch; ranks exchange them with the last one."""
        parallel = self._parallel
        accumulates = isinstance(parallel, DistributedDataParallel) and not is_last
        with cast("DistributedDataParallel", parallel).no_sync() if accumulates else nullcontext():
            with precision.autocast(self._precision, self._device):
                logits_NK = parallel(images_NCHW)
                loss = functional.cross_entropy(
                    logits_NK, labels_N, label_smoothing=self._recipe.label_smoothing
                )
            scaled = self.scaler.scale(loss if weight == 1.0 else loss * weight)
            scaled.backward()  # type: ignore[no-untyped-call]
        self._on_backward_end()
        return metric_sums.sum_batch(logits_NK.detach(), labels_N, loss.detach() * len(labels_N))
