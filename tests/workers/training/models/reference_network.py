"""CIFAR networks written from the figures of He et al. 2016, with torch's functions.

The tests compare workers.training.models.blocks with it; it shares the names of the weights alone.

Shapes: N batch, C channels, H height, W width, K classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from service.catalog.architectures import ActivationOrder, Architecture, Shortcut, ShortcutForm

ORIGINAL = ActivationOrder.ORIGINAL
AFTER = ActivationOrder.BN_AFTER_ADDITION
BEFORE = ActivationOrder.RELU_BEFORE_ADDITION
RELU_ONLY = ActivationOrder.RELU_ONLY_PREACTIVATION
FULL = ActivationOrder.FULL_PREACTIVATION


@dataclass(frozen=True)
class ReferenceNetwork:
    """`branch_scales`: the factor of each block's residual branch; empty: 1 for all."""

    network: Architecture
    weights: Mapping[str, Tensor]
    branch_scales: tuple[float, ...] = ()
    is_training: bool = False

    def __call__(self, images_NCHW: Tensor) -> Tensor:
        """logits_NK"""
        order = self.network.activation_order
        x_NCHW = self.conv("conv1", images_NCHW)
        if order is not FULL:
            x_NCHW = self.norm("bn1", x_NCHW).relu()
        number = 0
        for stage in (1, 2, 3):
            for index in range(self.network.stages[0].blocks):
                stride = 2 if stage > 1 and index == 0 else 1
                x_NCHW = self.block(f"layer{stage}.{index}", number, x_NCHW, stride)
                number += 1
        if order is FULL:
            x_NCHW = self.norm("bn2", x_NCHW)
        if order in {FULL, RELU_ONLY}:
            x_NCHW = x_NCHW.relu()
        logits_NK: Tensor = functional.linear(
            x_NCHW.mean(dim=(2, 3)), self.weights["fc.weight"], self.weights["fc.bias"]
        )
        return logits_NK

    def conv(self, name: str, x_NCHW: Tensor, stride: int = 1) -> Tensor:
        kernel = self.weights[f"{name}.weight"]
        return functional.conv2d(x_NCHW, kernel, stride=stride, padding=kernel.shape[-1] // 2)

    def norm(self, name: str, x_NCHW: Tensor) -> Tensor:
        mean_C = self.weights[f"{name}.running_mean"]
        variance_C = self.weights[f"{name}.running_var"]
        if self.is_training:
            mean_C = x_NCHW.mean(dim=(0, 2, 3))
            variance_C = x_NCHW.var(dim=(0, 2, 3), correction=0)
        scale_C = self.weights[f"{name}.weight"] / (variance_C + 1e-5).sqrt()
        centered_NCHW = x_NCHW - mean_C[:, None, None]
        return centered_NCHW * scale_C[:, None, None] + self.weights[f"{name}.bias"][:, None, None]

    def block(self, name: str, number: int, x_NCHW: Tensor, stride: int) -> Tensor:
        order = self.network.activation_order
        convs = [n for n in (1, 2, 3) if f"{name}.conv{n}.weight" in self.weights]
        grows = len(self.weights[f"{name}.conv{convs[-1]}.weight"]) != x_NCHW.shape[1]
        # Fig. 4d and 4e. The appendix: both paths of the first block, and of blocks whose shape
        # changes, begin with an activation; ours also those of option C's projections.
        activated_NCHW = x_NCHW
        if order is FULL:
            activated_NCHW = self.norm(f"{name}.bn1", x_NCHW).relu()
        elif order is RELU_ONLY and number > 0:
            activated_NCHW = x_NCHW.relu()
        if number == 0 or grows or self.network.shortcut is Shortcut.C:
            x_NCHW = activated_NCHW if order in {FULL, RELU_ONLY} else x_NCHW

        branch_NCHW = self.branch(name, convs, activated_NCHW, stride)
        scale = self.branch_scales[number] if self.branch_scales else 1.0
        sum_NCHW = self.add(name, x_NCHW, branch_NCHW, stride, grows=grows, scale=scale)
        if order is AFTER:
            sum_NCHW = self.norm(f"{name}.bn{convs[-1]}", sum_NCHW)
        return sum_NCHW.relu() if order in {ORIGINAL, AFTER} else sum_NCHW

    def branch(self, name: str, convs: list[int], x_NCHW: Tensor, stride: int) -> Tensor:
        order = self.network.activation_order
        for n in convs:
            if order is FULL and n > 1:
                x_NCHW = self.norm(f"{name}.bn{n}", x_NCHW).relu()
            x_NCHW = self.conv(f"{name}.conv{n}", x_NCHW, stride if n == 1 else 1)
            is_last = n == convs[-1]
            if order is not FULL and not (is_last and order is AFTER):
                x_NCHW = self.norm(f"{name}.bn{n}", x_NCHW)
            if order is not FULL and (not is_last or order is BEFORE):
                x_NCHW = x_NCHW.relu()
        return x_NCHW

    def shortcut(self, name: str, x_NCHW: Tensor, stride: int, *, grows: bool) -> Tensor:
        if self.network.shortcut is not Shortcut.C and not grows:
            return x_NCHW
        if self.network.shortcut is Shortcut.A:
            kept_NCHW = x_NCHW[:, :, ::stride, ::stride]
            channels = len(self.weights[f"{name}.conv1.weight"])
            if f"{name}.conv3.weight" in self.weights:
                channels *= 4
            new = channels - x_NCHW.shape[1]
            zeros_NCHW = torch.zeros(len(x_NCHW), new, *kept_NCHW.shape[2:])
            return torch.cat([kept_NCHW, zeros_NCHW], dim=1)
        if self.network.activation_order in {AFTER, FULL}:
            return self.conv(f"{name}.downsample", x_NCHW, stride)
        projected_NCHW = self.conv(f"{name}.downsample.0", x_NCHW, stride)
        return self.norm(f"{name}.downsample.1", projected_NCHW)

    def add(
        self,
        name: str,
        x_NCHW: Tensor,
        branch_NCHW: Tensor,
        stride: int,
        *,
        grows: bool,
        scale: float,
    ) -> Tensor:
        """Table 1."""
        network = self.network
        shortcut_NCHW = self.shortcut(name, x_NCHW, stride, grows=grows)
        branch_NCHW = scale * branch_NCHW
        if network.shortcut_form is ShortcutForm.CONSTANT_SCALING:
            assert network.shortcut_scale is not None
            assert network.residual_scale is not None
            return network.shortcut_scale * shortcut_NCHW + network.residual_scale * branch_NCHW
        if network.shortcut_form is ShortcutForm.DROPOUT:
            assert network.dropout_rate is not None
            return (1 - network.dropout_rate) * shortcut_NCHW + branch_NCHW
        if network.shortcut_form is ShortcutForm.IDENTITY:
            return shortcut_NCHW + branch_NCHW
        bias_C = self.weights[f"{name}.gate.bias"]
        logits_NCHW = self.conv(f"{name}.gate", x_NCHW, stride) + bias_C[:, None, None]
        gate_NCHW = 1 / (1 + (-logits_NCHW).exp())
        if network.shortcut_form is ShortcutForm.EXCLUSIVE_GATING:
            branch_NCHW = gate_NCHW * branch_NCHW
        return (1 - gate_NCHW) * shortcut_NCHW + branch_NCHW
