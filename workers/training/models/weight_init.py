"""Beginning with another job's weights: as they are, or as a part of a deeper network.

Shapes: N batch, C channels, H height, W width.
"""

from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from service.specs.job_spec import JobSpec, StartMode
from workers.training import checkpoint
from workers.training.data import augmentation
from workers.training.data.data_source import DataSource
from workers.training.distributed import RankGroup
from workers.training.errors import WeightsMismatch
from workers.training.models import deepen, torchvision_marker
from workers.training.models.resnet import ResNet

# Of images whose statistics the identities in a deepened plain network have.
_BATCHES = 8


def init_from_checkpoint(
    model: nn.Module, path: Path, spec: JobSpec, source: DataSource, ranks: RankGroup
) -> None:
    """Gives the spec's fresh network the weights of that file, as `start_from` says.

    Called by every rank; afterwards rank 0's network counts. WeightsMismatch where the tensors
    are not those of such a network.
    """
    assert spec.start_from is not None
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    weights = torchvision_marker.remove_marker(safetensors.torch.load_file(path))
    try:
        if spec.start_from.mode is StartMode.DEEPEN:
            assert isinstance(model, ResNet), "the service has seen that it is one"
            shallow = checkpoint.architecture_of(metadata)
            deepen.deepen_network(model, weights, shallow, _first_images(spec, source, ranks))
        else:
            model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise WeightsMismatch(f"the weights do not fit {spec.network}: {error}") from error


def _first_images(spec: JobSpec, source: DataSource, ranks: RankGroup) -> Tensor:
    """images_NCHW: this rank's of those that come first."""
    size = spec.recipe.batch_size
    shares = [
        augmentation.batch_range(number, size, rank=ranks.rank, world_size=ranks.world_size)
        for number in range(_BATCHES)
    ]
    return torch.cat([source.batch(start, stop)[0] for start, stop in shares])
