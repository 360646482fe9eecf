"""Networks of one shape computed as one: their channels lie side by side, in groups.

A small network leaves a GPU waiting for the next kernel; a stack of them starts as few kernels as
one. The members' weights and statistics are views of the stack's, so that whatever else is done
with a member is done as if it were alone: its optimizer, its tests, its checkpoints.

Shapes: M members, N batch, C channels of a member, H height, W width, F features, K classes,
S sums.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from service.recipes import Precision, Recipe
from service.reports import LogLevel
from workers.training import graphs, precision, tally
from workers.training.blocks import PaddedShortcut
from workers.training.engine import state_of
from workers.training.graphs import Recorder, Repeated
from workers.training.optimizer import Optimizer

# What keeps no numbers, and treats every channel alike.
_STATELESS = (nn.Identity, nn.ReLU, nn.MaxPool2d, nn.AdaptiveAvgPool2d)


class StackedEngine:
    """One optimizer step of every member; each has its own images, rate and recipe.

    The recipes agree in `images_per_pass` and batch size. See Engine, which steps one alone.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        optimizers: Sequence[Optimizer],
        recipes: Sequence[Recipe],
        *,
        computed_in: Precision,
        device: torch.device,
        recorder: Recorder | None = None,
        log: Callable[[LogLevel, str], None] = graphs.unheard,
    ) -> None:
        self._stack = Stack(models)
        self._models, self._optimizers, self._recipes = models, optimizers, recipes
        self._precision = computed_in
        self._device = device
        self._loss_scale = precision.loss_scale(computed_in)
        self._repeated = Repeated(recorder, log)
        precision.allow(computed_in, device)

    def step(
        self,
        images_MNCHW: Sequence[Tensor],
        labels_MN: Sequence[Tensor],
        learning_rates_M: Sequence[float],
    ) -> Tensor:
        """Returns sums_MS."""
        for optimizer, rate in zip(self._optimizers, learning_rates_M, strict=True):
            optimizer.prepare(rate)
        return self._repeated(self, [*images_MNCHW, *labels_MN])

    def compute(self, inputs: Sequence[Tensor]) -> Tensor:
        images_MNCHW, labels_MN = inputs[: len(self._models)], inputs[len(self._models) :]
        images = len(labels_MN[0])
        size = self._recipes[0].images_per_pass or images
        sums_MS = torch.stack([tally.zeros(self._device) for _ in self._models])
        for start in range(0, images, size):
            part = slice(start, start + size)
            sums_MS += self._pass(
                [one[part] for one in images_MNCHW], [one[part] for one in labels_MN], images
            )
        self._stack.hand_out_gradients(self._loss_scale)
        for optimizer in self._optimizers:
            optimizer.step()
        return sums_MS

    def _pass(
        self, images_MNCHW: Sequence[Tensor], labels_MN: Sequence[Tensor], images: int
    ) -> Tensor:
        """Adds the gradients of a part of the batch, which has so many images in all."""
        with precision.autocast(self._precision, self._device):
            logits_MNK = self._stack(images_MNCHW)
            losses_M = [
                functional.cross_entropy(
                    logits_NK, labels_N, label_smoothing=recipe.label_smoothing
                )
                for logits_NK, labels_N, recipe in zip(
                    logits_MNK, labels_MN, self._recipes, strict=True
                )
            ]
        share = len(labels_MN[0]) / images
        total = torch.stack(losses_M).sum() * (share * self._loss_scale)
        total.backward()  # type: ignore[no-untyped-call]
        return torch.stack(
            [
                tally.count(logits_NK.detach(), labels_N, loss.detach() * len(labels_N))
                for logits_NK, labels_N, loss in zip(logits_MNK, labels_MN, losses_M, strict=True)
            ]
        )

    def state(self) -> list[Tensor]:
        members = zip(self._models, self._optimizers, strict=True)
        return [each for model, optimizer in members for each in state_of(model, optimizer)]

    def forget(self) -> None:
        self._stack.forget_gradients()
        for optimizer in self._optimizers:
            optimizer.forget()


class Stack:
    """Takes the storage of the members' tensors over: a member is in its newest stack only."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        """ValueError for what cannot be stacked: networks of different shapes, or with dropout."""
        self._members = len(models)
        self._network = _stacked(models)
        self._counters = [
            module.num_batches_tracked
            for model in models
            for module in model.modules()
            if isinstance(module, nn.BatchNorm2d) and module.num_batches_tracked is not None
        ]

    def __call__(self, images_MNCHW: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """logits_NK of each member for its images, in training mode."""
        torch._foreach_add_(self._counters, 1)
        logits_NF = self._network(torch.cat(list(images_MNCHW), dim=1))
        return logits_NF.chunk(self._members, dim=1)  # type: ignore[no-any-return]

    def hand_out_gradients(self, scale: float) -> None:
        """Gives the members' parameters their gradients, which were `scale` times too long."""
        for module in self._network.modules():
            if isinstance(module, _Shared):
                module.hand_out_gradients(scale)

    def forget_gradients(self) -> None:
        self._network.zero_grad(set_to_none=True)


