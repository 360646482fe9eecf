"""Gradients along single paths, against a network written with torch's functions."""

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from service.catalog.architectures import ActivationOrder, Block, Shortcut, ShortcutForm
from tests.workers.training.analyses.support import (
    Reports,
    Stop,
    check_unchanged,
    copy_state,
    make_images,
    make_network,
)
from tests.workers.training.models.reference_network import ReferenceNetwork
from tests.workers.training.models.test_blocks import build
from workers.training.analyses import path_gradients
from workers.training.analyses.measuring import NotAnalysable

CHOICES: list[dict[str, Any]] = [
    *({"activation_order": order} for order in ActivationOrder),
    {"shortcut_form": ShortcutForm.EXCLUSIVE_GATING, "gate_bias": -1.0},
    {"shortcut_form": ShortcutForm.SHORTCUT_ONLY_GATING, "gate_bias": 0.0},
    {"shortcut_form": ShortcutForm.CONSTANT_SCALING},
    {"shortcut_form": ShortcutForm.DROPOUT, "dropout_rate": 0.25},
]


class SinglePath(ReferenceNetwork):
    """The reference network of three blocks, with gradients along one path."""

    takes_branch: tuple[bool, bool, bool]

    def add(
        self, name: str, x_NCHW: Tensor, branch_NCHW: Tensor, *args: Any, **options: Any
    ) -> Tensor:
        stage = int(name.removeprefix("layer")[0])
        if self.takes_branch[stage - 1]:
            return super().add(name, x_NCHW.detach(), branch_NCHW, *args, **options)
        return super().add(name, x_NCHW, branch_NCHW.detach(), *args, **options)


def make_image() -> tuple[Tensor, Tensor]:
    ((images_NCHW, labels_N),) = make_images(1).batches
    return images_NCHW, labels_N


def gradient_of(network: Any, images_NCHW: Tensor, labels_N: Tensor) -> Tensor:
    leaf_NCHW = images_NCHW.clone().requires_grad_()
    functional.cross_entropy(network(leaf_NCHW), labels_N).backward()  # type: ignore[no-untyped-call]
    assert leaf_NCHW.grad is not None
    return leaf_NCHW.grad


def check_equal(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("choices", CHOICES, ids=str)
@pytest.mark.parametrize("shortcut", [Shortcut.A, Shortcut.B, Shortcut.C])
def test_each_path_has_its_gradient_and_all_together_that_of_the_network(
    shortcut: Shortcut, choices: dict[str, Any]
) -> None:
    """A batch of one image, as often as there are paths."""
    model = build(make_network(8, shortcut, **choices))
    image_1CHW, label_1 = make_image()
    paths = list(product([False, True], repeat=3))
    gradients_NCHW = path_gradients.compute_path_gradients(
        model, image_1CHW.expand(8, -1, -1, -1), label_1.expand(8), torch.tensor(paths)
    )
    for path, gradient_CHW in zip(paths, gradients_NCHW, strict=True):
        reference = SinglePath(model.network, model.state_dict())
        object.__setattr__(reference, "takes_branch", path)  # it is frozen
        check_equal(gradient_CHW, gradient_of(reference, image_1CHW, label_1)[0])
    check_equal(gradients_NCHW.sum(dim=0), gradient_of(model, image_1CHW, label_1)[0])


def test_paths_through_bottlenecks_add_up_too() -> None:
    model = build(make_network(11, Shortcut.B, block=Block.BOTTLENECK))
    image_1CHW, label_1 = make_image()
    paths = torch.tensor(list(product([False, True], repeat=3)))
    gradients_NCHW = path_gradients.compute_path_gradients(
        model, image_1CHW.expand(8, -1, -1, -1), label_1.expand(8), paths
    )
    check_equal(gradients_NCHW.sum(dim=0), gradient_of(model, image_1CHW, label_1)[0])


def test_each_length_has_its_share_of_the_paths() -> None:
    model = build(make_network(8, Shortcut.A))
    images = make_images(3, batch=2)
    before, reports = copy_state(model), Reports()
    found = path_gradients.measure_path_lengths(model, images, seed=0, report=reports)
    reports.check_complete()
    check_unchanged(model, before)
    assert [length.share for length in found] == [1 / 8, 3 / 8, 3 / 8, 1 / 8]
    assert [(length.length, length.samples) for length in found] == [(k, 3) for k in range(4)]
    # The longest and the shortest path are single: their gradients follow from no draw.
    for length, takes_branch in ((0, False), (3, True)):
        norms = [
            path_gradients.compute_path_gradients(
                model, images_NCHW, labels_N, torch.full((len(labels_N), 3), takes_branch)
            )
            .flatten(1)
            .norm(dim=1)
            for images_NCHW, labels_N in images.batches
        ]
        norms_N = torch.cat(norms)
        assert found[length].norm_mean == pytest.approx(norms_N.mean().item())
        assert found[length].norm_std == pytest.approx(norms_N.std().item())
        assert found[length].total == pytest.approx(norms_N.mean().item() / 8)


def test_paths_are_drawn_by_the_seed_from_all_of_their_length() -> None:
    drawn_NL = path_gradients.draw_paths(5, 2, images=400, first_image=0, seed=3)
    assert set(drawn_NL.sum(dim=1).tolist()) == {2}
    assert len(set(map(tuple, drawn_NL.tolist()))) == 10
    tail_NL = path_gradients.draw_paths(5, 2, images=100, first_image=300, seed=3)
    assert torch.equal(tail_NL, drawn_NL[300:]), "whatever the batches"
    assert not torch.equal(
        path_gradients.draw_paths(5, 2, images=400, first_image=0, seed=4), drawn_NL
    )


def test_a_plain_network_has_no_paths_to_compare() -> None:
    model = build(make_network(8, Shortcut.NONE))
    with pytest.raises(NotAnalysable, match="without shortcuts has a single path"):
        path_gradients.measure_path_lengths(model, make_images(1), seed=0, report=Reports())


def test_a_stop_leaves_the_network_as_it_was() -> None:
    model = build(make_network(8, Shortcut.A))
    before = copy_state(model)
    with pytest.raises(Stop):
        path_gradients.measure_path_lengths(model, make_images(1), seed=0, report=Reports(2))
    check_unchanged(model, before)
