"""Loss and error around and between trained networks.

Li, Xu, Taylor, Studer, Goldstein 2018 (arXiv:1712.09913), with the choices of the authors' code
(tomgoldstein/loss-landscape): directions over the parameters are random; each filter is scaled to
the norm of the network's filter, and biases and batch normalization do not move. Running
statistics stay those of the network. Between two networks they are interpolated with the weights.

Shapes: X, Y points of the two axes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from service.specs.analysis_result import AnalysisResult, ResultTable
from service.specs.analysis_spec import InterpolationSpec, LossLandscapeSpec
from workers.training.analyses import measuring
from workers.training.analyses.context import AnalysisContext
from workers.training.analyses.measuring import ImageSubset, NotAnalysable, ReportProgress
from workers.training.data import sampling
from workers.training.data.sampling import Purpose
from workers.training.metric_sums import Means

Direction = Mapping[str, Tensor]
"""A displacement of each parameter, by name."""

PLANE = 2  # dimensions

# As in the authors' code: a filter of zeros has a direction of zeros.
_LEAST_NORM = 1e-10


@dataclass(frozen=True)
class Surface:
    """`means_YX[row][column]`: at the coordinates `ys[row]` and `xs[column]`."""

    xs: Sequence[float]
    ys: Sequence[float]
    means_YX: Sequence[Sequence[Means]]


def analyse(context: AnalysisContext, spec: LossLandscapeSpec) -> AnalysisResult:
    images, model = context.load_images(spec), context.networks[0].model
    points = spread(-spec.extent, spec.extent, spec.steps)
    x_direction, y_direction = (
        draw_direction(model, seed=context.seed, number=number) for number in (0, 1)
    )
    surface = measure_plane(
        model,
        (x_direction, y_direction),
        xs=points,
        ys=points if spec.dimensions == PLANE else [0.0],
        images=images,
        report=context.advance,
    )
    center = measuring.measure(model, images)
    return AnalysisResult(
        numbers={"loss": measuring.finite(center.loss), "error": center.error},
        tables=[make_table(surface)],
        notes=[
            f"losses on {images.describe(context.spec.dataset, context.seed)}",
            f"directions are drawn with seed {context.seed} and filter-normalized",
            "biases and batch norm do not move; batch norm statistics are those of the checkpoint",
        ],
    )


def analyse_interpolation(context: AnalysisContext, spec: InterpolationSpec) -> AnalysisResult:
    images = context.load_images(spec)
    first, second = context.networks
    if first.spec.architecture.label != second.spec.architecture.label:
        raise NotAnalysable(
            f"checkpoints must be of one network, received {first.spec.network} and "
            f"{second.spec.network}"
        )
    start, end = first.model, second.model
    xs = spread(spec.first, spec.last, spec.steps)
    means = interpolate(
        start, start.state_dict(), end.state_dict(), xs=xs, images=images, report=context.advance
    )
    ends = [measuring.measure(network, images) for network in (start, end)]
    return AnalysisResult(
        numbers={
            "loss_at_0": measuring.finite(ends[0].loss),
            "loss_at_1": measuring.finite(ends[1].loss),
            "barrier": find_barrier(xs, means, ends),
        },
        tables=[
            ResultTable(
                name="line",
                columns=["x", "error", "loss"],
                rows=[
                    [x, *measuring.list_means(found)] for x, found in zip(xs, means, strict=True)
                ],
            )
        ],
        notes=[
            f"losses on {images.describe(context.spec.dataset, context.seed)}",
            "weights and batch norm statistics are interpolated",
        ],
    )


def draw_direction(model: nn.Module, *, seed: int, number: int) -> dict[str, Tensor]:
    """Filter-normalized; directions of other numbers are independent of it.

    A filter is what computes one feature map, or one output of a linear layer.
    """
    (word,) = sampling.random_words(seed, Purpose.DIRECTIONS, 1, image=number)
    generator = torch.Generator().manual_seed(int(word))
    direction = {}
    for name, parameter in model.named_parameters():
        weights = parameter.detach()
        drawn = torch.randn(weights.shape, generator=generator).to(weights)
        if weights.dim() <= 1:
            direction[name] = torch.zeros_like(weights)
            continue
        dims = tuple(range(1, weights.dim()))
        norms, drawn_norms = (
            torch.linalg.vector_norm(filters, dim=dims, keepdim=True)
            for filters in (weights, drawn)
        )
        direction[name] = drawn * (norms / (drawn_norms + _LEAST_NORM))
    return direction


def measure_line(
    model: nn.Module,
    direction: Direction,
    xs: Sequence[float],
    images: ImageSubset,
    *,
    report: ReportProgress,
) -> list[Means]:
    """At the network's parameters plus x times the direction, for each x."""
    surface = measure_plane(
        model, (direction, direction), xs=xs, ys=[0.0], images=images, report=report
    )
    return list(surface.means_YX[0])


