"""Gradients and batch normalization of each layer, at the checkpoints of a run.

He et al. 2015, section 4.1, say that gradients of plain networks "exhibit healthy norms with BN".
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from service.specs.analysis_result import MAX_CELLS, AnalysisResult, ResultTable
from service.specs.analysis_spec import LayerStatisticsSpec
from service.text import count_of
from workers.training import precision
from workers.training.analyses import measuring
from workers.training.analyses.context import AnalysisContext
from workers.training.analyses.measuring import ImageSubset, ReportProgress

_WEIGHT_COLUMNS = ["iteration", "layer", "name", "gradient_norm", "weight_norm"]
_NORM_COLUMNS = [
    "iteration",
    "layer",
    "name",
    "running_mean",
    "running_variance",
    "scale",
    "share_near_zero",
]


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


_Row = TypeVar("_Row", WeightStatistics, NormStatistics)


@dataclass(frozen=True)
class LayerStatistics:
    """In the order of the iterations, and of the layers in the network."""

    weights: list[WeightStatistics]
    norms: list[NormStatistics]


def analyse(context: AnalysisContext, spec: LayerStatisticsSpec) -> AnalysisResult:
    model, batch_size = context.networks[0].model, context.spec.recipe.batch_size
    checkpoints = context.list_checkpoints(most=MAX_CELLS // _count_cells(model))
    images = context.load_images(spec).in_batches_of(batch_size)
    found = measure_layers(
        model,
        checkpoints,
        images,
        near_zero=spec.near_zero,
        report=context.advance,
    )
    last = max(row.iteration for row in found.weights)
    norms = [row.gradient_norm for row in found.weights if row.iteration == last]
    return AnalysisResult(
        numbers={
            "checkpoints": len({row.iteration for row in found.weights}),
            "min_gradient_norm": measuring.finite(min(norms)),
            "max_gradient_norm": measuring.finite(max(norms)),
        },
        tables=[
            ResultTable(
                name="weights",
                columns=_WEIGHT_COLUMNS,
                rows=[
                    [
                        row.iteration,
                        number,
                        row.layer,
                        measuring.finite(row.gradient_norm),
                        row.weight_norm,
                    ]
                    for number, row in _number(found.weights)
                ],
            ),
            ResultTable(
                name="batch_norm",
                columns=_NORM_COLUMNS,
                rows=[
                    [
                        row.iteration,
                        number,
                        row.layer,
                        row.running_mean,
                        row.running_variance,
                        row.scale,
                        row.share_near_zero,
                    ]
                    for number, row in _number(found.norms)
                ],
            ),
        ],
        notes=[
            f"{len(checkpoints)} of {count_of(len(context.networks) - 1, 'checkpoint')}",
            f"gradients of the mean loss of {images.describe(context.spec.dataset, context.seed)}",
            f"each {batch_size:,} are normalized with their own statistics",
            "running mean and scale are means of absolute values",
            f"near zero: below {spec.near_zero:g}",
        ],
    )


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


def _count_cells(model: nn.Module) -> int:
    """Of the tables, for a checkpoint."""
    modules = list(model.modules())
    weights = sum(isinstance(module, nn.Conv2d | nn.Linear) for module in modules)
    norms = sum(isinstance(module, _BatchNorm) for module in modules)
    return len(_WEIGHT_COLUMNS) * weights + len(_NORM_COLUMNS) * norms


def _number(rows: Sequence[_Row]) -> Iterator[tuple[int, _Row]]:
    """Layers from 1 on, anew at each iteration."""
    for _, group in groupby(rows, key=lambda row: row.iteration):
        yield from enumerate(group, start=1)
