"""Checkpoints: what a run resumes from, written to disk during training.

    weights.safetensors   the state_dict; its metadata says what network it is and how it was made
    state.safetensors     optimizer momentum, metric sums, TrainState

A checkpoint is a directory that gets its name once both files are complete.

Shapes: R ranks, W windows, S sums.
"""

import base64
import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from service.catalog.architectures import Architecture
from service.specs.job_spec import JobSpec
from service.states import CheckpointPart, LogLevel
from workers.training.data.normalization import Normalizer
from workers.training.errors import CheckpointMismatch, CheckpointWriteError
from workers.training.models import weight_markers
from workers.training.observers import Observer, SavedCheckpoint
from workers.training.train_state import TrainState

FILE_NAMES = {
    CheckpointPart.WEIGHTS: "weights.safetensors",
    CheckpointPart.STATE: "state.safetensors",
}

StateDict = Mapping[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """`momentum` by parameter name; `sums_RWS`: the metric sums of each rank."""

    state: TrainState
    weights: StateDict
    momentum: StateDict
    sums_RWS: Tensor

    def copy_to_cpu(self) -> "Checkpoint":
        """Copies of all tensors: the run's own change with the next step."""
        return Checkpoint(
            self.state, _copy(self.weights), _copy(self.momentum), self.sums_RWS.cpu().clone()
        )


Exporter = Callable[[Path], dict[CheckpointPart, Path]]
"""Writes further files into a checkpoint's directory, from tensors that training does not use."""


class AsyncCheckpointWriter:
    """Writes one checkpoint at a time, on a thread of its own.

    Args:
        observer: is notified of pending and of complete checkpoints.
        work_dir: the directory that checkpoints are written to.
        spec, class_names, normalizer: described in the metadata of the weights.
    """

    def __init__(
        self,
        observer: Observer,
        work_dir: Path,
        spec: JobSpec,
        *,
        class_names: list[str],
        normalizer: Normalizer,
    ) -> None:
        self._observer, self._work_dir, self._spec = observer, work_dir, spec
        self._class_names = class_names
        # The device may belong to the next run while the last checkpoint is written.
        self._normalizer = normalizer.to(torch.device("cpu"))
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def write(
        self,
        checkpoint: Checkpoint,
        *,
        test_error: float | None,
        selection_error: float | None,
        is_last: bool = False,
        exporter: Exporter | None = None,
    ) -> None:
        """Returns at once; the checkpoint's tensors must not change any more.

        `test_error`, `selection_error`: of exactly these weights. If the last checkpoint cannot be
        written, its future fails; any other is skipped with a warning.
        """
        self.wait()
        self._pending = self._thread.submit(
            self._write,
            checkpoint,
            test_error,
            selection_error,
            is_last=is_last,
            exporter=exporter,
        )
        self._observer.on_checkpoint_pending(self._pending)

    def wait(self) -> None:
        """Until the previous checkpoint is complete; raises what made its writing fail."""
        if self._pending is not None:
            self._pending.result()

    def close(self) -> None:
        """No checkpoint follows. Does not wait for the pending one."""
        self._thread.shutdown(wait=False)

    def _write(
        self,
        checkpoint: Checkpoint,
        test_error: float | None,
        selection_error: float | None,
        *,
        is_last: bool,
        exporter: Exporter | None,
    ) -> None:
        iteration = checkpoint.state.iteration
        directory = checkpoint_directory(iteration, self._work_dir)
        try:
            files = save(
                checkpoint,
                directory,
                spec=self._spec,
                class_names=self._class_names,
                normalizer=self._normalizer,
            )
            if exporter is not None:
                with _convert_write_errors(directory):
                    files |= exporter(directory)
        except CheckpointWriteError as error:
            if is_last:
                raise
            self._observer.on_log(LogLevel.WARNING, str(error))
            return
        self._observer.on_checkpoint(
            SavedCheckpoint(
                iteration, test_error, selection_error, checkpoint.state.train_error, files
            )
        )


def save(
    checkpoint: Checkpoint,
    directory: Path,
    *,
    spec: JobSpec,
    class_names: list[str],
    normalizer: Normalizer,
) -> dict[CheckpointPart, Path]:
    """Writes the checkpoint as `directory`, replacing what was there. Returns its files.

    CheckpointWriteError if the disk is full or broken; nothing is left behind then.
    """
    with _convert_write_errors(directory):
        directory.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=directory.parent, prefix="partial-"))
    try:
        with _convert_write_errors(directory):
            weights = weight_markers.add_markers(checkpoint.weights, spec.architecture)
            _write_safetensors(
                partial / FILE_NAMES[CheckpointPart.WEIGHTS],
                {name: _to_plain(tensor) for name, tensor in weights.items()},
                describe_weights(
                    spec, class_names=class_names, normalizer=normalizer, state=checkpoint.state
                ),
            )
            momentum = checkpoint.momentum.items()
            tensors = {f"momentum.{name}": _to_plain(tensor) for name, tensor in momentum}
            tensors["sums"] = _to_plain(checkpoint.sums_RWS)
            _write_safetensors(
                partial / FILE_NAMES[CheckpointPart.STATE],
                tensors,
                {"state": checkpoint.state.to_json(), "identity": _identify_run(spec)},
            )
            partial.chmod(0o755)
            shutil.rmtree(directory, ignore_errors=True)
            partial.replace(directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return {part: directory / name for part, name in FILE_NAMES.items()}


@contextmanager
def _convert_write_errors(directory: Path) -> Iterator[None]:
    """Safetensors and torch wrap the system's errors in types of their own."""
    try:
        yield
    except (OSError, safetensors.SafetensorError, RuntimeError) as error:
        message = f"checkpoint {directory.name} cannot be written: {error}"
        raise CheckpointWriteError(message) from error


def load(
    files: Mapping[CheckpointPart, Path], *, spec: JobSpec, is_same_job: bool = True
) -> Checkpoint:
    """The checkpoint in these files. CheckpointMismatch if it belongs to another run.

    Compares what determines the weights; name, tags and resources may differ. A job that continues
    another one's run (not `is_same_job`) was checked at its submission.
    """
    with safetensors.safe_open(files[CheckpointPart.STATE], framework="pt") as file:
        metadata = file.metadata()
    if is_same_job and metadata["identity"] != _identify_run(spec):
        raise CheckpointMismatch(
            f"{files[CheckpointPart.STATE]} belongs to another run: {metadata['identity']}; "
            f"this run is {_identify_run(spec)}"
        )
    tensors = safetensors.torch.load_file(files[CheckpointPart.STATE])
    return Checkpoint(
        state=TrainState.from_json(metadata["state"]),
        weights=weight_markers.load_weights(files[CheckpointPart.WEIGHTS]),
        momentum={
            name.removeprefix("momentum."): tensor
            for name, tensor in tensors.items()
            if name.startswith("momentum.")
        },
        sums_RWS=tensors["sums"],
    )


def checkpoint_directory(iteration: int, work_dir: Path) -> Path:
    return work_dir / f"{iteration:08d}"


def list_directories(work_dir: Path) -> list[Path]:
    """Of the complete checkpoints in `work_dir`, newest last."""
    found = [entry for entry in work_dir.glob("*") if entry.name.isdecimal()]
    return sorted(found, key=lambda entry: int(entry.name))


def find_newest(work_dir: Path) -> dict[CheckpointPart, Path] | None:
    """The files of the newest complete checkpoint; None if there is none."""
    found = list_directories(work_dir)
    if not found:
        return None
    return {part: found[-1] / name for part, name in FILE_NAMES.items()}


def describe_weights(
    spec: JobSpec, *, class_names: list[str], normalizer: Normalizer, state: TrainState
) -> dict[str, str]:
    """The metadata of the weights: enough to build the network, feed it, and trace its origin.

    Includes every choice that decides the function besides the weights: weights trained with one
    `stride_at` load with the other and compute nonsense. `mean_image` is little-endian float32
    (height, width, 3) in base64; the network takes (bytes - mean_image) / std. `class_names` is a
    JSON array in the order of the logits.
    """
    mean = normalizer.mean_HWC.cpu().numpy().astype("<f4")
    return {
        "format": "pt",  # safetensors' name for torch's layout
        "network": spec.network,
        **spec.architecture.metadata,
        "dataset": spec.dataset,
        "classes": str(len(class_names)),
        "class_names": json.dumps(class_names, ensure_ascii=False),
        "mean_image": base64.b64encode(mean.tobytes()).decode(),
        "mean_image_shape": json.dumps(mean.shape),
        "std": json.dumps(normalizer.std_C.tolist()),
        "spec": spec.model_dump_json(),
        "iteration": str(state.iteration),
        "test_error": json.dumps(state.test_error),
        "test_top5_error": json.dumps(state.test_top5_error),
        "validation_error": json.dumps(state.validation_error),
        "train_error": json.dumps(state.train_error),
        "precision": json.dumps(state.precision),
        "versions": json.dumps(list_versions()),
    }


def list_versions() -> dict[str, str]:
    """Of the libraries that computed the weights."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "safetensors": safetensors.__version__,
    }


def weights_sha256(weights: StateDict) -> str:
    """Over names, types, shapes and values, so independent of order and memory layout."""
    sha256 = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        plain = _to_plain(tensor)
        sha256.update(f"{name} {plain.dtype} {tuple(plain.shape)}\n".encode())
        sha256.update(plain.numpy().tobytes())
    return sha256.hexdigest()


def _copy(tensors: StateDict) -> dict[str, Tensor]:
    return {
        name: torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach())
        for name, tensor in tensors.items()
    }


def _to_plain(tensor: Tensor) -> Tensor:
    """On the CPU in row-major order, as files store it; copies only if necessary."""
    return tensor.detach().cpu().contiguous()


def _identify_run(spec: JobSpec) -> str:
    """Everything that must be equal for a run to be the same run."""
    choices = {field.name for field in fields(Architecture)}
    identity: dict[str, Any] = spec.model_dump(
        mode="json", include={"dataset", "recipe", "seed", *choices}
    )
    return json.dumps(identity, sort_keys=True)


def _write_safetensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    safetensors.torch.save_file(tensors, path, metadata)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        # After a power cut a directory must not have its name but not its bytes.
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
