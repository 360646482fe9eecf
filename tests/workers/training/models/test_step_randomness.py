"""The random choices of a step depend on the seed, the iteration and, for dropout, the rank."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from service.catalog import architectures
from service.catalog.architectures import Family, Shortcut, ShortcutForm
from workers.training.models import step_randomness
from workers.training.models.blocks import ResidualBlock
from workers.training.models.resnet import ResNet
from workers.training.models.step_randomness import StepRandomness


def make_model(**choices: Any) -> ResNet:
    torch.manual_seed(0)
    network = architectures.make_architecture(Family.CIFAR, 20, Shortcut.A, **choices)
    return ResNet(network, classes=10)


def list_blocks(model: nn.Module) -> list[ResidualBlock]:
    return [module for module in model.modules() if isinstance(module, ResidualBlock)]


def draw(iteration: int, *, seed: int = 0, rank: int = 0, survival: float = 0.5) -> list[bool]:
    model = make_model(survival=survival)
    with StepRandomness(model, seed=seed, rank=rank).step(iteration):
        return [bool(block.is_dropped) for block in list_blocks(model)]


def test_dropped_branches_depend_on_seed_and_iteration_alone() -> None:
    draws = [draw(iteration) for iteration in range(8)]
    assert [draw(iteration) for iteration in range(8)] == draws
    assert [draw(iteration, rank=1) for iteration in range(8)] == draws
    assert len({tuple(drawn) for drawn in draws}) > 1
    assert [draw(iteration, seed=1) for iteration in range(8)] != draws


def test_branches_survive_as_often_as_the_linear_decay_says() -> None:
    model = make_model(survival=0.5)
    randomness, blocks = StepRandomness(model, seed=3, rank=0), list_blocks(model)
    kept = torch.zeros(len(blocks))
    for iteration in range(2_000):
        with randomness.step(iteration):
            kept += torch.tensor([not block.is_dropped for block in blocks])
    expected = 1 - torch.arange(1, 10) / 9 * 0.5
    # Four standard deviations of a share of 2,000 draws.
    assert torch.allclose(kept / 2_000, expected, rtol=0.0, atol=4 * (0.25 / 2_000) ** 0.5)


def test_nothing_is_dropped_outside_of_a_step() -> None:
    model = make_model(survival=0.5)
    randomness = StepRandomness(model, seed=0, rank=0)
    with pytest.raises(RuntimeError, match="diverged"), randomness.step(0):
        assert any(block.is_dropped is not None for block in list_blocks(model))
        raise RuntimeError("diverged")
    assert {block.is_dropped for block in list_blocks(model)} == {None}


def test_a_network_without_stochastic_depth_keeps_all_branches() -> None:
    model = make_model()
    assert not step_randomness.is_random(model)
    with StepRandomness(model, seed=0, rank=0).step(0):
        assert {block.is_dropped for block in list_blocks(model)} == {None}


def compute(iteration: int, *, seed: int = 0, rank: int = 0) -> Tensor:
    model = make_model(shortcut_form=ShortcutForm.DROPOUT)
    assert step_randomness.is_random(model)
    images_NCHW = torch.ones(4, 3, 8, 8)
    torch.rand(7)  # the state of the generator before the step does not matter
    with torch.no_grad(), StepRandomness(model, seed=seed, rank=rank).step(iteration):
        logits_NK: Tensor = model(images_NCHW)
    return logits_NK


def test_dropout_depends_on_seed_iteration_and_rank() -> None:
    assert torch.equal(compute(3), compute(3))
    for other in (compute(4), compute(3, seed=1), compute(3, rank=1)):
        assert not torch.equal(compute(3), other)


def test_the_dropout_of_other_networks_is_drawn_in_the_same_way() -> None:
    """VGG's, of torch."""
    model = nn.Dropout()
    drawn = []
    for iteration in (3, 3, 4):
        with StepRandomness(model, seed=0, rank=0).step(iteration):
            drawn.append(model(torch.ones(64)))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
