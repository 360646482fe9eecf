"""Principal components of a path, against scikit-learn and by hand."""

import copy

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from service.catalog.architectures import Shortcut
from tests.workers.training.analyses.support import (
    Reports,
    check_unchanged,
    copy_state,
    make_images,
    make_network,
)
from tests.workers.training.models.test_blocks import build
from workers.training.analyses import measuring, trajectory
from workers.training.analyses.measuring import NotAnalysable


def test_a_path_in_a_plane_is_found_exactly() -> None:
    """(4, 0), (0, 2), (0, 0) in the third and first element; the others are constant."""
    values = torch.tensor([[0.0, 5.0, 4.0], [2.0, 5.0, 0.0], [0.0, 5.0, 0.0]])
    plane = trajectory.find_plane({"weight": values[:, :2], "bias": values[:, 2:]})
    assert plane.distance_M.tolist() == pytest.approx([0.0, 0.0, 0.0], abs=1e-6)
    assert sum(plane.explained) == pytest.approx(1.0)
    assert plane.coordinates_MD[2].tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
    lengths = plane.coordinates_MD.norm(dim=1).tolist()
    assert lengths == pytest.approx([4.0, 2.0, 0.0], abs=1e-6)
    x, y = (torch.cat([axis["weight"], axis["bias"]]) for axis in plane.directions)
    assert x.norm().item() == pytest.approx(1.0)
    assert torch.dot(x, y).item() == pytest.approx(0.0, abs=1e-6)
    # The coordinates lead from the last checkpoint to the others.
    for row, (along_x, along_y) in zip(values, plane.coordinates_MD.tolist(), strict=True):
        assert (values[2] + along_x * x + along_y * y).tolist() == pytest.approx(
            row.tolist(), abs=1e-5
        )


def test_directions_and_variances_are_those_of_scikit_learn() -> None:
    torch.manual_seed(0)
    path = {"weight": torch.randn(6, 4, 3), "bias": torch.randn(6, 4)}
    plane = trajectory.find_plane(path)
    vectors = torch.cat([values.flatten(1) for values in path.values()], dim=1)
    expected = PCA(n_components=2).fit((vectors - vectors[-1]).numpy())
    assert plane.explained == pytest.approx(expected.explained_variance_ratio_.tolist())
    for axis, component in zip(plane.directions, expected.components_, strict=True):
        found = torch.cat([part.flatten() for part in axis.values()]).numpy()
        assert abs(np.dot(found, component)) == pytest.approx(1.0)
    rest = (vectors - vectors[-1]).norm(dim=1) ** 2 - plane.coordinates_MD.norm(dim=1) ** 2
    assert plane.distance_M.square().tolist() == pytest.approx(rest.tolist(), abs=1e-4)
    assert (plane.coordinates_MD[0] > 0).all()


@torch.no_grad()
def test_a_trajectory_has_the_losses_of_its_checkpoints_and_around_them() -> None:
    model = build(make_network(8, Shortcut.A))
    images, before = make_images(), copy_state(model)
    other = copy.deepcopy(model)
    checkpoints = {20: before}
    for iteration, size in ((5, 0.3), (10, 0.1)):
        checkpoints[iteration] = {
            name: tensor + size * torch.rand_like(tensor) if tensor.is_floating_point() else tensor
            for name, tensor in before.items()
        }
    reports = Reports()
    found = trajectory.measure_trajectory(
        model, checkpoints, steps=3, images=images, report=reports
    )
    reports.check_complete()
    check_unchanged(model, before)
    assert [point.iteration for point in found.path] == [5, 10, 20]
    for point in found.path:
        other.load_state_dict(checkpoints[point.iteration])
        assert point.means == measuring.measure(other, images)
    assert (found.path[2].x, found.path[2].y) == pytest.approx((0.0, 0.0), abs=1e-6)
    xs = [point.x for point in found.path]
    margin = 0.2 * (max(xs) - min(xs))
    assert found.surface.xs == pytest.approx(
        [min(xs) - margin, (max(xs) + min(xs)) / 2, max(xs) + margin]
    )
    assert len(found.surface.means_YX) == 3


def test_two_checkpoints_span_no_plane() -> None:
    model = build(make_network(8, Shortcut.A))
    state = model.state_dict()
    with pytest.raises(NotAnalysable, match="needs 3 checkpoints; 2 are kept"):
        trajectory.measure_trajectory(
            model, {1: state, 2: state}, steps=3, images=make_images(1), report=Reports()
        )
    line = torch.tensor([[2.0, 4.0], [1.0, 2.0], [0.0, 0.0]])
    with pytest.raises(NotAnalysable, match="on one line"):
        trajectory.find_plane({"weight": line})
