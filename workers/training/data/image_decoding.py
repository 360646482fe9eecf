"""Decoding of image files: on the CPU, or in batches on a GPU's JPEG unit.

For the GPU path, reader processes read files and draw crops; the device decodes and crops a batch
while the network computes the previous one. Files that the unit does not decode (other formats,
CMYK, rotated by EXIF) are decoded and cropped by the process that read them.

Shapes: N batch, C channels, H height, W width, B bytes of a batch's files, concatenated.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor
from torchcodec.decoders import (  # type: ignore[attr-defined] # public, unmarked
    decode_image,
    decode_jpeg,
)

from workers.training.data import crops, image_folders
from workers.training.data.crops import Box

# Of a side, in pixels. A GPU cannot downscale larger crops with antialiasing in one step.
MAX_SIDE = 8_000


@dataclass(frozen=True)
class JpegFile:
    """A file that a device can decode, with its size in pixels."""

    bytes: Tensor
    width: int
    height: int


@dataclass(frozen=True)
class EncodedBatch:
    """A batch as it is sent from a reader process; few tensors, since each costs a transfer.

    `bytes_B` holds JPEG files and, for images whose box is None, image_HWC of CROP_SIZE.
    """

    paths: list[Path]
    bytes_B: Tensor
    lengths: list[int]
    boxes: list[Box | None]
    is_flipped: list[bool]
    lighting_NC: Tensor
    labels_N: Tensor


@dataclass(frozen=True)
class DecodedBatch:
    """`images_NHWC` uint8; `lighting_NC` is to be added to it."""

    images_NHWC: Tensor
    lighting_NC: Tensor
    labels_N: Tensor


def open_image(path: Path) -> Tensor:
    """image_CHW uint8. DatasetUnusable names a file that is not an image."""
    try:
        image_CHW: Tensor = decode_image(path, mode="RGB")
    except (RuntimeError, ValueError):
        # Pillow reads more formats and says what is wrong with a file.
        return torch.from_numpy(np.array(image_folders.open_image(path))).permute(2, 0, 1)
    return image_CHW


def read_jpeg(path: Path) -> JpegFile | None:
    """None if the file is not a JPEG, is broken, or is a kind that a device may not decode."""
    content = path.read_bytes()
    try:
        with Image.open(BytesIO(content), formats=["JPEG"]) as header:
            is_upright = header.getexif().get(ExifTags.Base.Orientation, 1) == 1
            is_supported = header.mode in {"RGB", "L"} and is_upright
            width, height = header.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    if not is_supported or max(width, height) > MAX_SIDE:
        return None
    return JpegFile(torch.frombuffer(bytearray(content), dtype=torch.uint8), width, height)


def supports_jpeg_decoding(device: torch.device) -> bool:
    """Tries it: a GPU may lack the unit, or a container may hide it."""
    file = BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG")
    return _decode_on_device([file.getvalue()], device) is not None


def decode_batch(batch: EncodedBatch, device: torch.device) -> DecodedBatch:
    """Decodes and crops on the device."""
    files = list(torch.split(batch.bytes_B, batch.lengths))
    encoded = [index for index, box in enumerate(batch.boxes) if box is not None]
    decoded = _decode_jpegs(
        [files[index] for index in encoded], [batch.paths[index] for index in encoded], device
    )
    by_index = dict(zip(encoded, decoded, strict=True))
    images = []
    for index, (box, is_flipped) in enumerate(zip(batch.boxes, batch.is_flipped, strict=True)):
        if box is None:
            image_HWC = files[index].view(crops.CROP_SIZE, crops.CROP_SIZE, 3).to(device)
        else:
            image_HWC = crops.crop_image(by_index[index], box)
        images.append(image_HWC.flip(1) if is_flipped else image_HWC)
    return DecodedBatch(
        torch.stack(images), batch.lighting_NC.to(device), batch.labels_N.to(device)
    )


def _decode_jpegs(files: list[Tensor], paths: Sequence[Path], device: torch.device) -> list[Tensor]:
    decoded = _decode_on_device(files, device) if files else []
    if decoded is not None:
        return decoded
    # One undecodable file fails the batch: decode one by one, and that file on the CPU, which
    # names it if it is broken.
    images = []
    for file, path in zip(files, paths, strict=True):
        single = _decode_on_device([file], device)
        images += [open_image(path).to(device)] if single is None else single
    return images


def _decode_on_device(
    files: Sequence[Tensor] | Sequence[bytes], device: torch.device
) -> list[Tensor] | None:
    """None if the device rejects a file."""
    try:
        return list(decode_jpeg(list(files), mode="RGB", device=device))
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        return None


class DecodePrefetcher:
    """Decodes each batch while the previous one is in use."""

    def __init__(self, batches: Iterator[EncodedBatch], device: torch.device) -> None:
        self._batches, self._device = batches, device
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="decode")
        self._next: Future[DecodedBatch] = self._thread.submit(self._decode_next)

    def __next__(self) -> DecodedBatch:
        decoded = self._next.result()
        self._next = self._thread.submit(self._decode_next)
        if self._stream is not None:
            current = torch.cuda.current_stream(self._device)
            for tensor in (decoded.images_NHWC, decoded.lighting_NC, decoded.labels_N):
                tensor.record_stream(current)  # else the next batch may reuse its memory
        return decoded

    def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _decode_next(self) -> DecodedBatch:
        with self._use_stream():
            decoded = decode_batch(next(self._batches), self._device)
        if self._stream is not None:
            self._stream.synchronize()
        return decoded

    def _use_stream(self) -> AbstractContextManager[object]:
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)