class _Shared(nn.Module):
    """Parameters and buffers of one module of each member, one behind the other."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.modules_M = tuple(modules)  # a tuple, so that torch does not take them for its own
        for name, _ in modules[0].named_parameters(recurse=False):
            whole = torch.cat([getattr(one, name).detach() for one in modules])
            for one, part in zip(modules, whole.chunk(len(modules)), strict=True):
                getattr(one, name).data = part
            self.register_parameter(name, nn.Parameter(whole))

    def hand_out_gradients(self, scale: float) -> None:
        for name, parameter in self.named_parameters(recurse=False):
            assert parameter.grad is not None, "after a backward pass"
            if scale != 1.0:
                parameter.grad /= scale
            gradients_M = parameter.grad.chunk(len(self.modules_M))
            for one, gradient in zip(self.modules_M, gradients_M, strict=True):
                getattr(one, name).grad = gradient
            parameter.grad = None


class _Convolutions(_Shared):
    weight: nn.Parameter

    def __init__(self, modules: Sequence[nn.Conv2d]) -> None:
        super().__init__(modules)
        first = modules[0]
        assert isinstance(first.padding, tuple)
        self.stride, self.padding = first.stride, first.padding

    def forward(self, maps_NCHW: Tensor) -> Tensor:
        return functional.conv2d(
            maps_NCHW,
            self.weight,
            stride=self.stride,
            padding=self.padding,
            groups=len(self.modules_M),
        )


class _Normalisations(_Shared):
    weight: nn.Parameter
    bias: nn.Parameter
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, modules: Sequence[nn.BatchNorm2d]) -> None:
        super().__init__(modules)
        first = modules[0]
        assert first.momentum is not None
        self.momentum, self.eps = first.momentum, first.eps
        for name in ("running_mean", "running_var"):
            whole = torch.cat([getattr(one, name) for one in modules])
            for one, part in zip(modules, whole.chunk(len(modules)), strict=True):
                setattr(one, name, part)
            self.register_buffer(name, whole)

    def forward(self, maps_NCHW: Tensor) -> Tensor:
        return functional.batch_norm(
            maps_NCHW,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            training=True,
            momentum=self.momentum,
            eps=self.eps,
        )


class _Classifiers(_Shared):
    weight: nn.Parameter
    bias: nn.Parameter

    def forward(self, features_NF: Tensor) -> Tensor:
        members, images = len(self.modules_M), len(features_NF)
        features_MNF = features_NF.view(images, members, -1).transpose(0, 1)
        weights_MFK = self.weight.view(members, -1, features_MNF.shape[2]).transpose(1, 2)
        biases_M1K = self.bias.view(members, 1, -1)
        logits_MNK = torch.baddbmm(biases_M1K, features_MNF, weights_MFK)
        return logits_MNK.transpose(0, 1).flatten(1)


class _PaddedShortcuts(nn.Module):
    """Option A: each member's new channels stand beside its own."""

    def __init__(self, shortcut: PaddedShortcut, members: int) -> None:
        super().__init__()
        self.stride, self.members = shortcut.stride, members
        self.padding = shortcut.padding

    def forward(self, maps_NCHW: Tensor) -> Tensor:
        maps_NHWC = maps_NCHW.permute(0, 2, 3, 1)[:, :: self.stride, :: self.stride]
        maps_NHWMC = maps_NHWC.reshape(*maps_NHWC.shape[:3], self.members, -1)
        return functional.pad(maps_NHWMC, self.padding).flatten(3).permute(0, 3, 1, 2)


def _stacked(models: Sequence[Any]) -> nn.Module:
    """A module like the first, of all."""
    first = models[0]
    if isinstance(first, nn.Conv2d) and first.bias is None and first.groups == 1:
        return _Convolutions(models)
    if type(first) is nn.BatchNorm2d:
        return _Normalisations(models)
    if isinstance(first, nn.Linear):
        return _Classifiers(models)
    if isinstance(first, PaddedShortcut):
        return _PaddedShortcuts(first, len(models))
    names = _children(first)
    if any(type(one) is not type(first) or _children(one) != names for one in models):
        raise ValueError("networks of different shapes cannot be stacked")
    if not names and not isinstance(first, _STATELESS):
        raise ValueError(f"{type(first).__name__} cannot be stacked")
    # Its forward is used as it is, with other children.
    whole: nn.Module = copy.deepcopy(first)
    for name in names:
        setattr(whole, name, _stacked([getattr(one, name) for one in models]))
    return whole


def _children(module: nn.Module) -> list[str]:
    """Their names, also of one that another name has too."""
    found = module.named_modules(remove_duplicate=False)
    return [name for name, _ in found if name and "." not in name]
