"""SGD as the paper trained: which parameters decay, and what momentum means when the rate changes.

PyTorch's momentum is v = m v + g, p -= lr v; Caffe's is v = m v + lr g, p -= v. While the rate
stays they are one. When it changes, Caffe's v keeps the old rate's length: torch's buffer is
multiplied by old / new to be the same (KaimingHe/deep-residual-networks, README, item 6).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import SGD

from service.catalog.recipes import MomentumForm, Recipe, WeightDecayScope


class Optimizer:
    def __init__(self, model: nn.Module, recipe: Recipe) -> None:
        self._names: dict[Tensor, str] = {each: name for name, each in model.named_parameters()}
        self._form = recipe.momentum_form
        self._learning_rate: float | None = None
        self._has_stepped = False
        self._sgd = SGD(
            _groups(model, recipe),
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=recipe.nesterov,
            fused=True,
        )

    @property
    def learning_rate(self) -> float | None:
        """Of the step before. None: there was none."""
        return self._learning_rate

    def prepare(self, learning_rate: float) -> None:
        """Before each step: with that rate it will be taken."""
        before, self._learning_rate = self._learning_rate, learning_rate
        if before == learning_rate:
            return
        if self._form is MomentumForm.CAFFE and before is not None:
            buffers = list(self.momentum().values())
            if buffers:
                torch._foreach_mul_(buffers, before / learning_rate)
        for group in self._sgd.param_groups:
            group["lr"].fill_(learning_rate * group["rate_scale"])

    def step(self) -> None:
        """Along the parameters' gradients, which are gone afterwards.

        The same kernels on the same tensors each time: it can be replayed (workers.training.graphs)
        """
        if not self._has_stepped:
            self._has_stepped = True
            # Torch's fused SGD reads both in the order of one, without a word.
            for parameter, name in self._names.items():
                gradient = parameter.grad
                assert gradient is None or _order(gradient) == _order(parameter), name
        self._sgd.step()
        self.forget()

    def forget(self) -> None:
        """Drops the gradients."""
        self._sgd.zero_grad(set_to_none=True)

    def momentum(self) -> dict[str, Tensor]:
        """The buffers by parameter name; empty before the first step."""
        return {
            self._names[parameter]: state["momentum_buffer"]
            for parameter, state in self._sgd.state.items()
            if state.get("momentum_buffer") is not None
        }

    def restore(self, momentum: Mapping[str, Tensor], learning_rate: float | None) -> None:
        """The momentum that a step with that rate has left."""
        if learning_rate is not None:
            self.prepare(learning_rate)
        for parameter, name in self._names.items():
            if name in momentum:
                buffer = torch.empty_like(parameter).copy_(momentum[name])
                self._sgd.state[parameter] = {"momentum_buffer": buffer}


def _order(tensor: Tensor) -> list[int]:
    """In which its numbers lie in memory: the strides of all dimensions that have any."""
    return [step for step, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]


def _groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Weights of convolutions and classifier decay; batch normalisation and biases may.

    In the paper's own code they do not; fb.resnet.torch names decaying all as its difference.
    """
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            is_decayed = recipe.weight_decay_scope is WeightDecayScope.ALL or parameter.dim() > 1
            is_scaled = isinstance(module, _BatchNorm) and name == "bias"
            rate_scale = recipe.bias_learning_rate_scale if is_scaled else 1.0
            groups.setdefault((is_decayed, rate_scale), []).append(parameter)
    return [
        {
            "params": parameters,
            # A tensor, whose place a graph knows.
            "lr": torch.zeros((), device=parameters[0].device),
            "rate_scale": rate_scale,
        }
        | ({} if is_decayed else {"weight_decay": 0.0})
        for (is_decayed, rate_scale), parameters in groups.items()
    ]
