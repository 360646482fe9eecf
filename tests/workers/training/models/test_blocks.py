"""Shortcut forms, activation orders and stochastic depth against the formulas of their papers."""

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from service.catalog import architectures
from service.catalog.architectures import (
    ActivationOrder,
    Architecture,
    Block,
    Family,
    Shortcut,
    ShortcutForm,
    Stem,
)
from tests.workers.training.models.reference_network import FULL, RELU_ONLY, ReferenceNetwork
from workers.training.models.blocks import ResidualBlock, make_conv
from workers.training.models.random_layers import ShortcutDropout
from workers.training.models.resnet import ResNet

ORDERS = list(ActivationOrder)
FORMS: list[dict[str, Any]] = [
    {"shortcut_form": ShortcutForm.CONSTANT_SCALING, "residual_scale": 1.0},
    {"shortcut_form": ShortcutForm.CONSTANT_SCALING, "shortcut_scale": 0.25},
    {"shortcut_form": ShortcutForm.EXCLUSIVE_GATING, "gate_bias": -1.0},
    {"shortcut_form": ShortcutForm.SHORTCUT_ONLY_GATING, "gate_bias": 0.0},
    {"shortcut_form": ShortcutForm.DROPOUT, "dropout_rate": 0.25},
]


def make_network(shortcut: Shortcut = Shortcut.A, **choices: Any) -> Architecture:
    block = choices.get("block", Block.BASIC)
    depth = 14 if block is Block.BASIC else 20
    return architectures.make_architecture(Family.CIFAR, depth, shortcut, **choices)


def build(network: Architecture) -> ResNet:
    """In evaluation mode, with statistics, scales and biases that differ from layer to layer."""
    torch.manual_seed(0)
    model = ResNet(network, classes=10).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (module.bias, module.running_mean):
                nn.init.normal_(tensor, std=0.3)
    return model


def images() -> Tensor:
    return torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def compute_reference(model: ResNet, images_NCHW: Tensor, **options: Any) -> Tensor:
    return ReferenceNetwork(model.network, model.state_dict(), **options)(images_NCHW)


def check_equal(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shortcut", [Shortcut.A, Shortcut.B, Shortcut.C])
@pytest.mark.parametrize("block", Block)
@torch.no_grad()
def test_each_activation_order_computes_what_figure_4_shows(
    order: ActivationOrder, shortcut: Shortcut, block: Block
) -> None:
    model = build(make_network(shortcut, block=block, activation_order=order))
    check_equal(model(images()), compute_reference(model, images()))


@pytest.mark.parametrize("order", ORDERS)
@torch.no_grad()
def test_activation_orders_compute_different_functions(order: ActivationOrder) -> None:
    """Which the comparison with the reference notices."""
    model = build(make_network(activation_order=order))
    logits_NK = model(images())
    for other in ORDERS:
        if FULL in {order, other} or order is other:
            continue
        model.network = make_network(activation_order=other)
        assert not torch.allclose(compute_reference(model, images()), logits_NK, rtol=1e-2)


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shortcut", [Shortcut.A, Shortcut.B])
@torch.no_grad()
def test_each_shortcut_form_computes_what_table_1_says(
    form: dict[str, Any], order: ActivationOrder, shortcut: Shortcut
) -> None:
    model = build(make_network(shortcut, activation_order=order, **form))
    check_equal(model(images()), compute_reference(model, images()))


@pytest.mark.parametrize("order", ORDERS)
@torch.no_grad()
def test_training_mode_normalizes_with_the_statistics_of_the_batch(order: ActivationOrder) -> None:
    form = {"shortcut_form": ShortcutForm.EXCLUSIVE_GATING, "gate_bias": -1.0}
    model = build(make_network(Shortcut.B, activation_order=order, **form))
    expected = compute_reference(model, images(), is_training=True)
    check_equal(model.train()(images()), expected)


@pytest.mark.parametrize("order", ORDERS)
@torch.no_grad()
def test_an_imagenet_stem_has_activated_the_first_block(order: ActivationOrder) -> None:
    network = architectures.make_architecture(
        Family.IMAGENET, 18, Shortcut.B, activation_order=order
    )
    model = build(network)
    assert network.stem is Stem.IMAGENET
    model.maxpool.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    model.get_submodule("layer1.0.conv1").register_forward_pre_hook(
        lambda _module, inputs: seen.append(inputs[0])
    )
    seen: list[Tensor] = []
    model(torch.randn(1, 3, 64, 64))
    pooled, first = seen
    assert torch.equal(pooled.relu(), first)


@pytest.mark.parametrize("bias", [0.0, -6.0])
@torch.no_grad()
def test_gates_start_at_the_sigmoid_of_their_bias(bias: float) -> None:
    """Exactly for maps of 0; for others in the mean, since the weights have a mean of 0."""
    network = make_network(shortcut_form=ShortcutForm.EXCLUSIVE_GATING, gate_bias=bias)
    torch.manual_seed(0)
    model = ResNet(network, classes=10)
    gates = [block.gate for block in model.modules() if isinstance(block, ResidualBlock)]
    assert len(gates) == 6
    for gate in gates:
        assert gate is not None
        inputs = gate.in_channels
        start = torch.sigmoid(torch.tensor(bias))
        assert torch.equal(gate(torch.zeros(1, inputs, 1, 1)).sigmoid().unique(), start[None])
        assert gate.weight.std() > 0
        outputs = gate(torch.randn(64, inputs, 4, 4))
        assert float(outputs.mean()) == pytest.approx(bias, abs=0.3)


@torch.no_grad()
def test_gates_multiply_in_float32() -> None:
    """Below 1, bf16 has steps of 1/256, and sigmoid(-6) is 1/404."""
    network = make_network(shortcut_form=ShortcutForm.SHORTCUT_ONLY_GATING, gate_bias=-6.0)
    model = ResNet(network, classes=10).eval()
    block = model.get_submodule("layer1.0")
    assert isinstance(block, ResidualBlock)
    for parameter in (block.gate.weight, block.get_parameter("conv2.weight")):  # type: ignore[union-attr]
        nn.init.zeros_(parameter)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = block(torch.ones(1, 16, 4, 4, dtype=torch.bfloat16))
    assert torch.allclose(outputs, 1 - torch.sigmoid(torch.tensor(-6.0)), atol=1e-4)


@torch.no_grad()
def test_dropout_sets_values_to_0_and_keeps_the_others_as_they_are() -> None:
    layer, maps_NCHW = ShortcutDropout(0.25), torch.rand(8, 16, 16, 16) + 1
    torch.manual_seed(0)
    dropped = layer(maps_NCHW)
    is_zero = dropped == 0
    assert float(is_zero.float().mean()) == pytest.approx(0.25, abs=0.01)
    torch.testing.assert_close(dropped[~is_zero], maps_NCHW[~is_zero])
    assert torch.equal(layer.eval()(maps_NCHW), maps_NCHW * 0.75)


@pytest.mark.parametrize("order", ORDERS)
@torch.no_grad()
def test_branches_are_scaled_by_their_survival_probability_in_evaluation(
    order: ActivationOrder,
) -> None:
    model = build(make_network(Shortcut.B, activation_order=order, survival=0.4))
    scales = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)  # 1 - l/6 (1 - 0.4)
    check_equal(model(images()), compute_reference(model, images(), branch_scales=scales))


