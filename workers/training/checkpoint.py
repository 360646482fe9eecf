"""Checkpoints: what training goes on from, and the weights that people download.

    weights.safetensors   the network's state_dict; the metadata say what it is and how it was made
    weights.pt            the same for torch.load(weights_only=True)
    state.safetensors     what resuming needs besides: momentum, sums under way, the cursor

A checkpoint is a folder that gets its name once all three are whole.
"""

import base64
import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from service.catalog.architectures import Architecture
from service.specs.job_spec import JobSpec
from service.specs.protocol import PartDigest
from service.states import CheckpointPart
from workers.training.data.augmentation import Normalizer
from workers.training.errors import CheckpointMismatch, CheckpointWriteError
from workers.training.models import torchvision_marker

FILE_NAMES = {
    CheckpointPart.WEIGHTS: "weights.safetensors",
    CheckpointPart.STATE: "state.safetensors",
    CheckpointPart.PT: "weights.pt",
}

StateDict = Mapping[str, Tensor]


@dataclass(frozen=True)
class TrainProgress:
    """How far the run has come. Errors in percent; None before the first evaluation.

    `learning_rate` is the last step's, `computed_in` the run's precision; None before it began.
    A plateau is watched for by `best_error`, evaluations `waited`, `drops` of the learning rate.
    `curve`: (iteration, test error) of each evaluation.
    """

    iteration: int = 0
    is_warm: bool = False
    learning_rate: float | None = None
    computed_in: str | None = None
    train_error: float | None = None
    test_error: float | None = None
    best_error: float | None = None
    waited: int = 0
    drops: int = 0
    training_seconds: float = 0.0
    curve: tuple[tuple[int, float], ...] = ()

    def tested(
        self, iteration: int, *, train_error: float, test_error: float, patience: int | None
    ) -> "TrainProgress":
        """The same run, once it knows how it was at `iteration`.

        `patience`: of a plateau, after so many tests without a lower error the rate drops; None
        where none is watched for.
        """
        best, waited, drops = self.best_error, self.waited, self.drops
        if patience is not None:
            is_better = best is None or test_error < best
            best = test_error if is_better else best
            waited = 0 if is_better else waited + 1
            if waited >= patience:
                waited, drops = 0, drops + 1
        return replace(
            self,
            train_error=train_error,
            test_error=test_error,
            best_error=best,
            waited=waited,
            drops=drops,
            curve=(*self.curve, (iteration, test_error)),
        )

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def of_json(cls, text: str) -> "TrainProgress":
        found = json.loads(text)
        curve = tuple((iteration, error) for iteration, error in found.get("curve", ()))
        return cls(**found | {"curve": curve})


@dataclass(frozen=True)
class Checkpoint:
    """`momentum` goes by parameter name; `sums_RWS` are each rank's sums under way."""

    cursor: TrainProgress
    weights: StateDict
    momentum: StateDict
    sums_RWS: Tensor

    def copied(self) -> "Checkpoint":
        """The same, in tensors of its own on the CPU: the run's may change."""
        return Checkpoint(
            self.cursor, _copies(self.weights), _copies(self.momentum), self.sums_RWS.cpu().clone()
        )


def save(
    checkpoint: Checkpoint, folder: Path, *, spec: JobSpec, classes: int, normaliser: Normalizer
) -> dict[CheckpointPart, Path]:
    """Writes the checkpoint as `folder`, in place of what was there. Returns its files.

    CheckpointUnsaved, and nothing is left of it, where the disk is full or broken.
    """
    with _unsaved(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix="partial-"))
    try:
        with _unsaved(folder):
            weights = torchvision_marker.add_marker(checkpoint.weights, spec.architecture)
            weights = {name: _plain(tensor) for name, tensor in weights.items()}
            _write_safetensors(
                partial / FILE_NAMES[CheckpointPart.WEIGHTS],
                weights,
                describe(spec, classes=classes, normaliser=normaliser, cursor=checkpoint.cursor),
            )
            with (partial / FILE_NAMES[CheckpointPart.PT]).open("wb") as file:
                torch.save(weights, file)
                _flush(file.fileno())
            state = {f"momentum.{name}": _plain(each) for name, each in checkpoint.momentum.items()}
            state["sums"] = _plain(checkpoint.sums_RWS)
            _write_safetensors(
                partial / FILE_NAMES[CheckpointPart.STATE],
                state,
                {"cursor": checkpoint.cursor.to_json(), "identity": _identity(spec)},
            )
            partial.chmod(0o755)
            shutil.rmtree(folder, ignore_errors=True)
            partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return {part: folder / name for part, name in FILE_NAMES.items()}


@contextmanager
def _unsaved(folder: Path) -> Iterator[None]:
    """Safetensors and torch have errors of their own for what the system said."""
    try:
        yield
    except (OSError, safetensors.SafetensorError, RuntimeError) as error:
        words = f"the checkpoint {folder.name} cannot be saved: {error}"
        raise CheckpointWriteError(words) from error


