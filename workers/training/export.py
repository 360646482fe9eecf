"""What a finished run leaves for other programs, each compared with the network itself.

weights.pt               the state_dict, for torch.load(weights_only=True)
model.onnx               for ONNX Runtime and others: normalized images_NCHW float32 -> logits_NK;
                         input `images`, output `logits`, first dimension `batch`
model.pt2                the same as a torch.export program, which needs none of our code
model.image.onnx         with the preprocessing inside: image_HWC uint8 of any size -> logits_K
model.image.pt2          the same as a torch.export program
card.md                  what the network is, how it was trained, what it attains, how to use it
predictions.safetensors  the logits of the test images

Class names are in the metadata of the models, under `class_names`, in the order of the logits.

Shapes: N batch, C channels, H height, W width, K classes.
"""

import copy
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from service.catalog import model_stats
from service.catalog.recipes import Export
from service.specs.job_spec import JobSpec
from service.states import CheckpointPart, LogLevel
from service.text import count_of
from workers.training.checkpoint import Exporter
from workers.training.data.normalization import Normalizer
from workers.training.models import weight_markers
from workers.training.models.image_classifier import ImageClassifier
from workers.training.observers import LogFunction, RunEnvironment, ignore_log
from workers.training.predictions import write_predictions
from workers.training.train_state import TrainState

FILE_NAMES = {
    CheckpointPart.PT: "weights.pt",
    CheckpointPart.ONNX: "model.onnx",
    CheckpointPart.PROGRAM: "model.pt2",
    CheckpointPart.ONNX_IMAGE: "model.image.onnx",
    CheckpointPart.PROGRAM_IMAGE: "model.image.pt2",
    CheckpointPart.CARD: "card.md",
    CheckpointPart.PREDICTIONS: "predictions.safetensors",
}

# Largest accepted difference of a logit. Summing float32 in another order gives a hundredth of it.
MAX_LOGIT_DIFFERENCE = 1e-3
# Test images that an exported network is compared on.
_COMPARED_IMAGES = 16
# Height and width of an image that an exported classifier is compared on; any that differ.
_COMPARED_SIZE = (50, 70)
_MAX_MESSAGE_LENGTH = 300
_PARTS = {
    Export.ONNX: CheckpointPart.ONNX,
    Export.ONNX_IMAGE: CheckpointPart.ONNX_IMAGE,
    Export.PT2: CheckpointPart.PROGRAM,
    Export.PT2_IMAGE: CheckpointPart.PROGRAM_IMAGE,
}
_IMAGE_PARTS = frozenset({CheckpointPart.ONNX_IMAGE, CheckpointPart.PROGRAM_IMAGE})


@dataclass(frozen=True)
class FinishedRun:
    """`class_names` in the order of the logits; `normalizer` and `predictions` on the CPU."""

    spec: JobSpec
    environment: RunEnvironment
    state: TrainState
    class_names: list[str]
    normalizer: Normalizer
    predictions: dict[str, Tensor] | None = None


def make_exporter(
    model: nn.Module, images_NCHW: Tensor, run: FinishedRun, log: LogFunction
) -> Exporter:
    """Copies the model and some images to the CPU; the returned function needs no device."""
    cpu_model = copy.deepcopy(model).cpu().to(memory_format=torch.contiguous_format).eval()
    cpu_images_NCHW = images_NCHW[:_COMPARED_IMAGES].cpu().contiguous()
    return partial(write_exports, cpu_model, cpu_images_NCHW, run, log=log)


def write_exports(
    model: nn.Module,
    images_NCHW: Tensor,
    run: FinishedRun,
    directory: Path,
    *,
    log: LogFunction = ignore_log,
) -> dict[CheckpointPart, Path]:
    """Writes the weights, the recipe's exports, and the card.

    Model and images are on the CPU. Returns the files, without exports that failed or whose logits
    differ; `log` receives why.
    """
    files = {CheckpointPart.PT: directory / FILE_NAMES[CheckpointPart.PT]}
    weights = weight_markers.add_markers(model.state_dict(), run.spec.architecture)
    torch.save(weights, files[CheckpointPart.PT])
    if run.predictions is not None:
        files[CheckpointPart.PREDICTIONS] = directory / FILE_NAMES[CheckpointPart.PREDICTIONS]
        write_predictions(
            files[CheckpointPart.PREDICTIONS],
            run.predictions,
            spec=run.spec,
            class_names=run.class_names,
            iteration=run.state.iteration,
        )
    results: dict[CheckpointPart, str] = {}
    for part in (_PARTS[export] for export in run.spec.recipe.exports):
        path = directory / FILE_NAMES[part]
        try:
            difference = _export(part, model, images_NCHW, run, path)
        except Exception as error:  # noqa: BLE001 - a failed export must not fail a finished run
            results[part] = f"not exported: {_describe(error)}"
            log(LogLevel.WARNING, f"{path.name} was {results[part]}")
            continue
        results[part] = f"{difference:.2e}"
        if difference <= MAX_LOGIT_DIFFERENCE:
            files[part] = path
        else:
            message = f"{path.name} is withheld: its logits differ by up to {difference:.2e}"
            log(LogLevel.WARNING, message)
    files[CheckpointPart.CARD] = directory / FILE_NAMES[CheckpointPart.CARD]
    height, width = images_NCHW.shape[2:]
    card = format_card(run, results, image_size=(height, width), parts=set(files))
    files[CheckpointPart.CARD].write_text(card, encoding="utf-8")
    return files


