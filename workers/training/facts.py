"""What is known of a run once its processes are up."""

import os
import socket

import torch
from torch import nn

from service.recipes import Precision
from service.reports import Facts
from workers.training import checkpoint
from workers.training.ranks import Ranks
from workers.training.sources import Source


def gather(
    model: nn.Module,
    source: Source,
    ranks: Ranks,
    *,
    device: torch.device,
    threads: int,
    precision: Precision,
) -> Facts:
    """Called by every rank."""
    is_gpu = device.type == "cuda"
    return Facts(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        classes=source.classes,
        train_images=source.train_images,
        test_images=source.test_images,
        device=torch.cuda.get_device_name(device) if is_gpu else device.type,
        num_workers=ranks.world_size,
        host=socket.gethostname(),
        pids=ranks.list_of(os.getpid()),
        versions=checkpoint.versions(),
        computed={
            "precision": precision,
            "memory_format": "channels_last",
            "threads": str(threads),
            "images": source.description,
        },
    )
