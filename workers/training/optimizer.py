"""SGD as the paper trained: which parameters decay, and momentum when the learning rate changes.

PyTorch's momentum is v = m v + g, p -= lr v; Caffe's is v = m v + lr g, p -= v. They are equal
while the learning rate is constant. When it changes, Caffe's v keeps the scale of the old rate:
torch's buffer is multiplied by old / new to match (KaimingHe/deep-residual-networks, README,
item 6).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import SGD

from service.catalog.recipes import MomentumForm, Recipe, WeightDecayScope
from workers.training.precision import LossScaler


class Optimizer:
    """Steps the model's parameters with the recipe's SGD."""

    def __init__(self, model: nn.Module, recipe: Recipe) -> None:
        self._names: dict[Tensor, str] = {
            parameter: name for name, parameter in model.named_parameters()
        }
        self._momentum_form = recipe.momentum_form
        self._learning_rate: float | None = None
        self._has_stepped = False
        self._has_momentum = recipe.momentum > 0
        self._sgd = SGD(
            _make_groups(model, recipe),
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=recipe.nesterov,
            fused=True,
        )

    def set_learning_rate(self, learning_rate: float) -> None:
        """Must be called before each step."""
        before, self._learning_rate = self._learning_rate, learning_rate
        if before == learning_rate:
            return
        if self._momentum_form is MomentumForm.CAFFE and before is not None:
            buffers = list(self.momentum().values())
            if buffers:
                torch._foreach_mul_(buffers, before / learning_rate)
        for group in self._sgd.param_groups:
            group["lr"].fill_(learning_rate * group["lr_scale"])

    def step(self, scaler: LossScaler) -> None:
        """Updates the parameters, if the gradients are finite, and drops the gradients.

        Runs the same kernels on the same tensors each time, so a CUDA graph can replay it.
        """
        if not self._has_stepped:
            self._has_stepped = True
            # torch's fused SGD silently reads a gradient in its parameter's memory layout.
            for parameter, name in self._names.items():
                gradient = parameter.grad
                assert gradient is None or _layout(gradient) == _layout(parameter), name
        scaler.step(self._sgd)
        self.zero_grad()

    def gradient_norm(self) -> Tensor:
        """The L2 norm of all gradients together, before a step drops them."""
        gradients = [parameter.grad for parameter in self._names if parameter.grad is not None]
        return torch.nn.utils.get_total_norm(gradients)

    def init_momentum(self) -> None:
        """Zeros, unless it exists. Where torch's first step is skipped, it leaves it undefined."""
        for parameter in self._names:
            if self._has_momentum and parameter not in self._sgd.state:
                self._sgd.state[parameter] = {"momentum_buffer": torch.zeros_like(parameter)}

    def zero_grad(self) -> None:
        self._sgd.zero_grad(set_to_none=True)

    def momentum(self) -> dict[str, Tensor]:
        """The momentum buffers by parameter name; empty before the first step."""
        return {
            self._names[parameter]: state["momentum_buffer"]
            for parameter, state in self._sgd.state.items()
            if state.get("momentum_buffer") is not None
        }

    def restore(self, momentum: Mapping[str, Tensor], learning_rate: float | None) -> None:
        """The momentum after a step with that learning rate; None: no step was taken."""
        if learning_rate is not None:
            self.set_learning_rate(learning_rate)
        for parameter, name in self._names.items():
            if name in momentum:
                buffer = torch.empty_like(parameter).copy_(momentum[name])
                self._sgd.state[parameter] = {"momentum_buffer": buffer}


def _layout(tensor: Tensor) -> list[int]:
    """Strides of the dimensions that have more than one element."""
    return [stride for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]


def _make_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Convolution and classifier weights decay; batch normalization and biases only in scope `all`.

    The paper's own code decays weights only; fb.resnet.torch lists decaying all parameters as a
    difference.
    """
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            decays = recipe.weight_decay_scope is WeightDecayScope.ALL or parameter.dim() > 1
            is_bn_bias = isinstance(module, _BatchNorm) and name == "bias"
            lr_scale = recipe.bias_learning_rate_scale if is_bn_bias else 1.0
            groups.setdefault((decays, lr_scale), []).append(parameter)
    return [
        {
            "params": parameters,
            # A tensor: a CUDA graph reads its current value.
            "lr": torch.zeros((), device=parameters[0].device),
            "lr_scale": lr_scale,
        }
        | ({} if decays else {"weight_decay": 0.0})
        for (decays, lr_scale), parameters in groups.items()
    ]
