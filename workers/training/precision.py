"""The precision of a run: resolved once, recorded in checkpoints, constant for the run."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

from service.catalog.recipes import Precision
from workers.training.errors import TrainingError

_GROWTH_TRACKER = "_growth_tracker"  # GradScaler's name in its state_dict


def resolve_precision(precision: Precision, device: torch.device) -> Precision:
    """Replaces `auto` by the device's best. TrainingError if the device lacks the precision."""
    if precision is Precision.AUTO:
        return Precision.BF16 if _has_native_bf16(device) else Precision.FP32
    if precision is Precision.TF32 and device.type != "cuda":
        raise TrainingError(f"precision tf32 needs a GPU; this device is a {device.type}")
    return precision


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """The context of the forward pass and the loss."""
    if precision is Precision.BF16:
        return torch.autocast(device.type, torch.bfloat16)
    if precision is Precision.FP16:
        return torch.autocast(device.type, torch.float16)
    return nullcontext()


class LossScaler:
    """Keeps small gradients from underflowing in fp16; in other precisions it changes nothing.

    The loss is multiplied by a scale, and the optimizer divides the gradients by it. A step with a
    gradient that is not finite is skipped, and the scale halves; it doubles after 2,000 steps
    without one. Nothing of this waits for the device.
    """

    def __init__(self, precision: Precision, device: torch.device) -> None:
        self.is_enabled = precision is Precision.FP16
        self._scaler = torch.amp.GradScaler(device.type, enabled=self.is_enabled)
        self._device = device

    def scale(self, loss: Tensor) -> Tensor:
        scaled: Tensor = self._scaler.scale(loss)
        return scaled

    def unscale_norm(self, norm: Tensor) -> Tensor:
        """The norm of the gradients of the loss itself; 0 for a step that is skipped."""
        if not self.is_enabled:
            return norm
        scale, _ = self.state_tensors()
        return torch.where(norm.isfinite(), norm / scale, torch.zeros_like(norm))

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Steps a fused optimizer, unless a gradient is not finite."""
        try:
            self._scaler.step(optimizer)
        finally:
            # A step that fails, as where a CUDA graph cannot be recorded, would leave them behind.
            for name in ("grad_scale", "found_inf"):
                vars(optimizer).pop(name, None)
        self._scaler.update()

    def state_tensors(self) -> list[Tensor]:
        """The scale and the number of steps since it changed; they keep their memory."""
        if not self.is_enabled:
            return []
        self._scaler.scale(torch.zeros((), device=self._device))  # creates them if it is the first
        scale, growth_tracker = self._scaler._scale, self._scaler._growth_tracker  # noqa: SLF001 - no public access without waiting for the device
        assert scale is not None
        assert growth_tracker is not None
        return [scale, growth_tracker]

    def state(self) -> tuple[float, int] | None:
        """The values of the state tensors; None if it is not enabled. Waits for the device."""
        if not self.is_enabled:
            return None
        state = self._scaler.state_dict()
        return state["scale"], state[_GROWTH_TRACKER]

    def restore(self, state: tuple[float, int]) -> None:
        scale, growth_tracker = state
        self._scaler.load_state_dict(
            self._scaler.state_dict() | {"scale": scale, _GROWTH_TRACKER: growth_tracker}
        )


def set_tf32(precision: Precision, device: torch.device) -> None:
    """Allows TF32 products only if the run asks for them: torch's default allows some."""
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = precision is Precision.TF32
        torch.backends.cuda.matmul.allow_tf32 = precision is Precision.TF32


@contextmanager
def exact_float32(device: torch.device) -> Iterator[None]:
    """Full float32, whatever `set_tf32` allows."""
    if device.type != "cuda":
        yield
        return
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32 = matmul.allow_tf32 = False
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before


def _has_native_bf16(device: torch.device) -> bool:
    """In hardware: emulated bf16 is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())  # noqa: SLF001 - torch has no public query
