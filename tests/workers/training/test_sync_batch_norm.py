from pathlib import Path

import pytest
import safetensors.torch
import torch

from service.states import CheckpointPart
from tests.workers.training.support import BATCH_NORM_RECIPE, ProcessRuns, run, small_spec
from workers.training import checkpoint


def load_weights(work_dir: Path) -> dict[str, torch.Tensor]:
    files = checkpoint.find_newest(work_dir)
    assert files is not None
    return safetensors.torch.load_file(files[CheckpointPart.WEIGHTS])


@pytest.mark.slow
def test_ranks_with_synchronized_batch_norm_train_as_one_process_does(
    process_runs: ProcessRuns, tmp_path: Path
) -> None:
    directory, _ = process_runs
    run(small_spec(BATCH_NORM_RECIPE), tmp_path)
    expected = load_weights(tmp_path)

    def distance(name: str) -> float:
        found = load_weights(directory / name)
        return max(
            float((expected[key].double() - found[key].double()).abs().max()) for key in expected
        )

    assert distance("sync_batch_norm") < 1e-4
    assert distance("local_batch_norm") > 1e-2
