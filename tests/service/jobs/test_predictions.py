"""What follows from kept predictions: confusion, ensembles, and two networks image by image."""

from typing import Any

import numpy as np
import pytest

from service.errors import InvalidInput
from service.jobs import predictions
from service.jobs.predictions import Predictions

LABELS = [0, 0, 1, 1, 2, 2, 2]


def _make(predicted: list[int], *, job_id: str = "a", **changes: Any) -> Predictions:
    """Each logit is 1 for the predicted class and 0 for the others."""
    logits = np.eye(3, dtype=np.float16)[predicted]
    fields: dict[str, Any] = {
        "job_id": job_id,
        "dataset": "digits",
        "class_names": ["a", "b", "c"],
        "labels_N": np.array(LABELS, dtype=np.int32),
        "predicted_N": np.array(predicted, dtype=np.int32),
        "top5_N5": np.argsort(-logits, axis=1, kind="stable"),
        "logits_NK": logits,
    }
    return Predictions(**fields | changes)


def test_confusion_counts_images_by_class_and_predicted_class() -> None:
    counted = predictions.count_confusion(_make([0, 1, 1, 1, 0, 0, 2]))
    assert counted.matrix == [[1, 1, 0], [0, 2, 0], [2, 0, 1]]
    assert counted.class_images == [2, 2, 3]
    assert counted.class_errors == [50.0, 0.0, pytest.approx(200 / 3)]
    first = counted.most_confused[0]
    assert (first.label, first.predicted, first.images) == (2, 0, 2)


def test_a_class_without_images_has_no_error_and_many_classes_have_no_matrix() -> None:
    counted = predictions.count_confusion(_make(LABELS, class_names=["name"] * 101))
    assert counted.matrix is None
    assert counted.class_errors[3] is None
    assert counted.most_confused == []


def test_an_ensemble_averages_probabilities() -> None:
    # The second is unsure where it is wrong, so the first decides.
    sure = _make([0, 0, 1, 1, 0, 2, 2])
    unsure = np.array([[0.1, 0.0, 0.0]] * 7, dtype=np.float16)
    other = _make([0] * 7, logits_NK=unsure)
    combined = predictions.combine([sure, other])
    assert combined.error == pytest.approx(100 / 7)
    assert predictions.combine([sure, _make(LABELS, logits_NK=None)]).error is None


def test_two_networks_are_compared_image_by_image() -> None:
    a = _make([0, 0, 1, 0, 0, 0, 2], job_id="a")
    b = _make([0, 1, 1, 1, 2, 0, 2], job_id="b")
    (pair,) = predictions.compare_images([a, b])
    assert (pair.both_wrong, pair.only_a_wrong, pair.only_b_wrong) == (1, 2, 1)
    assert pair.images == [1, 3, 4]
    assert pair.p == 1.0
    (pair,) = predictions.compare_images([a, a])
    assert (pair.only_a_wrong, pair.p) == (0, 1.0)


def test_mcnemars_test_is_exact() -> None:
    labels = np.zeros(20, dtype=np.int32)
    wrong = np.array([1] * 9 + [0] * 11, dtype=np.int32)
    a = _make(LABELS, labels_N=labels, predicted_N=wrong)
    b = _make(LABELS, labels_N=labels, predicted_N=np.roll(np.array([1] + [0] * 19), 15))
    (pair,) = predictions.compare_images([a, b])
    assert (pair.only_a_wrong, pair.only_b_wrong) == (9, 1)
    assert pair.p == pytest.approx(2 * 11 / 2**10)


def test_jobs_of_different_images_are_refused() -> None:
    other = _make(LABELS, labels_N=np.array(LABELS[::-1], dtype=np.int32))
    for changed in (other, _make(LABELS, dataset="svhn")):
        with pytest.raises(InvalidInput):
            predictions.require_same_images([_make(LABELS), changed])
