"""What a finished run leaves for other programs, each compared with the network itself.

weights.pt    the state_dict, for torch.load(weights_only=True)
model.onnx    for ONNX Runtime and others
model.pt2     a torch.export program, which needs none of our code
card.md       what the network is, how it was trained, and what it attains

Both models take normalized images_NCHW float32 of any batch size and return logits_NK.

Shapes: N batch, C channels, H height, W width, K classes.
"""

import copy
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from service.catalog import model_stats
from service.catalog.recipes import Export
from service.specs.job_spec import JobSpec
from service.states import CheckpointPart
from service.text import count_of
from workers.training.checkpoint import Exporter
from workers.training.models import torchvision_marker
from workers.training.observers import RunEnvironment
from workers.training.train_state import TrainState

FILE_NAMES = {
    CheckpointPart.PT: "weights.pt",
    CheckpointPart.ONNX: "model.onnx",
    CheckpointPart.PROGRAM: "model.pt2",
    CheckpointPart.CARD: "card.md",
}

# Largest accepted difference of a logit. Summing float32 in another order gives a hundredth of it.
MAX_LOGIT_DIFFERENCE = 1e-3
# Test images that an exported network is compared on.
_COMPARED_IMAGES = 16


@dataclass(frozen=True)
class FinishedRun:
    spec: JobSpec
    environment: RunEnvironment
    state: TrainState


def make_exporter(model: nn.Module, images_NCHW: Tensor, run: FinishedRun) -> Exporter:
    """Copies the model and some images to the CPU; the returned function needs no device."""
    cpu_model = copy.deepcopy(model).cpu().to(memory_format=torch.contiguous_format).eval()
    cpu_images_NCHW = images_NCHW[:_COMPARED_IMAGES].cpu().contiguous()
    return partial(write_exports, cpu_model, cpu_images_NCHW, run)


def write_exports(
    model: nn.Module, images_NCHW: Tensor, run: FinishedRun, directory: Path
) -> dict[CheckpointPart, Path]:
    """Writes the weights, the recipe's exports, and the card.

    Model and images are on the CPU. Returns the files, without exports whose logits differ.
    """
    files = {CheckpointPart.PT: directory / FILE_NAMES[CheckpointPart.PT]}
    weights = torchvision_marker.add_marker(model.state_dict(), run.spec.architecture)
    torch.save(weights, files[CheckpointPart.PT])
    results: dict[CheckpointPart, str] = {}
    with torch.no_grad():
        logits_NK = model(images_NCHW)
    for part in (_PARTS[export] for export in run.spec.recipe.exports):
        path = directory / FILE_NAMES[part]
        try:
            with _silence_exporters():
                program = torch.export.export(
                    model, (images_NCHW,), dynamic_shapes=({0: Dim("N", min=1)},)
                )
                difference = _WRITERS[part](program, images_NCHW, logits_NK, path)
        except Exception as error:  # noqa: BLE001 - a failed export must not fail a finished run
            results[part] = f"not exported: {type(error).__name__}"
            continue
        results[part] = f"{difference:.2e}"
        if difference <= MAX_LOGIT_DIFFERENCE:
            files[part] = path
    files[CheckpointPart.CARD] = directory / FILE_NAMES[CheckpointPart.CARD]
    height, width = images_NCHW.shape[2:]
    files[CheckpointPart.CARD].write_text(
        format_card(run, results, image_size=(height, width)), encoding="utf-8"
    )
    return files


def format_card(
    run: FinishedRun, export_results: Mapping[CheckpointPart, str], *, image_size: tuple[int, int]
) -> str:
    """The model card in Markdown.

    `export_results`: largest difference of a logit, or why there is no export. `image_size`:
    height and width in pixels.
    """
    spec, environment, state = run.spec, run.environment, run.state
    height, width = image_size
    stats = model_stats.compute_model_stats(
        spec.architecture, classes=environment.classes, height=height, width=width
    )
    augmentation = spec.recipe.test_time_augmentation
    rows = {
        f"test error (test-time augmentation: {augmentation})": _percent(state.test_error),
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
        f"in {state.training_seconds:,.0f} s on {environment.num_workers} x {environment.device}."
    )
    preprocessing = (
        "The models take (bytes - mean_image) / std as float32 (N, 3, H, W); both are in the "
        "metadata of the safetensors file."
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


def _write_program(
    program: ExportedProgram, images_NCHW: Tensor, logits_NK: Tensor, path: Path
) -> float:
    torch.export.save(program, path)
    loaded = torch.export.load(path).module()
    with torch.no_grad():
        return float((loaded(images_NCHW) - logits_NK).abs().max())


def _write_onnx(
    program: ExportedProgram, images_NCHW: Tensor, logits_NK: Tensor, path: Path
) -> float:
    """Stores the difference that ONNX Runtime measures in the file's metadata, too."""
    # They take seconds to import and are used by this export only.
    import onnx  # noqa: PLC0415
    import onnxruntime  # noqa: PLC0415

    torch.onnx.export(program, (), path, dynamo=True, external_data=False, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (model_input,) = session.get_inputs()
    (outputs,) = session.run(None, {model_input.name: images_NCHW.numpy()})
    difference = float((torch.from_numpy(outputs) - logits_NK).abs().max())
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {"max_abs_logit_difference": repr(difference)})
    onnx.save(model, path)
    return difference


_PARTS = {Export.ONNX: CheckpointPart.ONNX, Export.PT2: CheckpointPart.PROGRAM}

_WRITERS: dict[CheckpointPart, Callable[[ExportedProgram, Tensor, Tensor, Path], float]] = {
    CheckpointPart.PROGRAM: _write_program,
    CheckpointPart.ONNX: _write_onnx,
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
