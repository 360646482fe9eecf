"""Photographs decoded where the network is: a GPU has a unit for JPEG, its processor few cores.

Processes beside the training read the files and draw how they are cut; the device decodes and cuts
a batch while the network computes the one before. What the unit does not decode (other kinds of
files, four colours, turned pictures) comes cut from the process that read it.

Shapes: N batch, C channels, H height, W width, B bytes of a batch's files one after the other.
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

# Along a side. A GPU cannot make a larger crop small with antialiasing in one step.
LARGEST_SIDE = 8_000


@dataclass(frozen=True)
class Jpeg:
    """A file that a device may decode, and its size in pixels."""

    bytes: Tensor
    width: int
    height: int


@dataclass(frozen=True)
class EncodedBatch:
    """A batch, as few tensors as will do: each goes from process to process.

    `bytes_B` are JPEG files and, where a box is None, images_HWC of views.SIZE that are cut.
    """

    paths: list[Path]
    bytes_B: Tensor
    lengths: list[int]
    boxes: list[Box | None]
    is_flipped: list[bool]
    light_NC: Tensor
    labels_N: Tensor


@dataclass(frozen=True)
class DecodedBatch:
    """`images_NHWC` uint8, `light_NC` to be added to it."""

    images_NHWC: Tensor
    light_NC: Tensor
    labels_N: Tensor


def open_image(path: Path) -> Tensor:
    """photograph_CHW uint8. DatasetUnusable names the file that is none."""
    try:
        photograph_CHW: Tensor = decode_image(path, mode="RGB")
    except (RuntimeError, ValueError):
        # Pillow reads more kinds of files, and says what is wrong with one.
        return torch.from_numpy(np.array(image_folders.open_image(path))).permute(2, 0, 1)
    return photograph_CHW


def read_jpeg(path: Path) -> Jpeg | None:
    """None: the file is something else, broken, or a JPEG that not every device decodes."""
    content = path.read_bytes()
    try:
        with Image.open(BytesIO(content), formats=["JPEG"]) as head:
            is_upright = head.getexif().get(ExifTags.Base.Orientation, 1) == 1
            is_plain = head.mode in {"RGB", "L"} and is_upright
            width, height = head.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    if not is_plain or max(width, height) > LARGEST_SIDE:
        return None
    return Jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8), width, height)


def supports_jpeg_decoding(device: torch.device) -> bool:
    """Whether it decodes: a GPU's unit may be missing, or hidden from a container."""
    file = BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG")
    return _by_the_device([file.getvalue()], device) is not None


def decode_batch(batch: EncodedBatch, device: torch.device) -> DecodedBatch:
    """Decoded and cut on the device."""
    files = list(torch.split(batch.bytes_B, batch.lengths))
    encoded = [number for number, box in enumerate(batch.boxes) if box is not None]
    photographs = _decode_jpegs(
        [files[each] for each in encoded], [batch.paths[each] for each in encoded], device
    )
    decoded = dict(zip(encoded, photographs, strict=True))
    images = []
    for number, (box, is_flipped) in enumerate(zip(batch.boxes, batch.is_flipped, strict=True)):
        if box is None:
            image_HWC = files[number].view(crops.CROP_SIZE, crops.CROP_SIZE, 3).to(device)
        else:
            image_HWC = crops.crop_image(decoded[number], box)
        images.append(image_HWC.flip(1) if is_flipped else image_HWC)
    return DecodedBatch(torch.stack(images), batch.light_NC.to(device), batch.labels_N.to(device))


def _decode_jpegs(files: list[Tensor], paths: Sequence[Path], device: torch.device) -> list[Tensor]:
    decoded = _by_the_device(files, device) if files else []
    if decoded is not None:
        return decoded
    # One that the device cannot read spoils them all.
    photographs = []
    for file, path in zip(files, paths, strict=True):
        alone = _by_the_device([file], device)
        # The processor names it if nobody can.
        photographs += [open_image(path).to(device)] if alone is None else alone
    return photographs


def _by_the_device(
    files: Sequence[Tensor] | Sequence[bytes], device: torch.device
) -> list[Tensor] | None:
    """None: it refuses."""
    try:
        return list(decode_jpeg(list(files), mode="RGB", device=device))
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        return None


class DecodePrefetcher:
    """Decodes the batches in their order, each while the one before is used."""

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
            for tensor in (decoded.images_NHWC, decoded.light_NC, decoded.labels_N):
                tensor.record_stream(current)  # else its memory is the next batch's at once
        return decoded

    def close(self) -> None:
        """Nobody asks for another batch."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _decode_next(self) -> DecodedBatch:
        with self._used():
            decoded = decode_batch(next(self._batches), self._device)
        if self._stream is not None:
            self._stream.synchronize()
        return decoded

    def _used(self) -> AbstractContextManager[object]:
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)
