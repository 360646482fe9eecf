from typing import Any

import pytest
import torch
from torch import Tensor, nn

from service.catalog.recipes import Precision, Recipe
from tests.workers.training.support import engine_of, small_spec
from workers.training import precision
from workers.training.errors import TrainingError
from workers.training.optimizer import Optimizer

CPU = torch.device("cpu")


def recipe(**fields: Any) -> Recipe:
    return small_spec({"batch_size": 8, "precision": "fp32"} | fields).recipe


def network(*, is_normalised: bool = False) -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    if is_normalised:
        layers.insert(1, nn.BatchNorm2d(4))
    return nn.Sequential(*layers, nn.Linear(4, 10))


def images(count: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(count, 3, 6, 6, generator=generator),
        torch.randint(0, 10, (count,), generator=generator),
    )


def trained(written: Recipe, rates: list[float], *, is_normalised: bool = False) -> nn.Module:
    model = network(is_normalised=is_normalised)
    engine = engine_of(written, model)
    for rate in rates:
        engine.step(*images(), rate)
    return model


def distance(one: nn.Module, other: nn.Module) -> float:
    return max(
        float((mine - theirs).detach().abs().max())
        for mine, theirs in zip(one.parameters(), other.parameters(), strict=True)
    )


@pytest.mark.parametrize("micro_batch_size", [1, 2, 4])
def test_passes_add_up_to_the_gradient_of_the_whole_batch(micro_batch_size: int) -> None:
    rates = [0.1, 0.1, 0.1]
    whole = trained(recipe(), rates)
    assert distance(trained(recipe(micro_batch_size=micro_batch_size), rates), whole) < 1e-6
    assert distance(trained(recipe(), rates[:2]), whole) > 1e-3


def test_batch_normalisation_sees_one_pass() -> None:
    whole = trained(recipe(), [0.1], is_normalised=True)
    in_halves = trained(recipe(micro_batch_size=4), [0.1], is_normalised=True)
    assert distance(in_halves, whole) > 1e-4


def written_by_hand(rates: list[float]) -> nn.Module:
    """Caffe's momentum as its documentation has it: v = m v + lr g, p -= v."""
    model = network()
    velocity = {name: torch.zeros_like(each) for name, each in model.named_parameters()}
    images_NCHW, labels_N = images()
    for rate in rates:
        loss = nn.functional.cross_entropy(model(images_NCHW), labels_N)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for (name, each), gradient in zip(model.named_parameters(), gradients, strict=True):
                decay = 1e-4 if each.dim() > 1 else 0.0
                velocity[name] = 0.9 * velocity[name] + rate * (gradient + decay * each)
                each.sub_(velocity[name])
    return model


def test_caffes_momentum_keeps_its_length_when_the_learning_rate_drops() -> None:
    rates = [0.1, 0.1, 0.01, 0.01, 0.1]
    by_hand = written_by_hand(rates)
    assert distance(trained(recipe(momentum_form="caffe"), rates), by_hand) < 1e-6
    assert distance(trained(recipe(momentum_form="torch"), rates), by_hand) > 1e-3


def test_at_one_learning_rate_both_forms_of_momentum_are_one() -> None:
    rates = [0.1] * 4
    caffe, torchs = (trained(recipe(momentum_form=form), rates) for form in ("caffe", "torch"))
    assert distance(caffe, torchs) == 0


@pytest.mark.parametrize(("weight_decay_scope", "falls"), [("weights", False), ("all", True)])
def test_weight_decay_spares_batch_normalisation_unless_told(
    weight_decay_scope: str, falls: bool
) -> None:
    model = network(is_normalised=True)
    optimizer = Optimizer(model, recipe(weight_decay_scope=weight_decay_scope, weight_decay=0.1))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.prepare(0.1)
    optimizer.step()
    scale = model.get_parameter("1.weight")
    assert bool((scale < 1).all()) is falls


def test_biases_of_batch_normalisation_can_learn_faster() -> None:
    model = network(is_normalised=True)
    optimizer = Optimizer(model, recipe(bias_learning_rate_scale=64, weight_decay=0))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.prepare(0.01)
    optimizer.step()
    assert torch.allclose(model.get_parameter("1.bias"), torch.full((4,), -0.64))
    assert torch.allclose(model.get_parameter("1.weight"), torch.full((4,), 0.99))


@pytest.mark.parametrize(("computed_in", "near"), [("bf16", 1e-2), ("fp16", 2e-3)])
def test_lower_precision_stays_near_float32(computed_in: str, near: float) -> None:
    rates = [0.1, 0.1]
    exact = trained(recipe(), rates)
    rounded = trained(recipe(precision=computed_in), rates)
    assert 0 < distance(rounded, exact) < near
    assert {each.dtype for each in rounded.parameters()} == {torch.float32}


def test_auto_is_bf16_where_the_processor_computes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for is_supported, wanted in ((True, Precision.BF16), (False, Precision.FP32)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: is_supported)  # noqa: B023
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        assert precision.resolve_precision(Precision.AUTO, CPU) is wanted


def test_tf32_is_refused_without_a_gpu() -> None:
    with pytest.raises(TrainingError, match="tf32"):
        precision.resolve_precision(Precision.TF32, CPU)
