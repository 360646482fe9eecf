"""Norms of weights, gradients and batch normalization, against torch's own backward pass."""

import copy

import pytest
import torch
from torch.nn import functional

from service.catalog.architectures import Shortcut, ShortcutForm
from tests.workers.training.analyses.support import (
    Reports,
    Stop,
    check_unchanged,
    copy_state,
    make_images,
    make_network,
)
from tests.workers.training.models.test_blocks import build
from workers.training.analyses import layer_statistics


def test_gradients_are_those_of_a_training_step() -> None:
    model = build(make_network(8, Shortcut.B))
    images, before, reports = make_images(6, batch=6), copy_state(model), Reports()
    found = layer_statistics.measure_layers(
        model, {10: before}, images, near_zero=0.01, report=reports
    )
    reports.check_complete()
    check_unchanged(model, before)
    trained = copy.deepcopy(model).train()
    ((images_NCHW, labels_N),) = images.batches
    functional.cross_entropy(trained(images_NCHW), labels_N).backward()  # type: ignore[no-untyped-call]
    assert [row.layer for row in found.weights[:2]] == ["conv1", "layer1.0.conv1"]
    assert {row.layer for row in found.weights} == {
        name.removesuffix(".weight")
        for name, parameter in model.named_parameters()
        if parameter.dim() > 1
    }
    for row in found.weights:
        parameter = trained.get_parameter(f"{row.layer}.weight")
        assert parameter.grad is not None
        assert row.gradient_norm == pytest.approx(parameter.grad.norm().item(), rel=1e-4)
        assert row.weight_norm == pytest.approx(parameter.norm().item())


def test_gradients_of_batches_are_averaged_over_their_images() -> None:
    """The classifier's, by hand; dropout on shortcuts does not act."""
    model = build(make_network(8, Shortcut.A, shortcut_form=ShortcutForm.DROPOUT))
    images = make_images(6, batch=4)
    found = layer_statistics.measure_layers(
        model, {1: copy_state(model)}, images, near_zero=0.01, report=Reports()
    )
    trained = copy.deepcopy(model)
    for module in trained.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.train()
    expected = torch.zeros_like(trained.fc.weight)
    with torch.no_grad():
        for images_NCHW, labels_N in images.batches:
            features = trained.forward_features(images_NCHW).mean(dim=(2, 3))
            probabilities_NK = trained.fc(features).softmax(dim=1)
            probabilities_NK[torch.arange(len(labels_N)), labels_N] -= 1
            expected += probabilities_NK.T @ features / 6
    assert found.weights[-1].layer == "fc"
    assert found.weights[-1].gradient_norm == pytest.approx(expected.norm().item(), rel=1e-4)


@torch.no_grad()
def test_batch_normalization_is_described_at_each_checkpoint() -> None:
    model = build(make_network(8, Shortcut.A))
    early, late = copy_state(model), copy_state(model)
    late["bn1.weight"] = torch.tensor([0.009, -0.009, 0.02, -3.0] * 4)
    late["bn1.running_mean"] = torch.tensor([1.0, -3.0] * 8)
    late["bn1.running_var"] = torch.full((16,), 2.5)
    found = layer_statistics.measure_layers(
        model, {20: late, 10: early}, make_images(2, batch=2), near_zero=0.01, report=Reports()
    )
    rows = {(row.iteration, row.layer): row for row in found.norms}
    assert [iteration for iteration, layer in rows if layer == "bn1"] == [10, 20]
    row = rows[20, "bn1"]
    assert row.running_mean == pytest.approx(2.0)
    assert row.running_variance == pytest.approx(2.5)
    assert row.scale == pytest.approx((0.009 + 0.009 + 0.02 + 3.0) / 4)
    assert row.share_near_zero == pytest.approx(0.5)
    assert rows[10, "bn1"].share_near_zero == 0.0


def test_a_stop_leaves_the_network_as_it_was() -> None:
    model = build(make_network(8, Shortcut.A))
    before = copy_state(model)
    changed = {name: tensor + 1 for name, tensor in before.items()}
    with pytest.raises(Stop):
        layer_statistics.measure_layers(
            model,
            {1: changed, 2: changed},
            make_images(2, batch=2),
            near_zero=0.01,
            report=Reports(1),
        )
    check_unchanged(model, before)