def _describe(error: Exception) -> str:
    """One line, as a cell of a table."""
    lines = str(error).strip().splitlines() or [""]
    text = lines[0].replace("|", "\\|")[:_MAX_MESSAGE_LENGTH]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _export(
    part: CheckpointPart, model: nn.Module, images_NCHW: Tensor, run: FinishedRun, path: Path
) -> float:
    """Writes the model and returns its largest difference of a logit."""
    metadata = {"class_names": json.dumps(run.class_names, ensure_ascii=False)}
    if part in _IMAGE_PARTS:
        model = ImageClassifier(model, run.normalizer, run.spec.recipe.crop).eval()
        generator = torch.Generator().manual_seed(0)
        size = (*_COMPARED_SIZE, 3)
        inputs = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
        dynamic = {0: Dim("H", min=2), 1: Dim("W", min=2)}
    else:
        inputs, dynamic = images_NCHW, {0: Dim("N", min=1)}
    with _silence_exporters(), torch.no_grad():
        expected = model(inputs)
        program = torch.export.export(model, (inputs,), dynamic_shapes=(dynamic,))
        return _WRITERS[part](program, inputs, expected, path, metadata)


def format_card(
    run: FinishedRun,
    export_results: Mapping[CheckpointPart, str],
    *,
    image_size: tuple[int, int],
    parts: set[CheckpointPart],
) -> str:
    """The model card in Markdown.

    `export_results`: largest difference of a logit, or why there is no export. `image_size`:
    height and width in pixels. `parts`: files that exist.
    """
    spec, environment, state = run.spec, run.environment, run.state
    height, width = image_size
    stats = model_stats.compute_model_stats(
        spec.architecture, classes=environment.classes, height=height, width=width
    )
    augmentation = spec.recipe.test_time_augmentation
    rows = {
        f"test error (test-time augmentation: {augmentation})": _percent(state.test_error),
        "top-5 test error": _percent(state.test_top5_error),
        "validation error": _percent(state.validation_error),
        "training error": _percent(state.train_error),
        "parameters": f"{environment.parameters:,}",
        "multiply-adds per image": f"{stats.multiply_adds:,} ({height}x{width})",
        "classes": f"{environment.classes}",
        "training images": f"{environment.train_images:,}",
        "test images": f"{environment.test_images:,}",
        **environment.numerics,
        **environment.versions,
        **{
            f"largest difference of a logit, {FILE_NAMES[part]}": result
            for part, result in export_results.items()
        },
    }
    summary = (
        f"Trained with the recipe `{spec.recipe.name}`, seed {spec.seed}: "
        f"{count_of(state.iteration, 'iteration')} of batch size {spec.recipe.batch_size} "
        f"in {state.training_seconds:,.0f} s on {_format_workers(run)} x {environment.device}."
    )
    preprocessing = (
        "model.onnx and model.pt2 take (bytes - mean_image) / std as float32 (N, 3, H, W); both "
        "are in the metadata of the safetensors file. model.image.onnx and model.image.pt2 take "
        "the bytes of one upright RGB image of any size as uint8 (H, W, 3)."
    )
    lines = [
        f"# {spec.network} on {spec.dataset}",
        "",
        summary,
        "",
        "| property | value |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in rows.items()),
        "",
        preprocessing,
        "",
        *_format_example(parts),
        "Classes in the order of the logits:",
        "",
        "```json",
        json.dumps(run.class_names, ensure_ascii=False),
        "```",
        "",
        "| iteration | test error |",
        "|---|---|",
        *(f"| {iteration:,} | {_percent(error)} |" for iteration, error in state.error_curve),
        "",
        "```json",
        json.dumps(spec.model_dump(mode="json"), indent=2),
        "```",
        "",
    ]
    return "\n".join(lines)