def load(files: Mapping[CheckpointPart, Path], *, spec: JobSpec, is_own: bool = True) -> Checkpoint:
    """The checkpoint behind its weights and state; CheckpointMismatch where the spec's is another.

    Only what decides the weights is compared: name, tags and resources may differ. Nothing is
    where the job continues another (not `is_own`): the service has seen that they fit.
    """
    with safetensors.safe_open(files[CheckpointPart.STATE], framework="pt") as file:
        metadata = file.metadata()
    if is_own and metadata["identity"] != _identity(spec):
        raise CheckpointMismatch(
            f"{files[CheckpointPart.STATE]} was left by another training: {metadata['identity']}, "
            f"this one is {_identity(spec)}"
        )
    state = safetensors.torch.load_file(files[CheckpointPart.STATE])
    return Checkpoint(
        cursor=TrainProgress.of_json(metadata["cursor"]),
        weights=torchvision_marker.remove_marker(
            safetensors.torch.load_file(files[CheckpointPart.WEIGHTS])
        ),
        momentum={
            name.removeprefix("momentum."): tensor
            for name, tensor in state.items()
            if name.startswith("momentum.")
        },
        sums_RWS=state["sums"],
    )


def checkpoint_folder(iteration: int, work_path: Path) -> Path:
    return work_path / f"{iteration:08d}"


def list_folders(work_path: Path) -> list[Path]:
    """Of the whole checkpoints below `work_path`, the newest last."""
    found = [entry for entry in work_path.glob("*") if entry.name.isdecimal()]
    return sorted(found, key=lambda entry: int(entry.name))


def find_newest(work_path: Path) -> dict[CheckpointPart, Path] | None:
    """The files of the whole checkpoint that came furthest. None: there is none."""
    found = list_folders(work_path)
    if not found:
        return None
    return {part: found[-1] / name for part, name in FILE_NAMES.items()}


def describe(
    spec: JobSpec, *, classes: int, normaliser: Normalizer, cursor: TrainProgress
) -> dict[str, str]:
    """The weights' metadata: enough to build the network, feed it, and say where it comes from.

    All that decides the function beside the weights is named: weights of one stride_at load into
    the other, and mean nothing there. `mean_image` is little-endian float32 (height, width, 3) in
    base64: the network takes (bytes - mean_image) / deviation.
    """
    mean = normaliser.mean_HWC.cpu().numpy().astype("<f4")
    return {
        "format": "pt",  # safetensors' own word for tensors laid out as torch does
        "network": spec.network,
        **{name: str(choice) for name, choice in asdict(spec.architecture).items()},
        "dataset": spec.dataset,
        "classes": str(classes),
        "mean_image": base64.b64encode(mean.tobytes()).decode(),
        "mean_image_shape": json.dumps(mean.shape),
        "deviation": json.dumps(normaliser.deviation_C.tolist()),
        "spec": spec.model_dump_json(),
        "iteration": str(cursor.iteration),
        "test_error": json.dumps(cursor.test_error),
        "train_error": json.dumps(cursor.train_error),
        "precision": json.dumps(cursor.computed_in),
        "versions": json.dumps(versions()),
    }


def architecture_of(metadata: Mapping[str, str]) -> Architecture:
    """The network that weights with these metadata are of. ValueError where they do not say it."""
    try:
        return JobSpec.model_validate_json(metadata["spec"]).architecture
    except KeyError as error:
        raise ValueError("the weights do not say of which network they are") from error


def versions() -> dict[str, str]:
    """Of what computed the weights."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "safetensors": safetensors.__version__,
    }


def digest(files: Mapping[CheckpointPart, Path]) -> list[PartDigest]:
    """Of each file, read once."""
    return [
        PartDigest(part=part, sha256=_sha256(path), size_bytes=path.stat().st_size)
        for part, path in files.items()
    ]


def weights_sha256(weights: StateDict) -> str:
    """Of names, types, shapes and values: the same however the tensors are ordered or laid out."""
    sha256 = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        plain = _plain(tensor)
        sha256.update(f"{name} {plain.dtype} {tuple(plain.shape)}\n".encode())
        sha256.update(plain.numpy().tobytes())
    return sha256.hexdigest()


def _copies(tensors: StateDict) -> dict[str, Tensor]:
    return {
        name: torch.empty(each.shape, dtype=each.dtype).copy_(each.detach())
        for name, each in tensors.items()
    }


def _plain(tensor: Tensor) -> Tensor:
    """On the CPU and in row-major order, which files keep; a copy only where it is not yet so."""
    return tensor.detach().cpu().contiguous()


def _identity(spec: JobSpec) -> str:
    """What must be the same for a run to be the same run."""
    choices = {field.name for field in fields(Architecture)}
    identity: dict[str, Any] = spec.model_dump(
        mode="json", include={"dataset", "recipe", "seed", *choices}
    )
    return json.dumps(identity, sort_keys=True)


def _write_safetensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    safetensors.torch.save_file(tensors, path, metadata)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        _flush(descriptor)
    finally:
        os.close(descriptor)


def _flush(descriptor: int) -> None:
    """A power cut must not leave a checkpoint that has its name but not its bytes."""
    os.fsync(descriptor)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
