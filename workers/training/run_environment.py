"""Describes what a run trains on."""

import os
import platform
import socket
from importlib import metadata

import torch
from torch import nn

from service.catalog import code_version
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
        versions=checkpoint.list_versions() | _list_further_versions(is_gpu=is_gpu),
        numerics={
            "precision": precision,
            "memory_format": "channels_last",
            "threads": str(context.threads),
            "images": source.description,
            "machine": platform.machine(),
            # Which kernels a CPU computes with, and so how its sums are rounded.
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        },
        data_checksum=source.checksum,
    )


def _list_further_versions(*, is_gpu: bool) -> dict[str, str]:
    """Of this service, and of the packages that decode images and compute on a GPU."""
    versions = {name: metadata.version(name) for name in ("pillow", "torchcodec", "torchvision")}
    if is_gpu:
        cudnn: int | None = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        versions |= {"cuda": str(torch.version.cuda), "cudnn": str(cudnn)}
    versions["resnetd"] = metadata.version("resnetd-server")
    versions["training_code_sha256"] = code_version.training_code_sha256()
    commit = code_version.find_commit()
    return versions | ({} if commit is None else {"commit": commit})
