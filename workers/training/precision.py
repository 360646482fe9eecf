"""What a step is computed in: chosen once for a run, recorded with it, never changed on the way."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from service.catalog.recipes import Precision
from workers.training.errors import TrainingError

# In fp16 small gradients would be zero; NVIDIA's ResNet-50 recipe has the same fixed scale, and a
# fixed one leaves no state to resume.
_FP16_LOSS_SCALE = 128.0


def resolve_precision(wanted: Precision, device: torch.device) -> Precision:
    """What `auto` is on this device. TrainingFault where the device does not compute the wanted."""
    is_gpu = device.type == "cuda"
    if wanted is Precision.AUTO:
        return Precision.BF16 if _computes_bf16(device) else Precision.FP32
    if wanted is Precision.TF32 and not is_gpu:
        raise TrainingError(f"precision tf32 is a GPU's; this is a {device.type}")
    return wanted


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Around the forward pass and the loss."""
    if precision is Precision.BF16:
        return torch.autocast(device.type, torch.bfloat16)
    if precision is Precision.FP16:
        return torch.autocast(device.type, torch.float16)
    return nullcontext()


def loss_scale(precision: Precision) -> float:
    """The loss is multiplied by it, and the gradients are divided by it."""
    return _FP16_LOSS_SCALE if precision is Precision.FP16 else 1.0


def set_tf32(precision: Precision, device: torch.device) -> None:
    """Lets a GPU round float32 products to TF32, or forbids it: torch allows it in part."""
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = precision is Precision.TF32
        torch.backends.cuda.matmul.allow_tf32 = precision is Precision.TF32


@contextmanager
def exact_float32(device: torch.device) -> Iterator[None]:
    """Float32 as it is: what a run is `allow`ed is not allowed in it."""
    if device.type != "cuda":
        yield
        return
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    allowed = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32 = matmul.allow_tf32 = False
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = allowed


def _computes_bf16(device: torch.device) -> bool:
    """In hardware: where it is emulated, it is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())  # noqa: SLF001 - torch has no public question