def measure_plane(
    model: nn.Module,
    directions: tuple[Direction, Direction],
    *,
    xs: Sequence[float],
    ys: Sequence[float],
    images: ImageSubset,
    report: ReportProgress,
) -> Surface:
    """At the network's parameters plus x and y times the directions, for each pair."""
    x_direction, y_direction = directions
    means_YX: list[list[Means]] = []
    with measuring.restoring(model):
        center = {name: tensor.clone() for name, tensor in model.named_parameters()}
        for y in ys:
            means_YX.append([])
            for x in xs:
                report(sum(map(len, means_YX)), len(xs) * len(ys))
                for name, parameter in model.named_parameters():
                    moved = x * x_direction[name] + y * y_direction[name]
                    parameter.copy_(center[name] + moved.to(parameter))
                means_YX[-1].append(measuring.measure(model, images))
    report(len(xs) * len(ys), len(xs) * len(ys))
    return Surface(list(xs), list(ys), means_YX)


def interpolate(
    model: nn.Module,
    start: Mapping[str, Tensor],
    end: Mapping[str, Tensor],
    *,
    xs: Sequence[float],
    images: ImageSubset,
    report: ReportProgress,
) -> list[Means]:
    """At (1 - x) times the state_dict `start` plus x times `end`, for each x.

    Beyond its ends, an extrapolated variance may be negative; the loss is then not a number.
    NotAnalysable if the two belong to different networks.
    """
    if {name: tensor.shape for name, tensor in start.items()} != {
        name: tensor.shape for name, tensor in end.items()
    }:
        raise NotAnalysable("the two checkpoints have weights of different networks")
    found = []
    # They may be the tensors of the model, which change.
    first, last = ({name: t.clone() for name, t in state.items()} for state in (start, end))
    with measuring.restoring(model):
        for number, x in enumerate(xs):
            report(number, len(xs))
            for name, tensor in model.state_dict().items():
                if tensor.is_floating_point():
                    tensor.copy_(torch.lerp(first[name], last[name], x))
            found.append(measuring.measure(model, images))
    report(len(xs), len(xs))
    return found


def find_barrier(
    xs: Sequence[float], means: Sequence[Means], ends: Sequence[Means]
) -> float | None:
    """The largest loss between 0 and 1 above the line through the losses at the ends.

    Frankle et al. 2020 (arXiv:1912.05671) call networks with a barrier near 0 linearly connected.
    """
    start, end = (found.loss for found in ends)
    heights = [
        found.loss - ((1 - x) * start + x * end)
        for x, found in zip(xs, means, strict=True)
        if 0 <= x <= 1
    ]
    return measuring.finite(max(heights, default=math.nan))


def spread(first: float, last: float, steps: int) -> list[float]:
    """`steps` points at equal distances; of an odd number, the middle is exact."""
    return [first + (last - first) * step / (steps - 1) for step in range(steps)]


def make_table(surface: Surface) -> ResultTable:
    return ResultTable(
        name="surface",
        columns=["x", "y", "error", "loss"],
        rows=[
            [x, y, *measuring.list_means(means)]
            for y, means_X in zip(surface.ys, surface.means_YX, strict=True)
            for x, means in zip(surface.xs, means_X, strict=True)
        ],
    )
