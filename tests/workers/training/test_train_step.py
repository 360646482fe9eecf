import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from service.catalog.recipes import Precision, Recipe
from tests.workers.training.support import CPU, make_step, small_spec
from workers.training import metric_sums, precision
from workers.training.errors import TrainingError
from workers.training.optimizer import Optimizer
from workers.training.precision import LossScaler

UNSCALED = LossScaler(Precision.FP32, CPU)


def make_recipe(**fields: Any) -> Recipe:
    return small_spec({"batch_size": 8, "precision": "fp32"} | fields).recipe


def make_network(*, has_batch_norm: bool = False) -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    if has_batch_norm:
        layers.insert(1, nn.BatchNorm2d(4))
    return nn.Sequential(*layers, nn.Linear(4, 10))


def make_batch(count: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(count, 3, 6, 6, generator=generator),
        torch.randint(0, 10, (count,), generator=generator),
    )


def train(recipe: Recipe, rates: list[float], *, has_batch_norm: bool = False) -> nn.Module:
    model = make_network(has_batch_norm=has_batch_norm)
    step = make_step(recipe, model)
    for rate in rates:
        step(*make_batch(), rate)
    return model


def distance(model: nn.Module, other: nn.Module) -> float:
    return max(
        float((mine - theirs).detach().abs().max())
        for mine, theirs in zip(model.parameters(), other.parameters(), strict=True)
    )


@pytest.mark.parametrize("micro_batch_size", [1, 2, 4])
def test_micro_batches_add_up_to_the_gradient_of_the_batch(micro_batch_size: int) -> None:
    rates = [0.1, 0.1, 0.1]
    expected = train(make_recipe(), rates)
    assert distance(train(make_recipe(micro_batch_size=micro_batch_size), rates), expected) < 1e-6
    assert distance(train(make_recipe(), rates[:2]), expected) > 1e-3


def test_batch_norm_sees_one_micro_batch() -> None:
    expected = train(make_recipe(), [0.1], has_batch_norm=True)
    halves = train(make_recipe(micro_batch_size=4), [0.1], has_batch_norm=True)
    assert distance(halves, expected) > 1e-4


def train_with_caffe_momentum(rates: list[float]) -> nn.Module:
    """As Caffe's documentation defines it: v = m v + lr g, p -= v."""
    model = make_network()
    velocity = {name: torch.zeros_like(param) for name, param in model.named_parameters()}
    images_NCHW, labels_N = make_batch()
    for rate in rates:
        loss = nn.functional.cross_entropy(model(images_NCHW), labels_N)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for (name, param), gradient in zip(model.named_parameters(), gradients, strict=True):
                decay = 1e-4 if param.dim() > 1 else 0.0
                velocity[name] = 0.9 * velocity[name] + rate * (gradient + decay * param)
                param.sub_(velocity[name])
    return model


def test_caffe_momentum_keeps_its_scale_when_the_learning_rate_drops() -> None:
    rates = [0.1, 0.1, 0.01, 0.01, 0.1]
    expected = train_with_caffe_momentum(rates)
    assert distance(train(make_recipe(momentum_form="caffe"), rates), expected) < 1e-6
    assert distance(train(make_recipe(momentum_form="torch"), rates), expected) > 1e-3


def test_both_forms_of_momentum_are_equal_at_a_constant_learning_rate() -> None:
    caffe, torchs = (
        train(make_recipe(momentum_form=form), [0.1] * 4) for form in ("caffe", "torch")
    )
    assert distance(caffe, torchs) == 0


@pytest.mark.parametrize(("scope", "decays"), [("weights", False), ("all", True)])
def test_batch_norm_decays_only_in_scope_all(scope: str, decays: bool) -> None:
    model = make_network(has_batch_norm=True)
    optimizer = Optimizer(model, make_recipe(weight_decay_scope=scope, weight_decay=0.1))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.set_learning_rate(0.1)
    optimizer.step(UNSCALED)
    scale = model.get_parameter("1.weight")
    assert bool((scale < 1).all()) is decays


def test_batch_norm_biases_have_their_own_learning_rate_scale() -> None:
    model = make_network(has_batch_norm=True)
    optimizer = Optimizer(model, make_recipe(bias_learning_rate_scale=64, weight_decay=0))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.set_learning_rate(0.01)
    optimizer.step(UNSCALED)
    assert torch.allclose(model.get_parameter("1.bias"), torch.full((4,), -0.64))
    assert torch.allclose(model.get_parameter("1.weight"), torch.full((4,), 0.99))


@pytest.mark.parametrize(("name", "tolerance"), [("bf16", 1e-2), ("fp16", 2e-3)])
def test_lower_precision_stays_close_to_float32(name: str, tolerance: float) -> None:
    rates = [0.1, 0.1]
    exact = train(make_recipe(), rates)
    rounded = train(make_recipe(precision=name), rates)
    assert 0 < distance(rounded, exact) < tolerance
    assert {parameter.dtype for parameter in rounded.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("fields", "tolerance"),
    [({}, 1e-6), ({"micro_batch_size": 2}, 1e-6), ({"precision": "fp16"}, 2e-3)],
)
def test_a_step_measures_the_norm_of_its_gradient(fields: dict[str, Any], tolerance: float) -> None:
    model = make_network()
    images_NCHW, labels_N = make_batch()
    torch.autograd.backward(nn.functional.cross_entropy(model(images_NCHW), labels_N))
    gradients = [parameter.grad.flatten() for parameter in model.parameters()]  # type: ignore[union-attr]
    model.zero_grad(set_to_none=True)
    step = make_step(make_recipe(**fields), model)
    means = metric_sums.compute_means(step(images_NCHW, labels_N, 0.1))
    assert means.gradient_norm == pytest.approx(float(torch.cat(gradients).norm()), rel=tolerance)


@pytest.mark.parametrize("steps_before", [0, 2])
def test_a_step_with_a_gradient_that_is_not_finite_is_skipped(steps_before: int) -> None:
    model = make_network()
    step = make_step(make_recipe(precision="fp16"), model)
    for _ in range(steps_before):
        step(*make_batch(), 0.1)
    before = [tensor.clone() for tensor in step.state_tensors()]
    images_NCHW, labels_N = make_batch()
    skipped = metric_sums.compute_means(step(images_NCHW * math.inf, labels_N, 0.1))
    assert skipped.gradient_norm == 0
    *state, scale, growth_tracker = step.state_tensors()
    *state_before, scale_before, _ = before
    for tensor, tensor_before in zip(state, state_before, strict=True):
        assert torch.equal(tensor, tensor_before)
    assert (float(scale), int(growth_tracker)) == (float(scale_before) / 2, 0)
    step(*make_batch(), 0.1)
    assert all(tensor.isfinite().all() for tensor in step.state_tensors())
    assert not torch.equal(state[0], state_before[0])


@pytest.mark.parametrize(("is_supported", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_bf16_if_the_processor_supports_it(
    monkeypatch: pytest.MonkeyPatch, is_supported: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: is_supported)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert precision.resolve_precision(Precision.AUTO, CPU) is Precision(expected)


def test_tf32_needs_a_gpu() -> None:
    with pytest.raises(TrainingError, match="tf32"):
        precision.resolve_precision(Precision.TF32, CPU)
