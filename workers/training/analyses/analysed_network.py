"""A network with the weights of a checkpoint, and what the file of the weights says about it."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
import safetensors
import torch
from torch import nn

from service.specs.job_spec import JobSpec
from workers.training.data.normalization import Normalizer
from workers.training.errors import WeightsMismatch
from workers.training.models import resnet, weight_markers


@dataclass(frozen=True)
class AnalysedNetwork:
    """`model` is in evaluation mode; `spec` and `iteration`: of the training that made it.

    `class_names` in the order of the logits. `normalizer`: of the images that it was trained on.
    """

    model: nn.Module
    spec: JobSpec
    iteration: int
    class_names: list[str]
    normalizer: Normalizer


class NetworkFiles(Sequence[AnalysedNetwork]):
    """Networks in files of weights. All but the first are loaded when they are asked for.

    A trajectory has more checkpoints than fit in memory at once. WeightsMismatch where the classes
    of one are not those of the first.
    """

    def __init__(self, paths: Sequence[Path], device: torch.device) -> None:
        self._paths, self._device = paths, device
        self._first = load_network(paths[0], device)

    def __len__(self) -> int:
        return len(self._paths)

    @overload
    def __getitem__(self, index: int) -> AnalysedNetwork: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[AnalysedNetwork]: ...

    def __getitem__(self, index: int | slice) -> AnalysedNetwork | Sequence[AnalysedNetwork]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        if index == 0:
            return self._first
        network = load_network(self._paths[index], self._device)
        if network.class_names != self._first.class_names:
            raise WeightsMismatch("the networks were not trained for the same classes")
        return network


def load_network(path: Path, device: torch.device) -> AnalysedNetwork:
    """From a file of weights that a training of this service wrote. WeightsMismatch for others."""
    with safetensors.safe_open(path, framework="pt") as file:
        metadata: Mapping[str, str] = file.metadata()
    weights = weight_markers.load_weights(path)
    try:
        spec = JobSpec.model_validate_json(metadata["spec"], extra="ignore")
        class_names: list[str] = json.loads(metadata["class_names"])
        model = resnet.build_network(spec, len(class_names))
        model.load_state_dict(weights, strict=True)
        normalizer = _read_normalizer(metadata)
    except (KeyError, ValueError, RuntimeError) as error:
        raise WeightsMismatch(f"the weights cannot be analysed: {error}") from error
    model = model.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    return AnalysedNetwork(
        model, spec, int(metadata["iteration"]), class_names, normalizer.to(device)
    )


def _read_normalizer(metadata: Mapping[str, str]) -> Normalizer:
    """As `checkpoint.describe_weights` writes it."""
    mean = np.frombuffer(base64.b64decode(metadata["mean_image"]), dtype="<f4")
    shape = json.loads(metadata["mean_image_shape"])
    return Normalizer(
        torch.from_numpy(mean.astype(np.float32).reshape(shape)),
        torch.tensor(json.loads(metadata["std"])),
    )
