"""Files of networks that the usual network would misread have a marker."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from service.catalog import architectures
from service.catalog.architectures import ActivationOrder, Family, Shortcut, ShortcutForm, StrideAt
from workers.training.models import convert, resnet, weight_markers

VARIANTS: list[tuple[dict[str, Any], str]] = [
    ({"shortcut_form": ShortcutForm.CONSTANT_SCALING}, "shortcut_form_is_constant_scaling"),
    ({"shortcut_form": ShortcutForm.DROPOUT}, "shortcut_form_is_dropout"),
    ({"shortcut_form": ShortcutForm.EXCLUSIVE_GATING}, "gate"),
    ({"shortcut_form": ShortcutForm.SHORTCUT_ONLY_GATING}, "gate"),
    *(
        ({"activation_order": order}, f"activation_order_is_{order.replace('-', '_')}")
        for order in (
            ActivationOrder.BN_AFTER_ADDITION,
            ActivationOrder.RELU_BEFORE_ADDITION,
            ActivationOrder.RELU_ONLY_PREACTIVATION,
        )
    ),
    ({"activation_order": ActivationOrder.FULL_PREACTIVATION}, "bn2.weight"),
    ({"survival": 0.5}, "survival_is_below_1"),
]


@pytest.mark.parametrize(("choices", "reason"), VARIANTS, ids=str)
def test_torchvision_and_convert_refuse_the_weights_of_each_variant(
    choices: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    network = architectures.make_architecture(
        Family.IMAGENET, 18, Shortcut.B, stride_at=StrideAt.CONV_3X3, **choices
    )
    model = resnet.create_network(network, classes=10)
    weights = weight_markers.add_markers(model.state_dict(), network)
    with pytest.raises(RuntimeError, match=reason):
        torchvision.models.resnet18(num_classes=10).load_state_dict(weights)
    torch.save(weights, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match="which its tensors do not define completely"):
        convert.load_network(tmp_path / "weights.pt")
    model.load_state_dict(weight_markers.remove_markers(weights), strict=True)


@pytest.mark.parametrize(("choices", "reason"), VARIANTS, ids=str)
def test_convert_refuses_the_variants_of_cifar_networks(
    choices: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    del reason
    network = architectures.make_architecture(Family.CIFAR, 8, Shortcut.B, **choices)
    model = resnet.create_network(network, classes=10)
    torch.save(weight_markers.add_markers(model.state_dict(), network), tmp_path / "weights.pt")
    with pytest.raises(ValueError, match="which its tensors do not define completely"):
        convert.load_network(tmp_path / "weights.pt")


def test_the_usual_networks_have_no_marker() -> None:
    for shortcut in Shortcut:
        network = architectures.make_architecture(Family.CIFAR, 20, shortcut)
        assert weight_markers.list_markers(network) == []