_ONNX_EXAMPLE = """\
import json, numpy, onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession("model.image.onnx")
class_names = json.loads(session.get_modelmeta().custom_metadata_map["class_names"])
image = ImageOps.exif_transpose(Image.open("picture.jpg")).convert("RGB")
(logits,) = session.run(None, {session.get_inputs()[0].name: numpy.asarray(image)})
probabilities = numpy.exp(logits - logits.max()) / numpy.exp(logits - logits.max()).sum()
for label in probabilities.argsort()[::-1][:5]:
    print(f"{probabilities[label]:.4f} {class_names[label]}")"""

_PROGRAM_EXAMPLE = """\
import json, numpy, torch
from PIL import Image, ImageOps

metadata = {"class_names": ""}
program = torch.export.load("model.image.pt2", extra_files=metadata).module()
class_names = json.loads(metadata["class_names"])
image = ImageOps.exif_transpose(Image.open("picture.jpg")).convert("RGB")
probabilities = program(torch.from_numpy(numpy.array(image))).softmax(0)
for label in probabilities.argsort(descending=True)[:5].tolist():
    print(f"{probabilities[label]:.4f} {class_names[label]}")"""


def _format_workers(run: FinishedRun) -> str:
    """`2`, or where the number changed `2 (from iteration 0), 4 (from iteration 100)`."""
    stretches = run.state.stretches
    if len(stretches) < 2:  # noqa: PLR2004
        return str(run.environment.num_workers)
    return ", ".join(f"{workers} (from iteration {start})" for start, workers in stretches)


def _format_example(parts: set[CheckpointPart]) -> list[str]:
    """Lines that classify an image file without our code; none without an export for images."""
    examples = {
        CheckpointPart.ONNX_IMAGE: ("numpy, onnxruntime and Pillow", _ONNX_EXAMPLE),
        CheckpointPart.PROGRAM_IMAGE: ("numpy, torch and Pillow", _PROGRAM_EXAMPLE),
    }
    for part, (packages, code) in examples.items():
        if part in parts:
            return [
                f"To classify an image file with {packages}:",
                "",
                "```python",
                code,
                "```",
                "",
            ]
    return []


def _write_program(
    program: ExportedProgram,
    inputs: Tensor,
    expected: Tensor,
    path: Path,
    metadata: Mapping[str, str],
) -> float:
    torch.export.save(program, path, extra_files=dict(metadata))
    loaded = torch.export.load(path).module()
    return float((loaded(inputs) - expected).abs().max())


def _write_onnx(
    program: ExportedProgram,
    inputs: Tensor,
    expected: Tensor,
    path: Path,
    metadata: Mapping[str, str],
) -> float:
    """Stores the difference that ONNX Runtime measures in the file's metadata, too."""
    # They take seconds to import and are used by this export only.
    import onnx  # noqa: PLC0415
    import onnxruntime  # noqa: PLC0415

    is_image = inputs.dtype is torch.uint8
    name, axes = ("image", ("height", "width")) if is_image else ("images", ("batch",))
    torch.onnx.export(
        program,
        (),
        path,
        dynamo=True,
        external_data=False,
        verbose=False,
        input_names=[name],
        output_names=["logits"],
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (model_input,) = session.get_inputs()
    (outputs,) = session.run(None, {model_input.name: inputs.numpy()})
    difference = float((torch.from_numpy(outputs) - expected).abs().max())
    model = onnx.load(path)
    _name_dimensions(model, axes)
    properties = {**metadata, "max_abs_logit_difference": repr(difference)}
    onnx.helper.set_model_props(model, properties)
    onnx.save(model, path)
    return difference


def _name_dimensions(model: Any, axes: Sequence[str]) -> None:
    """Replaces torch's symbols, such as s11, of the input's first axes, wherever they occur."""
    (model_input,) = model.graph.input
    dimensions = model_input.type.tensor_type.shape.dim
    names = {dimension.dim_param: axis for dimension, axis in zip(dimensions, axes, strict=False)}
    symbol = re.compile("|".join(rf"\b{re.escape(name)}\b" for name in names))
    graph = model.graph
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param:
                dimension.dim_param = symbol.sub(lambda found: names[found[0]], dimension.dim_param)


_Writer = Callable[[ExportedProgram, Tensor, Tensor, Path, Mapping[str, str]], float]

_WRITERS: dict[CheckpointPart, _Writer] = {
    CheckpointPart.PROGRAM: _write_program,
    CheckpointPart.PROGRAM_IMAGE: _write_program,
    CheckpointPart.ONNX: _write_onnx,
    CheckpointPart.ONNX_IMAGE: _write_onnx,
}


@contextmanager
def _silence_exporters() -> Iterator[None]:
    """The exporters print messages for their own developers."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _percent(error: float | None) -> str:
    return "-" if error is None else f"{error:.2f} %"
