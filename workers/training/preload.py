"""Imports and data of a first training step, loaded before there is a job."""

from pathlib import Path

from service.catalog.architectures import Family
from service.errors import ResnetdError
from workers.training.data import datasets


def import_all() -> None:
    """Runs the imports that torch defers to first use; they take seconds.

    Starts no thread, so the process can still be forked.
    """
    import torch.nn.parallel  # noqa: PLC0415 - importing is the purpose

    # The first step of an optimizer imports the compiler, whether it is used or not.
    parameter = torch.nn.Parameter(torch.zeros(1))
    parameter.grad = torch.zeros(1)
    torch.optim.SGD([parameter], lr=0.1, momentum=0.9, fused=True).step()


def cache_images(name: str, data_dir: Path, *, family: Family) -> None:
    """Leaves the images in the cache of `datasets.read_images`, which reports any error."""
    try:
        datasets.read_images(name, data_dir, family=family)
    except (ResnetdError, OSError, RuntimeError):
        return
