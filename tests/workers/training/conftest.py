import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.workers.training import support
from tests.workers.training.support import Scenes
from workers.training import spawn


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Scenes:
    """Where the files of support.play_scenes lie, and what each of its processes saw.

    Two could only sum in one order; three show whether the order is kept.
    """
    folder = tmp_path_factory.mktemp("processes")
    spawn.spawn(partial(support.play_scenes, folder), num_processes=3, threads=1)
    return folder, [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(3)]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "photographs"
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
        pytest.skip("no GPU here")
    return torch.device("cuda", 0)
