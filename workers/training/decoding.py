"""Photographs decoded where the network is: a GPU has a unit for JPEG, its processor few cores.

Processes beside the training read the files and draw how they are cut; the device decodes and cuts
a batch while the network computes the one before. What the unit does not decode (other kinds of
files, four colours, turned pictures) comes decoded from the process that read it.

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

from workers.training import folders, views
from workers.training.views import Box

_Shape = tuple[int, ...]


@dataclass(frozen=True)
class Photograph:
    """`bytes`: the JPEG file, or photograph_CHW uint8 where it is decoded already."""

    path: Path
    bytes: Tensor
    width: int
    height: int


@dataclass(frozen=True)
class Undecoded:
    """A batch of photographs, as few tensors as will do: each goes from process to process."""

    paths: list[Path]
    bytes_B: Tensor
    shapes: list[_Shape]
    boxes: list[Box]
    is_flipped: list[bool]
    light_NC: Tensor
    labels_N: Tensor


@dataclass(frozen=True)
class Decoded:
    """`images_NHWC` uint8, `light_NC` to be added to it."""

    images_NHWC: Tensor
    light_NC: Tensor
    labels_N: Tensor


def open_photograph(path: Path) -> Tensor:
    """photograph_CHW uint8. DatasetUnusable names the file that is none."""
    try:
        photograph_CHW: Tensor = decode_image(path, mode="RGB")
    except (RuntimeError, ValueError):
        # Pillow reads more kinds of files, and says what is wrong with one.
        return torch.from_numpy(np.array(folders.open_image(path))).permute(2, 0, 1)
    return photograph_CHW


def read(path: Path) -> Photograph:
    """For a device to decode; what it does not is decoded here."""
    content = path.read_bytes()
    size = _size_of_plain_jpeg(content)
    if size is None:
        photograph_CHW = open_photograph(path)
        height, width = photograph_CHW.shape[1:]
        return Photograph(path, photograph_CHW, width, height)
    return Photograph(path, torch.frombuffer(bytearray(content), dtype=torch.uint8), *size)


def _size_of_plain_jpeg(content: bytes) -> tuple[int, int] | None:
    """Width and height, as its head says. None: it is something else, or broken."""
    try:
        with Image.open(BytesIO(content), formats=["JPEG"]) as head:
            is_upright = head.getexif().get(ExifTags.Base.Orientation, 1) == 1
            return head.size if head.mode in {"RGB", "L"} and is_upright else None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


def decode(batch: Undecoded, device: torch.device) -> Decoded:
    """Decoded and cut on the device."""
    sizes = [torch.Size(shape).numel() for shape in batch.shapes]
    files = [
        piece.view(shape)
        for piece, shape in zip(torch.split(batch.bytes_B, sizes), batch.shapes, strict=True)
    ]
    encoded = [number for number, file in enumerate(files) if file.dim() == 1]
    decoded = _decode_jpegs(
        [files[each] for each in encoded], [batch.paths[each] for each in encoded], device
    )
    for number, photograph_CHW in zip(encoded, decoded, strict=True):
        files[number] = photograph_CHW
    images = []
    for photograph_CHW, box, is_flipped in zip(files, batch.boxes, batch.is_flipped, strict=True):
        image_HWC = views.cut(photograph_CHW.to(device), box)
        images.append(image_HWC.flip(1) if is_flipped else image_HWC)
    return Decoded(torch.stack(images), batch.light_NC.to(device), batch.labels_N.to(device))


def _decode_jpegs(files: list[Tensor], paths: Sequence[Path], device: torch.device) -> list[Tensor]:
    if not files:
        return []
    try:
        decoded = list(decode_jpeg(files, mode="RGB", device=device))
    except RuntimeError:
        # One that the device cannot read spoils them all; this names one that nobody can.
        decoded = [open_photograph(path) for path in paths]
    return decoded


class Ahead:
    """Decodes the batches in their order, each while the one before is used."""

    def __init__(self, batches: Iterator[Undecoded], device: torch.device) -> None:
        self._batches, self._device = batches, device
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="decode")
        self._next: Future[Decoded] = self._thread.submit(self._decode_one)

    def __next__(self) -> Decoded:
        decoded = self._next.result()
        self._next = self._thread.submit(self._decode_one)
        if self._stream is not None:
            current = torch.cuda.current_stream(self._device)
            for tensor in (decoded.images_NHWC, decoded.light_NC, decoded.labels_N):
                tensor.record_stream(current)  # else its memory is the next batch's at once
        return decoded

    def close(self) -> None:
        """Nobody asks for another batch."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _decode_one(self) -> Decoded:
        with self._used():
            decoded = decode(next(self._batches), self._device)
        if self._stream is not None:
            self._stream.synchronize()
        return decoded

    def _used(self) -> AbstractContextManager[object]:
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)
