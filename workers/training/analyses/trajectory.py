"""The path of a training through the loss, on the plane that explains most of it.

Li et al. 2018 (arXiv:1712.09913), section 7: principal components of the differences between the
parameters of checkpoints and of the last one, as the authors' code computes them: over all
parameters, centered. The loss on the plane has the running statistics of the last checkpoint.

Shapes: M checkpoints, P elements of a parameter, D = 2 components.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from service.specs.analysis_result import AnalysisResult, ResultTable
from service.specs.analysis_spec import TrajectorySpec
from workers.training.analyses import loss_landscape, measuring
from workers.training.analyses.context import AnalysisContext
from workers.training.analyses.loss_landscape import Direction, Surface
from workers.training.analyses.measuring import ImageSubset, NotAnalysable, ReportProgress
from workers.training.metric_sums import Means

LEAST_CHECKPOINTS = 3  # that span a plane
# Part of the path's extent that the plane shows beyond it, on each side.
_MARGIN = 0.2


@dataclass(frozen=True)
class PathPoint:
    """A checkpoint: its coordinates on the plane, and its `distance` from the plane.

    `means`: of the checkpoint itself, with its own running statistics.
    """

    iteration: int
    x: float
    y: float
    distance: float
    means: Means


@dataclass(frozen=True)
class Trajectory:
    """`explained`: parts of the path's variance along the two axes. The last point is at 0, 0."""

    explained: tuple[float, float]
    path: Sequence[PathPoint]
    surface: Surface


def analyse(context: AnalysisContext, spec: TrajectorySpec) -> AnalysisResult:
    images = context.load_images(spec)
    found = measure_trajectory(
        context.networks[0].model,
        context.list_checkpoints(),
        steps=spec.steps,
        images=images,
        report=context.advance,
    )
    x_part, y_part = found.explained
    return AnalysisResult(
        numbers={
            "checkpoints": len(found.path),
            "explained_by_x": x_part,
            "explained_by_y": y_part,
        },
        tables=[
            loss_landscape.make_table(found.surface),
            ResultTable(
                name="path",
                columns=["iteration", "x", "y", "distance", "error", "loss"],
                rows=[
                    [
                        point.iteration,
                        point.x,
                        point.y,
                        point.distance,
                        *measuring.list_means(point.means),
                    ]
                    for point in found.path
                ],
            ),
        ],
        notes=[
            f"losses on {images.describe(context.spec.dataset, context.seed)}",
            "axes are principal components of all parameters",
            "batch norm statistics are those of the last checkpoint on the plane",
            "the checkpoints on the path have their own",
        ],
    )


def measure_trajectory(
    model: nn.Module,
    checkpoints: Mapping[int, Mapping[str, Tensor]],
    *,
    steps: int,
    images: ImageSubset,
    report: ReportProgress,
) -> Trajectory:
    """The losses of the checkpoints, and of `steps` x `steps` points around them.

    Args:
        model: a network that the weights belong to.
        checkpoints: state_dicts by iteration; the plane goes through the last.
        steps: points along each axis.
        images: that losses are measured on.
        report: receives the number of evaluations.
    """
    if len(checkpoints) < LEAST_CHECKPOINTS:
        raise NotAnalysable(
            f"a trajectory needs {LEAST_CHECKPOINTS} checkpoints; {len(checkpoints)} are kept "
            "(retention.keep_every keeps more)"
        )
    total = len(checkpoints) + steps * steps
    iterations = sorted(checkpoints)
    means = []
    with measuring.restoring(model):
        for number, iteration in enumerate(iterations):
            report(number, total)
            model.load_state_dict(checkpoints[iteration])
            means.append(measuring.measure(model, images))
        names = [name for name, _ in model.named_parameters()]
        plane = find_plane(
            {name: torch.stack([checkpoints[at][name] for at in iterations]) for name in names}
        )
        # The model has the weights of the last checkpoint now.
        surface = loss_landscape.measure_plane(
            model,
            plane.directions,
            xs=_spread(plane.coordinates_MD[:, 0], steps),
            ys=_spread(plane.coordinates_MD[:, 1], steps),
            images=images,
            report=lambda done, _: report(len(checkpoints) + done, total),
        )
    path = [
        PathPoint(iteration, x, y, distance, measured)
        for iteration, (x, y), distance, measured in zip(
            iterations, plane.coordinates_MD.tolist(), plane.distance_M.tolist(), means, strict=True
        )
    ]
    return Trajectory(plane.explained, path, surface)


@dataclass(frozen=True)
class Plane:
    """`directions` have the norm 1 and are orthogonal; coordinates are of each checkpoint."""

    directions: tuple[Direction, Direction]
    coordinates_MD: Tensor
    distance_M: Tensor
    explained: tuple[float, float]


def find_plane(parameters: Mapping[str, Tensor]) -> Plane:
    """The plane of the first two principal components, through the last checkpoint.

    `parameters`: values of each parameter in all checkpoints, (M, ...). Works on products of
    checkpoints (M, M), since M is small and networks are large.
    """
    rows = {name: (values - values[-1]).flatten(1).double() for name, values in parameters.items()}
    products_MM = torch.stack([row_MP @ row_MP.T for row_MP in rows.values()]).sum(dim=0)
    count = len(products_MM)
    centering_MM = torch.eye(count, dtype=torch.float64) - 1 / count
    variances_M, vectors_MM = torch.linalg.eigh(centering_MM @ products_MM @ centering_MM)
    variances_D, vectors_MD = variances_M.flip(0)[:2], vectors_MM.flip(1)[:, :2]
    if not variances_D[1] > 1e-12 * variances_D[0]:
        raise NotAnalysable("the checkpoints do not span a plane: their weights are on one line")
    loadings_MD = centering_MM @ vectors_MD / variances_D.sqrt()
    coordinates_MD = products_MM @ loadings_MD
    # Of the two opposite directions, the one in which the training begins.
    loadings_MD = loadings_MD * torch.where(coordinates_MD[0] < 0, -1.0, 1.0)
    coordinates_MD = products_MM @ loadings_MD
    x_direction, y_direction = (
        {
            name: (loadings_M @ rows[name]).view(values.shape[1:]).to(values)
            for name, values in parameters.items()
        }
        for loadings_M in loadings_MD.T
    )
    squared_M = products_MM.diagonal() - coordinates_MD.square().sum(dim=1)
    x_part, y_part = (variances_D / variances_M.sum()).tolist()
    return Plane(
        (x_direction, y_direction), coordinates_MD, squared_M.clamp(min=0).sqrt(), (x_part, y_part)
    )


def _spread(coordinates_M: Tensor, steps: int) -> list[float]:
    low, high = coordinates_M.min().item(), coordinates_M.max().item()
    margin = _MARGIN * (high - low)
    return loss_landscape.spread(low - margin, high + margin, steps)
