"""Gradients and batch normalization of each layer, at the checkpoints of a run.

He et al. 2015, section 4.1, say that gradients of plain networks "exhibit healthy norms with BN".
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from workers.training import precision
from workers.training.analyses import measuring
from workers.training.analyses.measuring import ImageSubset, ReportProgress


@dataclass(frozen=True)
class WeightStatistics:
    """Of a convolution or a linear layer: norms of its weights, and of the loss's gradient."""

    iteration: int
    layer: str
    weight_norm: float
    gradient_norm: float


@dataclass(frozen=True)
class NormStatistics:
    """Of a batch normalization: means over its channels.

    `scale` is the absolute value of gamma; `share_near_zero`: channels, in parts of 1, whose
    gamma is below the threshold: they hardly pass anything but beta.
    """

    iteration: int
    layer: str
    running_mean: float
    running_variance: float
    scale: float
    share_near_zero: float


@dataclass(frozen=True)
class LayerStatistics:
    """In the order of the iterations, and of the layers in the network."""

    weights: list[WeightStatistics]
    norms: list[NormStatistics]


def measure_layers(
    model: nn.Module,
    checkpoints: Mapping[int, Mapping[str, Tensor]],
    images: ImageSubset,
    *,
    near_zero: float,
    report: ReportProgress,
) -> LayerStatistics:
    """Of each checkpoint.

    Args:
        model: a network that the weights belong to.
        checkpoints: state_dicts by iteration.
        images: the gradient is that of their mean loss. Each of their batches is normalized with
            its own statistics, as in training.
        near_zero: threshold of |gamma|.
        report: receives the number of checkpoints.
    """
    found = LayerStatistics([], [])
    with measuring.restoring(model), measuring.keeping_modes(model):
        for number, iteration in enumerate(sorted(checkpoints)):
            report(number, len(checkpoints))
            model.load_state_dict(checkpoints[iteration])
            found.norms.extend(_describe_norms(model, iteration, near_zero))
            found.weights.extend(_describe_weights(model, iteration, images))
    report(len(checkpoints), len(checkpoints))
    return found


def _describe_norms(model: nn.Module, iteration: int, near_zero: float) -> list[NormStatistics]:
    found = []
    for name, module in model.named_modules():
        if not isinstance(module, _BatchNorm):
            continue
        assert module.running_mean is not None
        assert module.running_var is not None
        scale_C = module.weight.detach().abs()
        found.append(
            NormStatistics(
                iteration,
                name,
                running_mean=module.running_mean.abs().mean().item(),
                running_variance=module.running_var.mean().item(),
                scale=scale_C.mean().item(),
                share_near_zero=(scale_C < near_zero).float().mean().item(),
            )
        )
    return found


def _describe_weights(
    model: nn.Module, iteration: int, images: ImageSubset
) -> list[WeightStatistics]:
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    }
    weights = [layer.weight for layer in layers.values()]
    gradients = [torch.zeros_like(weight) for weight in weights]
    model.eval()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.train()  # nothing else acts at random
    for images_NCHW, labels_N in images.batches:
        with torch.enable_grad(), precision.exact_float32(images_NCHW.device):
            loss = functional.cross_entropy(model(images_NCHW), labels_N, reduction="sum")
            parts = torch.autograd.grad(loss / images.count, weights)
        gradients = [total + part for total, part in zip(gradients, parts, strict=True)]
    return [
        WeightStatistics(
            iteration,
            name,
            weight_norm=weight.norm().item(),
            gradient_norm=gradient.norm().item(),
        )
        for name, weight, gradient in zip(layers, weights, gradients, strict=True)
    ]
