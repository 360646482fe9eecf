"""Describes what a run trains on."""

import os
import socket

import torch
from torch import nn

from service.catalog.recipes import Precision
from workers.training import checkpoint
from workers.training.data.data_source import DataSource
from workers.training.device_context import DeviceContext
from workers.training.distributed import RankGroup
from workers.training.observers import RunEnvironment


def collect_environment(
    model: nn.Module,
    source: DataSource,
    ranks: RankGroup,
    *,
    context: DeviceContext,
    precision: Precision,
) -> RunEnvironment:
    """Must be called by all ranks."""
    is_gpu = context.device.type == "cuda"
    device = torch.cuda.get_device_name(context.device) if is_gpu else context.device.type
    return RunEnvironment(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        classes=source.classes,
        train_images=source.train_images,
        test_images=source.test_images,
        device=device,
        num_workers=ranks.world_size,
        host=socket.gethostname(),
        pids=ranks.all_gather_int(os.getpid()),
        versions=checkpoint.list_versions(),
        numerics={
            "precision": precision,
            "memory_format": "channels_last",
            "threads": str(context.threads),
            "images": source.description,
        },
    )
