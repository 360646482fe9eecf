"""Directions, grids and lines between networks, against weights that are moved by hand."""

import copy

import pytest
import torch
from torch import nn

from service.catalog.architectures import Shortcut
from tests.workers.training.analyses.support import (
    Reports,
    Stop,
    check_unchanged,
    copy_state,
    make_images,
    make_network,
)
from tests.workers.training.models.test_blocks import build
from workers.training.analyses import loss_landscape, measuring
from workers.training.analyses.measuring import NotAnalysable

IMAGES = make_images()


@torch.no_grad()
def test_filters_of_a_direction_have_the_norms_of_the_networks_filters() -> None:
    model = build(make_network(8, Shortcut.B))
    nn.init.zeros_(model.get_parameter("layer2.0.conv1.weight")[3])
    direction = loss_landscape.draw_direction(model, seed=5, number=0)
    assert list(direction) == [name for name, _ in model.named_parameters()]
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            assert not direction[name].any(), "bias and batch normalization"
            continue
        for filter_number, weights in enumerate(parameter):
            norm = direction[name][filter_number].norm()
            assert norm == pytest.approx(weights.norm().item(), rel=1e-5)


def test_directions_depend_on_seed_and_number() -> None:
    model = build(make_network(8, Shortcut.A))
    first, again, second, other = (
        loss_landscape.draw_direction(model, seed=seed, number=number)["conv1.weight"]
        for seed, number in ((0, 0), (0, 0), (0, 1), (1, 0))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert not torch.equal(first, other)


@torch.no_grad()
def test_a_plane_has_the_losses_of_moved_weights_with_fixed_statistics() -> None:
    model = build(make_network(8, Shortcut.A))
    before = copy_state(model)
    directions = tuple(
        loss_landscape.draw_direction(model, seed=0, number=number) for number in (0, 1)
    )
    reports = Reports()
    surface = loss_landscape.measure_plane(
        model,
        (directions[0], directions[1]),
        xs=[-0.5, 0.0, 1.0],
        ys=[0.0, 2.0],
        images=IMAGES,
        report=reports,
    )
    reports.check_complete()
    check_unchanged(model, before)
    assert surface.means_YX[0][1] == measuring.measure(model, IMAGES)
    moved = copy.deepcopy(model)
    for name, parameter in moved.named_parameters():
        parameter.add_(2.0 * directions[1][name] - 0.5 * directions[0][name])
    assert surface.means_YX[1][0].loss == pytest.approx(measuring.measure(moved, IMAGES).loss)
    line = loss_landscape.measure_line(model, directions[0], [-0.5, 1.0], IMAGES, report=Reports())
    assert line == [surface.means_YX[0][0], surface.means_YX[0][2]]


@torch.no_grad()
def test_interpolation_moves_weights_and_running_statistics() -> None:
    model = build(make_network(8, Shortcut.A))
    start, between = copy_state(model), copy.deepcopy(model)
    torch.manual_seed(1)
    end = {
        name: tensor + 0.1 * torch.rand_like(tensor) if tensor.is_floating_point() else tensor + 7
        for name, tensor in start.items()
    }
    reports = Reports()
    found = loss_landscape.interpolate(
        model, model.state_dict(), end, xs=[0.0, 0.25, 1.0], images=IMAGES, report=reports
    )
    reports.check_complete()
    check_unchanged(model, start)
    for x, means in zip([0.0, 0.25, 1.0], found, strict=True):
        between.load_state_dict(
            {
                name: (1 - x) * tensor + x * end[name] if tensor.is_floating_point() else tensor
                for name, tensor in start.items()
            }
        )
        assert means.loss == pytest.approx(measuring.measure(between, IMAGES).loss, rel=1e-5)
    assert found[0].loss != pytest.approx(found[2].loss, rel=1e-3)


def test_networks_of_different_depth_are_not_interpolated() -> None:
    model, other = build(make_network(8, Shortcut.A)), build(make_network(14, Shortcut.A))
    with pytest.raises(NotAnalysable, match="different networks"):
        loss_landscape.interpolate(
            model, model.state_dict(), other.state_dict(), xs=[0], images=IMAGES, report=Reports()
        )


def test_a_stop_leaves_the_network_as_it_was() -> None:
    model = build(make_network(8, Shortcut.A))
    before = copy_state(model)
    direction = loss_landscape.draw_direction(model, seed=0, number=0)
    with pytest.raises(Stop):
        loss_landscape.measure_line(model, direction, [1.0, 2.0], IMAGES, report=Reports(1))
    check_unchanged(model, before)
