"""Loss and error around and between trained networks.

Li, Xu, Taylor, Studer, Goldstein 2018 (arXiv:1712.09913), with the choices of the authors' code
(tomgoldstein/loss-landscape): directions over the parameters are random; each filter is scaled to
the norm of the network's filter, and biases and batch normalization do not move. Running
statistics stay those of the network. Between two networks they are interpolated with the weights.

Shapes: X, Y points of the two axes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from workers.training.analyses import measuring
from workers.training.analyses.measuring import ImageSubset, NotAnalysable, ReportProgress
from workers.training.data import sampling
from workers.training.data.sampling import Purpose
from workers.training.metric_sums import Means

Direction = Mapping[str, Tensor]
"""A displacement of each parameter, by name."""

# As in the authors' code: a filter of zeros has a direction of zeros.
_LEAST_NORM = 1e-10


@dataclass(frozen=True)
class Surface:
    """`means_YX[row][column]`: at the coordinates `ys[row]` and `xs[column]`."""

    xs: Sequence[float]
    ys: Sequence[float]
    means_YX: Sequence[Sequence[Means]]


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
    with measuring.restoring(model):
        for number, x in enumerate(xs):
            report(number, len(xs))
            for name, tensor in model.state_dict().items():
                if tensor.is_floating_point():
                    tensor.copy_(torch.lerp(start[name], end[name], x))
            found.append(measuring.measure(model, images))
    report(len(xs), len(xs))
    return found
