from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Also after a test that trains with more: tests/conftest.py says why."""
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "birds"
    random = np.random.RandomState(0)
    for split, count in (("train", 5), ("val", 3)):
        for name in ("robin", "wren"):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                shape = (40 + 10 * number, 60, 3)
                pixels = random.randint(0, 256, shape).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{number}.jpg")
    return folder


@pytest.fixture
def gpu() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("no GPU on this machine")
    return torch.device("cuda", 0)
