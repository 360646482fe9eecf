"""The process that decodes the image of a user and runs a network on it, beside the API.

    python -m api.prediction_process MEMORY_BYTES

A message, on standard input and output, is its length in eight bytes, highest first, and its bytes.
The first message is an ONNX network that takes image_HWC uint8, each later one the file of an
image. The answers are JSON: `classes` of the network; the `predictions` for an image, highest
first; `refused`: why the image is; or `failed`: why the network cannot run here. The process ends
with its input.

It gets no settings and no secrets, and may not use more memory than its argument says.

Shapes: H height, W width, K classes.
"""

import json
import os
import resource
import sys
from io import BytesIO
from typing import TYPE_CHECKING, Any, BinaryIO

from service.catalog import image_folder_layout
from service.text import count_of

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    Array = np.ndarray[Any, Any]

LENGTH_BYTES = 8
# A network needs up to 24 bytes of memory for each.
MAX_PIXELS = 2**25
TOP = 5
# Decoders of other formats are not for files of strangers.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_MAX_REASON = 300


class _Refused(Exception):
    """The image cannot be predicted; the message is a sentence about it."""


class _Network:
    """Of the bytes of an ONNX file."""

    def __init__(self, content: bytes) -> None:
        import onnxruntime  # noqa: PLC0415 - the memory limit counts what it allocates

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        # Images differ in size: an arena would keep the memory of the largest.
        options.enable_cpu_mem_arena = options.enable_mem_pattern = False
        self._session = onnxruntime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"]
        )
        self._input = self._session.get_inputs()[0].name
        (self.classes,) = self._session.get_outputs()[0].shape
        metadata = self._session.get_modelmeta().custom_metadata_map
        names = json.loads(metadata.get("class_names", "[]"))
        is_named = len(names) == self.classes
        self._names = names if is_named else [str(label) for label in range(self.classes)]

    def predict(self, image_HWC: "Array") -> list[dict[str, Any]]:
        import numpy as np  # noqa: PLC0415

        (logits_K,) = self._session.run(None, {self._input: image_HWC})
        if not np.isfinite(logits_K).all():
            raise ArithmeticError("its logits are not finite")
        exponentials_K = np.exp(logits_K.astype(np.float64) - logits_K.max())
        probabilities_K = exponentials_K / exponentials_K.sum()
        return [
            {
                "label": int(label),
                "class_name": self._names[label],
                "probability": float(probabilities_K[label]),
            }
            for label in np.argsort(-logits_K, kind="stable")[:TOP]
        ]


def main() -> None:
    memory_bytes = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    source = sys.stdin.buffer
    # What a library prints is no message.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        network = _Network(_read(source))
        _write(answers, {"classes": network.classes})
        while content := _read(source):
            _write(answers, _answer(network, content))
    except MemoryError:
        _write(
            answers, {"failed": f"it needs more than {count_of(memory_bytes, 'byte')} of memory"}
        )
    except Exception as error:  # noqa: BLE001 - the API reports it; this process ends
        _write(answers, {"failed": _describe(error)})


def _answer(network: _Network, content: bytes) -> dict[str, Any]:
    try:
        return {"predictions": network.predict(_decode(content))}
    except _Refused as error:
        return {"refused": str(error)}


def _decode(content: bytes) -> "Array":
    """image_HWC. MemoryError, and _Refused for everything else."""
    import numpy as np  # noqa: PLC0415
    from PIL import Image, UnidentifiedImageError  # noqa: PLC0415

    from service.catalog import image_files  # noqa: PLC0415 - it imports both

    Image.MAX_IMAGE_PIXELS = None  # `_find_problem` limits it
    try:
        with Image.open(BytesIO(content), formats=_FORMATS) as file:
            problem = _find_problem(file)
            if problem is None:
                return np.asarray(image_files.decode_upright(file))
    except MemoryError:
        raise
    except UnidentifiedImageError as error:
        raise _Refused(
            f"the body is not the bytes of an image file; known formats are {', '.join(_FORMATS)}"
        ) from error
    except Exception as error:
        # Of broken bytes a decoder raises anything.
        raise _Refused(f"the image is broken: {_describe(error)}") from error
    raise _Refused(f"the image {problem}")


def _find_problem(file: "Image.Image") -> str | None:
    """Why an image whose pixels are not decoded yet is refused; None: it is not."""
    if file.width * file.height > MAX_PIXELS:
        limit = count_of(MAX_PIXELS, "pixel")
        return f"is {file.width} x {file.height}; at most {limit} are allowed"
    return image_folder_layout.find_mode_problem(file.mode)


def _describe(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:_MAX_REASON]


def _read(source: BinaryIO) -> bytes:
    """Empty where the input ends."""
    return source.read(int.from_bytes(source.read(LENGTH_BYTES)))


def _write(answers: BinaryIO, document: dict[str, Any]) -> None:
    content = json.dumps(document, allow_nan=False).encode()
    answers.write(len(content).to_bytes(LENGTH_BYTES) + content)
    answers.flush()


if __name__ == "__main__":
    main()
