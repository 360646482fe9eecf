"""Predictions of the test images: what is kept, in which order, and that it gives the errors."""

from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch

from service.states import CheckpointPart
from tests.workers.training.support import run, small_spec
from workers.training import predictions
from workers.training.data import datasets
from workers.training.distributed import RankGroup
from workers.training.predictions import PredictionRecorder

ALONE = RankGroup(0, 1, None)


def _percent_wrong(tensors: dict[str, torch.Tensor]) -> float:
    return 100 * float((tensors["predicted"] != tensors["labels"]).double().mean())


def test_a_finished_run_keeps_the_logits_of_all_test_images(tmp_path: Path) -> None:
    spec = small_spec()
    outcome, observer = run(spec, tmp_path)
    path = observer.files[12][CheckpointPart.PREDICTIONS]
    tensors = safetensors.torch.load_file(path)
    expected = datasets.read_images("digits", tmp_path, stem=spec.stem).test.labels_N
    assert tensors["labels"].tolist() == expected.tolist()
    assert (tensors["logits"].shape, tensors["logits"].dtype) == ((360, 10), torch.float16)
    assert _percent_wrong(tensors) == pytest.approx(outcome.test_error)
    top5 = tensors["logits"].topk(5, dim=1).indices == tensors["labels"][:, None]
    assert 100 * (1 - top5.any(dim=1).double().mean()) == pytest.approx(outcome.test_top5_error)
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert (metadata["dataset"], metadata["network"]) == ("digits", "resnet-8-A")
    assert CheckpointPart.PREDICTIONS not in observer.files[6]


def test_above_the_size_limit_the_five_highest_logits_and_their_margin_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(predictions, "MAX_LOGIT_BYTES", 2 * 3 * 6 - 1)
    recorder = PredictionRecorder(3, 6)
    scores_NK = torch.tensor(
        [[0.0, 5, 4, 3, 2, 1], [6.0, 0, 1, 2, 3, 4], [1.0, 2, 3, 4, 5, 6]], dtype=torch.float32
    )
    recorder.add(scores_NK[:2], torch.tensor([1, 0]))
    recorder.add(scores_NK[2:], torch.tensor([0]))
    kept = recorder.gather(ALONE)
    assert "logits" not in kept
    assert kept["top5_labels"].tolist() == [[1, 2, 3, 4, 5], [0, 5, 4, 3, 2], [5, 4, 3, 2, 1]]
    assert kept["margin"].tolist() == [1, 2, 1]
    assert kept["predicted"].tolist() == [1, 0, 5]


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ({}, None),
        ({"validation_images": 437}, "validation_error"),
        ({"select_by": "test"}, "test_error"),
        ({"validation_images": 437, "select_by": "test"}, "test_error"),
    ],
    ids=["last", "held-out images", "test", "test although images are held out"],
)
def test_checkpoints_have_the_error_that_the_recipe_selects_by(
    tmp_path: Path, recipe: dict[str, Any], expected: str | None
) -> None:
    outcome, observer = run(small_spec(recipe), tmp_path)
    newest = observer.saved[-1]
    assert newest.selection_error == (None if expected is None else getattr(outcome, expected))
    assert newest.test_error == outcome.test_error