def drop(model: ResNet, dropped: Sequence[bool]) -> None:
    blocks = [module for module in model.modules() if isinstance(module, ResidualBlock)]
    for block, is_dropped in zip(blocks, dropped, strict=True):
        block.is_dropped = is_dropped


DROPPED = [True, False, True, True, False, True]
DROP_CASES = [
    *({"activation_order": order} for order in ORDERS),
    *(form for form in FORMS if "dropout_rate" not in form),
]


@pytest.mark.parametrize("choices", DROP_CASES, ids=str)
def test_a_dropped_branch_counts_as_0_and_a_kept_one_as_it_is(choices: dict[str, Any]) -> None:
    """Values and gradients are those of a product with 0 or 1."""
    model = build(make_network(Shortcut.B, survival=0.5, **choices)).train()
    drop(model, DROPPED)
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        scales = tuple(0.0 if is_dropped else 1.0 for is_dropped in DROPPED)
        expected = compute_reference(model, images(), branch_scales=scales, is_training=True)
    logits_NK = model(images())
    check_equal(logits_NK.detach(), expected)
    logits_NK.logsumexp(dim=1).sum().backward()
    gradients = {name: param.grad for name, param in model.named_parameters()}

    leaves = {
        name: param.detach().clone().requires_grad_() for name, param in model.named_parameters()
    }
    reference = ReferenceNetwork(
        model.network, before | leaves, branch_scales=scales, is_training=True
    )
    reference(images()).logsumexp(dim=1).sum().backward()  # type: ignore[no-untyped-call]
    for name, leaf in leaves.items():
        gradient = gradients[name]
        assert gradient is not None, "DDP waits for each"
        assert gradient.stride() == dict(model.named_parameters())[name].stride()
        expected_gradient = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        scale = float(expected_gradient.abs().max())
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-3, atol=1e-4 * scale + 1e-6)


@pytest.mark.parametrize("order", ORDERS)
def test_a_dropped_branch_does_not_count_in_its_batch_norm(order: ActivationOrder) -> None:
    model = build(make_network(Shortcut.B, survival=0.5, activation_order=order)).train()
    drop(model, DROPPED)
    before = copy.deepcopy(model.state_dict())
    model(images())
    # The second block of stage 2 is dropped, the first of stage 3 is not.
    statistics = "layer2.1.bn1.running_mean", "layer3.0.bn1.running_mean"
    changed = [not torch.equal(before[name], model.state_dict()[name]) for name in statistics]
    assert changed == [False, True]


@pytest.mark.parametrize("order", [ActivationOrder.ORIGINAL, RELU_ONLY])
@torch.no_grad()
def test_zero_init_makes_each_branch_0(order: ActivationOrder) -> None:
    model = build(make_network(activation_order=order))
    zeroed = ResNet(make_network(activation_order=order, zero_init_residual=True), classes=10)
    last_norms = {
        name: weight for name, weight in zeroed.state_dict().items() if name.endswith("bn2.weight")
    }
    assert all(not weight.any() for weight in last_norms.values())
    model.load_state_dict(model.state_dict() | last_norms)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and not module.weight.any():
            nn.init.zeros_(module.bias)
    expected = compute_reference(model, images(), branch_scales=(0.0,) * 6)
    check_equal(model(images()), expected)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_strided_convolution_of_a_small_map_has_the_gradient_of_float32(size: int) -> None:
    torch.manual_seed(0)
    conv = make_conv(3, 16, 32, stride=2)
    maps_NCHW = torch.randn(20, 16, size, size)
    conv(maps_NCHW).sum().backward()
    assert conv.weight.grad is not None
    expected = conv.weight.grad.clone()
    for _ in range(5):
        conv.weight.grad = None
        # What a kernel leaves undefined has the values of memory that was used before.
        used = torch.full((20_000,), 1e30)
        del used
        with torch.autocast("cpu", torch.bfloat16):
            loss = conv(maps_NCHW).float().sum()
        loss.backward()
        torch.testing.assert_close(conv.weight.grad, expected, atol=0.1, rtol=0.05)
