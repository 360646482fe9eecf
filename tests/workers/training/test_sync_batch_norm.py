from pathlib import Path

import pytest
import safetensors.torch
import torch

from service.states import CheckpointPart
from tests.workers.training.support import NORMALISED, Scenes, run, small_spec
from workers.training import checkpoint


def weights(folder: Path) -> dict[str, torch.Tensor]:
    files = checkpoint.find_newest(folder)
    assert files is not None
    return safetensors.torch.load_file(files[CheckpointPart.WEIGHTS])


@pytest.mark.slow
def test_synchronized_ranks_train_as_one_process_does(scenes: Scenes, tmp_path: Path) -> None:
    folder, _ = scenes
    run(small_spec(NORMALISED), tmp_path)
    alone = weights(tmp_path)

    def distance(name: str) -> float:
        theirs = weights(folder / name)
        return max(float((alone[key].double() - theirs[key].double()).abs().max()) for key in alone)

    assert distance("sync_batch_norm") < 1e-4
    assert distance("local") > 1e-2
