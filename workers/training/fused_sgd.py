"""The fused kernel of torch.optim.SGD without the class, whose use imports torch's compiler.

That takes over 4 seconds of CPU time in each process that trains.
"""

from typing import Any

import torch
from torch import Tensor


class FusedSgd:
    """Steps groups of parameters, each with an `lr` tensor and perhaps its own `weight_decay`.

    While a torch.amp.GradScaler steps it, `grad_scale` divides the gradients, and a `found_inf`
    that is not 0 leaves parameters and momentum as they are.
    """

    _step_supports_amp_scaling = True  # GradScaler reads it

    def __init__(
        self, groups: list[dict[str, Any]], *, momentum: float, weight_decay: float, nesterov: bool
    ) -> None:
        self.param_groups = [{"weight_decay": weight_decay} | group for group in groups]
        self.momentum_buffers: dict[Tensor, Tensor] = {}
        self._momentum = momentum
        self._nesterov = nesterov

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            parameters = [item for item in group["params"] if item.grad is not None]
            gradients = [item.grad for item in parameters]
            is_first_step = self._momentum != 0 and not any(
                item in self.momentum_buffers for item in parameters
            )
            if is_first_step:  # the kernel writes them
                self.momentum_buffers |= {item: torch.empty_like(item) for item in parameters}
            torch._fused_sgd_(
                parameters,
                gradients,
                [self.momentum_buffers[item] for item in parameters] if self._momentum else [],
                weight_decay=group["weight_decay"],
                momentum=self._momentum,
                lr=group["lr"],
                dampening=0.0,
                nesterov=self._nesterov,
                maximize=False,
                is_first_step=is_first_step,
                grad_scale=getattr(self, "grad_scale", None),
                found_inf=getattr(self, "found_inf", None),
            )

    def zero_grad(self) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None
