"""How much gradient reaches the input through paths of each length.

Veit, Wilber, Belongie 2016 (arXiv:1605.06431), section 4.3: a network of L residual blocks has 2^L
paths, and L over k of them take k residual branches. The forward pass is the network's own; the
backward pass follows one path: in each block it takes either the branch or the shortcut. Here each
image of a batch follows a path of its own, so that one pass samples many.

Shapes: N batch, C channels, H height, W width, L blocks.
"""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from service.catalog.architectures import Shortcut
from service.specs.analysis_result import AnalysisResult, ResultTable
from service.specs.analysis_spec import PathGradientsSpec
from workers.training import precision
from workers.training.analyses import measuring
from workers.training.analyses.context import AnalysisContext
from workers.training.analyses.measuring import ImageSubset, NotAnalysable, ReportProgress
from workers.training.data import sampling
from workers.training.data.sampling import Purpose
from workers.training.models.blocks import ResidualBlock
from workers.training.models.resnet import ResNet


@dataclass(frozen=True)
class PathLength:
    """Paths that take `length` residual branches.

    `norm_mean`, `norm_std`: of the gradient of an image's loss at its pixels, along one sampled
    path of this length. `share`: of all paths. `total`: `share` times `norm_mean`.
    """

    length: int
    samples: int
    norm_mean: float
    norm_std: float
    share: float
    total: float


def analyse(context: AnalysisContext, spec: PathGradientsSpec) -> AnalysisResult:
    # Gradients need the memory of a training step.
    images = context.load_images(spec).in_batches_of(context.spec.recipe.batch_size)
    lengths = measure_path_lengths(
        context.networks[0].model, images, seed=context.seed, report=context.advance
    )
    total = sum(row.total for row in lengths)
    shares = [row.total / total if total else 0.0 for row in lengths]
    return AnalysisResult(
        numbers={
            "blocks": len(lengths) - 1,
            "mean_length": sum(row.length * row.share for row in lengths),
            "mean_length_by_gradient": sum(
                row.length * share for row, share in zip(lengths, shares, strict=True)
            ),
        },
        tables=[
            ResultTable(
                name="lengths",
                columns=[
                    "length",
                    "samples",
                    "gradient_norm",
                    "gradient_norm_std",
                    "share_of_paths",
                    "share_of_gradient",
                ],
                rows=[
                    [row.length, row.samples, row.norm_mean, row.norm_std, row.share, share]
                    for row, share in zip(lengths, shares, strict=True)
                ],
            )
        ],
        notes=[
            f"gradients for {images.describe(context.spec.dataset, context.seed)}",
            "of the loss of each image, with the batch norm statistics of the checkpoint",
        ],
    )


def measure_path_lengths(
    model: nn.Module, images: ImageSubset, *, seed: int, report: ReportProgress
) -> list[PathLength]:
    """For each length from 0 to the number of blocks.

    Each image follows one path of each length, drawn from the seed: there are as many samples as
    images. NotAnalysable for a network without shortcuts.
    """
    blocks = _list_blocks(model)
    lengths, steps = len(blocks) + 1, (len(blocks) + 1) * len(images.batches)
    norms: list[list[Tensor]] = [[] for _ in range(lengths)]
    position = 0
    for number, (images_NCHW, labels_N) in enumerate(images.batches):
        for length in range(lengths):
            report(number * lengths + length, steps)
            takes_branch_NL = draw_paths(
                len(blocks), length, images=len(labels_N), first_image=position, seed=seed
            )
            gradient_NCHW = compute_path_gradients(model, images_NCHW, labels_N, takes_branch_NL)
            norms[length].append(gradient_NCHW.flatten(1).norm(dim=1).double().cpu())
        position += len(labels_N)
    report(steps, steps)
    return [_summarize(length, len(blocks), torch.cat(found)) for length, found in enumerate(norms)]


def draw_paths(blocks: int, length: int, *, images: int, first_image: int, seed: int) -> Tensor:
    """takes_branch_NL, bool: the blocks whose branch each image's path takes; `length` per row."""
    words = np.stack(
        [
            sampling.random_words(seed, Purpose.PATHS, blocks, epoch=length, image=image)
            for image in range(first_image, first_image + images)
        ]
    )
    rank_NL = torch.from_numpy(np.argsort(np.argsort(words, kind="stable"), kind="stable"))
    return rank_NL < length


def compute_path_gradients(
    model: nn.Module, images_NCHW: Tensor, labels_N: Tensor, takes_branch_NL: Tensor
) -> Tensor:
    """gradient_NCHW of each image's own loss at the image, along the path of its row.

    Gradients over all paths add up to the gradient of the network. A gate belongs to the shortcut.
    """
    blocks = _list_blocks(model)
    inputs_NCHW = images_NCHW.detach().clone().requires_grad_()
    is_taken_NL = takes_branch_NL.to(images_NCHW.device)
    with ExitStack() as stack:
        stack.enter_context(measuring.keeping_modes(model))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(precision.exact_float32(images_NCHW.device))
        model.eval()
        for block, is_taken_N in zip(blocks, is_taken_NL.unbind(dim=1), strict=True):
            stack.enter_context(_split_gradient(block, is_taken_N[:, None, None, None]))
        # The images do not depend on each other: batch normalization has fixed statistics.
        loss = functional.cross_entropy(model(inputs_NCHW), labels_N, reduction="sum")
        (gradient_NCHW,) = torch.autograd.grad(loss, inputs_NCHW)
    return gradient_NCHW


@contextmanager
def _split_gradient(block: ResidualBlock, takes_branch_N111: Tensor) -> Iterator[None]:
    """The block's input gets a gradient from its branch, or from its shortcut, image by image."""
    inputs_NCHW: list[Tensor] = []

    def block_shortcut(_block: nn.Module, arguments: tuple[Any, ...]) -> tuple[Tensor]:
        (maps_NCHW,) = arguments
        inputs_NCHW.append(maps_NCHW)
        return (torch.where(takes_branch_N111, maps_NCHW.detach(), maps_NCHW),)

    def block_branch(_conv: nn.Module, _arguments: tuple[Any, ...]) -> tuple[Tensor]:
        activated_NCHW = block.activate_input(inputs_NCHW.pop())
        return (torch.where(takes_branch_N111, activated_NCHW, activated_NCHW.detach()),)

    handles = [
        block.register_forward_pre_hook(block_shortcut),
        block.get_submodule("conv1").register_forward_pre_hook(block_branch),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _list_blocks(model: nn.Module) -> list[ResidualBlock]:
    if not isinstance(model, ResNet) or model.network.shortcut is Shortcut.NONE:
        raise NotAnalysable(
            "a network without shortcuts has a single path; path-gradients needs a residual network"
        )
    return [module for module in model.modules() if isinstance(module, ResidualBlock)]


def _summarize(length: int, blocks: int, norms_N: Tensor) -> PathLength:
    share = math.comb(blocks, length) / 2**blocks
    mean = norms_N.mean().item()
    std = norms_N.std(correction=1).item() if len(norms_N) > 1 else 0.0
    return PathLength(length, len(norms_N), mean, std, share, share * mean)
