"""The precision of a run: resolved once, recorded in checkpoints, constant for the run."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from service.catalog.recipes import Precision
from workers.training.errors import TrainingError

# Keeps small gradients from underflowing in fp16. NVIDIA's ResNet-50 recipe uses the same static
# scale; a dynamic one would be state to save and restore.
_FP16_LOSS_SCALE = 128.0


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


def loss_scale(precision: Precision) -> float:
    """Multiplies the loss before backward; gradients are divided by it before the step."""
    return _FP16_LOSS_SCALE if precision is Precision.FP16 else 1.0


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
