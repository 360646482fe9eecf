import json
from functools import partial
from pathlib import Path

import pytest
import safetensors.torch
import torch

from service.reports import Part
from tests.workers.training.support import run, small_spec
from workers.training import checkpoint, local
from workers.training.loop import Place

RECIPE = {
    "iterations": 3,
    "evaluate_every": 3,
    "checkpoint_every": 3,
    "precision": "fp32",
    "learning_rate": 0.01,
    "warmup_learning_rate": None,
    "warmup_until_error": None,
}


def train(folder: Path, place: Place) -> None:
    for is_synchronized in (True, False):
        job = small_spec(
            RECIPE | {"synchronized": is_synchronized}, resources={"num_workers": place.world_size}
        )
        outcome, _ = run(job, folder / str(is_synchronized), place=place)
        if place.rank == 0:
            result = json.dumps(outcome.result.test_error)
            (folder / f"{is_synchronized}.json").write_text(result)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    files = checkpoint.newest(folder)
    assert files is not None
    return safetensors.torch.load_file(files[Part.WEIGHTS])


@pytest.mark.slow
def test_synchronized_ranks_train_as_one_process_does(tmp_path: Path) -> None:
    local.spawn(partial(train, tmp_path), num_processes=2, threads=1)
    run(small_spec(RECIPE), tmp_path / "alone")
    alone = weights(tmp_path / "alone")

    def distance(folder: Path) -> float:
        theirs = weights(folder)
        return max(
            float((alone[name].double() - theirs[name].double()).abs().max()) for name in alone
        )

    assert distance(tmp_path / "True") < 1e-4
    assert distance(tmp_path / "False") > 1e-2
