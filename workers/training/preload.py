"""What the first step of a training would import and read, done before there is a training."""

from pathlib import Path

from service.catalog.architectures import Family
from service.errors import ResnetdError
from workers.training.data import datasets


def import_all() -> None:
    """Seconds of imports that torch puts off until they are used.

    Starts no thread, so that this process can still be forked.
    """
    import torch.nn.parallel  # noqa: PLC0415 - the point of the function

    # The first step of an optimizer imports the compiler, used or not.
    parameter = torch.nn.Parameter(torch.zeros(1))
    parameter.grad = torch.zeros(1)
    torch.optim.SGD([parameter], lr=0.1, momentum=0.9, fused=True).step()


def read_images(name: str, data_path: Path, *, family: Family) -> None:
    """Leaves the images in memory where `data.read` finds them; whatever fails, fails there."""
    try:
        datasets.read_images(name, data_path, family=family)
    except (ResnetdError, OSError, RuntimeError):
        return
