import json
from functools import partial

import pytest
import torch

from tests.workers.training import support
from tests.workers.training.support import Scenes
from workers.training import local


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Scenes:
    """Where the files of support.play_scenes lie, and what each of its processes saw.

    Two could only sum in one order; three show whether the order is kept.
    """
    folder = tmp_path_factory.mktemp("processes")
    local.spawn(partial(support.play_scenes, folder), num_processes=3, threads=1)
    return folder, [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(3)]


@pytest.fixture
def gpu() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    return torch.device("cuda", 0)
