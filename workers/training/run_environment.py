"""What is known of a run once its processes are up."""

import os
import socket

import torch
from torch import nn

from service.catalog.recipes import Precision
from service.specs.protocol import RunEnvironment
from workers.training import checkpoint
from workers.training.data.data_source import DataSource
from workers.training.distributed import RankGroup


def collect_environment(
    model: nn.Module,
    source: DataSource,
    ranks: RankGroup,
    *,
    device: torch.device,
    threads: int,
    precision: Precision,
) -> RunEnvironment:
    """Called by every rank."""
    is_gpu = device.type == "cuda"
    return RunEnvironment(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        classes=source.classes,
        train_images=source.train_images,
        test_images=source.test_images,
        device=torch.cuda.get_device_name(device) if is_gpu else device.type,
        num_workers=ranks.world_size,
        host=socket.gethostname(),
        pids=ranks.list_of(os.getpid()),
        versions=checkpoint.versions(),
        numerics={
            "precision": precision,
            "memory_format": "channels_last",
            "threads": str(threads),
            "images": source.description,
        },
    )
