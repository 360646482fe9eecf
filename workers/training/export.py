"""What a finished training leaves for other programs, each measured against the network itself.

model.onnx    for ONNX Runtime and its like
model.pt2     a torch.export program: no Python of ours is needed to run it
card.md       what the network is, how it was trained, what it attains

Both models take normalised images_NCHW float32, any number of them, and give logits_NK.

Shapes: N batch, C channels, H height, W width, K classes; V views.
"""

import copy
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from service.catalog import model_stats
from service.catalog.recipes import Export
from service.specs.job_spec import JobSpec
from service.specs.protocol import RunEnvironment
from service.states import CheckpointPart
from workers.training.checkpoint import TrainProgress

FILE_NAMES = {
    CheckpointPart.ONNX: "model.onnx",
    CheckpointPart.PROGRAM: "model.pt2",
    CheckpointPart.CARD: "card.md",
}

# Of |delta logit|; float32 sums in another order differ by about a hundredth of it.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class FinishedRun:
    """What the card tells of a run. `image_size`: height and width in pixels."""

    spec: JobSpec
    environment: RunEnvironment
    cursor: TrainProgress
    image_size: tuple[int, int]


def export_copy(model: nn.Module) -> nn.Module:
    """On the CPU, for testing, with one layout in memory for every exporter."""
    return copy.deepcopy(model).cpu().to(memory_format=torch.contiguous_format).eval()


def write_exports(
    plain: nn.Module, images_NCHW: Tensor, folder: Path, finished: FinishedRun
) -> dict[CheckpointPart, Path]:
    """Writes what the recipe asks for, and the card. Returns the files that hold parity.

    `plain` is a plain_copy; the images lie on the CPU.
    """
    files: dict[CheckpointPart, Path] = {}
    told: dict[CheckpointPart, str] = {}
    with torch.no_grad():
        logits_NK = plain(images_NCHW)
    for part in (_PARTS[export] for export in finished.spec.recipe.exports):
        path = folder / FILE_NAMES[part]
        try:
            with _quietly():
                program = torch.export.export(
                    plain, (images_NCHW,), dynamic_shapes=({0: Dim("N", min=1)},)
                )
                parity = _WRITERS[part](program, images_NCHW, logits_NK, path)
        except Exception as error:  # noqa: BLE001
            told[part] = f"not exported: {type(error).__name__}"
            continue
        told[part] = f"{parity:.2e}"
        if parity <= TOLERANCE:
            files[part] = path
    files[CheckpointPart.CARD] = folder / FILE_NAMES[CheckpointPart.CARD]
    files[CheckpointPart.CARD].write_text(model_card(finished, told))
    return files


def model_card(finished: FinishedRun, parities: Mapping[CheckpointPart, str]) -> str:
    """Markdown. `parities`: largest difference of a logit, or why there is none."""
    spec, environment, cursor = finished.spec, finished.environment, finished.cursor
    recipe = spec.recipe
    trained = (
        f"Trained with the recipe `{recipe.name}`, seed {spec.seed}: {cursor.iteration:,} "
        f"iterations of {recipe.batch_size} images in {cursor.training_seconds:,.0f} s on "
        f"{environment.num_workers} x {environment.device}."
    )
    fed = (
        "The models take (bytes - mean image) / deviation, which are in the metadata of the "
        "safetensors file, as float32 (N, 3, H, W)."
    )
    lines = [
        f"# {spec.network} on {spec.dataset}",
        "",
        trained,
        "",
        "| what | value |",
        "|---|---|",
        f"| test error, {recipe.test_time_augmentation} view | {_percent(cursor.test_error)} |",
        f"| training error | {_percent(cursor.train_error)} |",
        f"| parameters | {environment.parameters:,} |",
        f"| multiply-adds of one image | {_multiply_adds(finished)} |",
        f"| classes | {environment.classes} |",
        f"| training images | {environment.train_images:,} |",
        f"| test images | {environment.test_images:,} |",
        *(f"| {name} | {value} |" for name, value in environment.numerics.items()),
        *(f"| {name} | {value} |" for name, value in environment.versions.items()),
        *(
            f"| largest difference of a logit, {FILE_NAMES[part]} | {parity} |"
            for part, parity in parities.items()
        ),
        "",
        fed,
        "",
        "| iteration | test error |",
        "|---|---|",
        *(f"| {iteration:,} | {_percent(error)} |" for iteration, error in cursor.curve),
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
    """The difference that ONNX Runtime measures lies in the file's own metadata too."""
    # Seconds, and only who exports needs them.
    import onnx  # noqa: PLC0415 - costs a second, and a slow test alone needs it
    import onnxruntime  # noqa: PLC0415

    torch.onnx.export(program, (), path, dynamo=True, external_data=False, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (name,) = (each.name for each in session.get_inputs())
    (theirs,) = session.run(None, {name: images_NCHW.numpy()})
    parity = float((torch.from_numpy(theirs) - logits_NK).abs().max())
    written = onnx.load(path)
    onnx.helper.set_model_props(written, {"max_abs_logit_difference": repr(parity)})
    onnx.save(written, path)
    return parity


_PARTS = {Export.ONNX: CheckpointPart.ONNX, Export.PT2: CheckpointPart.PROGRAM}

_WRITERS: dict[CheckpointPart, Callable[[ExportedProgram, Tensor, Tensor, Path], float]] = {
    CheckpointPart.PROGRAM: _write_program,
    CheckpointPart.ONNX: _write_onnx,
}


@contextmanager
def _quietly() -> Iterator[None]:
    """The exporters tell their own developers about every step."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _multiply_adds(finished: FinishedRun) -> str:
    """For images of the size that the network was trained on."""
    height, width = finished.image_size
    counted = model_stats.compute_model_stats(
        finished.spec.architecture, classes=finished.environment.classes, height=height, width=width
    )
    return f"{counted.multiply_adds:,} ({height}x{width})"


def _percent(error: float | None) -> str:
    return "-" if error is None else f"{error:.2f} %"
