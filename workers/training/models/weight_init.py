"""Initial weights from another job's checkpoint or a file: all, without the classifier, deepened.

Shapes: N batch, C channels, H height, W width.
"""

import pickle
from pathlib import Path

import safetensors
import torch
from torch import Tensor, nn

from service.catalog.architectures import Architecture
from service.specs.job_spec import JobSpec, StartMode
from workers.training.data import sampling
from workers.training.data.data_source import DataSource
from workers.training.distributed import RankGroup
from workers.training.errors import WeightsMismatch
from workers.training.models import convert, deepen, weight_markers
from workers.training.models.resnet import ResNet

# Batches that the statistics of a deepened network's identities are measured on.
_STATISTICS_BATCHES = 8


def init_from_checkpoint(
    model: nn.Module, weights_path: Path, spec: JobSpec, source: DataSource, ranks: RankGroup
) -> None:
    """Replaces the initial weights of the spec's network, as its `start_from` says.

    Called by all ranks; DDP then broadcasts rank 0's weights. WeightsMismatch if the tensors
    belong to another network.
    """
    assert spec.start_from is not None
    with safetensors.safe_open(weights_path, framework="pt") as file:
        metadata = file.metadata()
    weights = weight_markers.load_weights(weights_path)
    try:
        if spec.start_from.mode is StartMode.DEEPEN:
            assert isinstance(model, ResNet), "checked at submission"
            shallow = Architecture.from_metadata(metadata)
            deepen.deepen_network(
                model, weights, shallow, load_statistics_images(spec, source, ranks)
            )
        else:
            if spec.start_from.mode is StartMode.FINE_TUNE:
                weights |= _get_classifier_weights(model)
            model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise WeightsMismatch(f"the weights do not fit {spec.network}: {error}") from error


def init_from_file(model: nn.Module, path: Path, spec: JobSpec) -> None:
    """As `init_from_checkpoint`, with published weights or weights that this service trained.

    WeightsMismatch if there is no such file, or if its network is not the spec's.
    """
    assert spec.start_from is not None
    try:
        architecture, weights = convert.read_weights(path)
    except (OSError, ValueError, RuntimeError, pickle.UnpicklingError) as error:
        raise WeightsMismatch(f"{path} does not have weights to start from: {error}") from error
    ours = spec.architecture
    if (architecture.family, architecture.label) != (ours.family, ours.label):
        raise WeightsMismatch(
            f"{path} has the weights of {architecture.label} of family {architecture.family}; "
            f"the job's network is {ours.label} of family {ours.family}"
        )
    if spec.start_from.mode is StartMode.FINE_TUNE:
        weights |= _get_classifier_weights(model)
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        message = f"{path} does not fit {spec.network} and the dataset's classes: {error}"
        raise WeightsMismatch(message) from error


def load_statistics_images(spec: JobSpec, source: DataSource, ranks: RankGroup) -> Tensor:
    """images_NCHW: this rank's share of the first batches, for `deepen.deepen_network`."""
    batch_size = spec.recipe.batch_size
    ranges = [
        sampling.batch_range(iteration, batch_size, rank=ranks.rank, world_size=ranks.world_size)
        for iteration in range(_STATISTICS_BATCHES)
    ]
    return torch.cat([source.load_batch(start, stop)[0] for start, stop in ranges])


def _get_classifier_weights(model: nn.Module) -> dict[str, Tensor]:
    """Of the last linear layer, as they were initialized."""
    *_, (name, classifier) = (
        (name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)
    )
    return {f"{name}.{key}": tensor for key, tensor in classifier.state_dict().items()}
