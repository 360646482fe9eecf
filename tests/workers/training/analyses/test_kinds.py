"""Each kind of analysis as a job runs it, of networks that were trained on the digits.

What the numbers mean is tested with the functions that compute them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from service.jobs import analysis_figure
from service.specs.analysis_result import AnalysisResult, Cell
from service.specs.job_spec import JobSpec, StartMode, parse_job_spec
from service.states import CheckpointPart
from service.storage.tables import JobRow
from tests.workers.training.support import CPU, RecordingObserver, small_spec
from tests.workers.training.support import run as train
from workers.training.analyses import layer_statistics, predictions, run
from workers.training.analyses.measuring import NotAnalysable
from workers.training.data import datasets
from workers.training.device_context import DeviceContext

CONTEXT = DeviceContext(rank=0, world_size=1, device=CPU, threads=1)
RECIPE = {"iterations": 6, "evaluate_every": 6, "checkpoint_every": 2, "exports": []}
ID = "0" * 16
OTHER = {"job": ID}


@dataclass(frozen=True)
class Trained:
    """A job of 14 layers, the files of its weights by iteration, and a deepened one's last."""

    spec: JobSpec
    weights: Mapping[int, Path]
    test_error: float
    deep_spec: JobSpec
    deep_weights: Path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    path = tmp_path_factory.mktemp("trained")
    spec = small_spec(RECIPE, depth=14)
    outcome, observer = train(spec, path / "shallow")
    start = {"job": ID, "mode": "deepen"}
    deep_spec = small_spec(RECIPE | {"iterations": 2}, depth=20, start_from=start)
    _, deep = train(deep_spec, path / "deep", resume=observer.files[6], start_mode=StartMode.DEEPEN)
    assert outcome.test_error is not None
    return Trained(
        spec,
        {at: files[CheckpointPart.WEIGHTS] for at, files in observer.files.items()},
        outcome.test_error,
        deep_spec,
        deep.files[2][CheckpointPart.WEIGHTS],
    )


def analyse(spec: JobSpec, weights: Sequence[Path], **analysis: Any) -> AnalysisResult:
    """The result, which the figure of its kind can be drawn from."""
    start = {"job": ID, "mode": "weights"}
    document = spec.model_dump(mode="json") | {"start_from": start, "analysis": analysis}
    job_spec, observer = parse_job_spec(document), RecordingObserver()
    outcome = run.run(
        job_spec, context=CONTEXT, data_dir=weights[0].parent, observer=observer, weights=weights
    )
    assert outcome.result is not None
    assert observer.progress[-1].iteration == observer.progress[-1].iterations
    job = JobRow(
        kind=job_spec.kind,
        dataset=job_spec.dataset,
        spec=job_spec.model_dump(mode="json"),
        source_iteration=6,
    )
    assert b"resnet" in analysis_figure.draw(job, outcome.result, "svg")
    return outcome.result


def rows_of(result: AnalysisResult, name: str) -> list[dict[str, Cell]]:
    (table,) = (table for table in result.tables if table.name == name)
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def test_predictions(trained: Trained) -> None:
    result = analyse(trained.spec, [trained.weights[6]], kind="predictions", split="test")
    images = rows_of(result, "images")
    assert [row["image"] for row in images[:2]] == ["test/00000", "test/00001"]
    labels = datasets.read_images(
        "digits", trained.weights[6].parent, stem=trained.spec.stem
    ).test.labels_N
    predicted = [int(str(row["class_name"])) for row in images]
    wrong = sum(a != b for a, b in zip(predicted, labels.tolist(), strict=True))
    assert 100 * wrong / len(labels) == pytest.approx(trained.test_error)
    assert all(0.1 <= float(row["probability"] or 0) <= 1 for row in images)
    counted = {row["class_name"]: row["images"] for row in rows_of(result, "classes")}
    assert counted == {str(digit): predicted.count(digit) for digit in range(10)}


def test_more_predictions_than_a_result_has_room_for_are_refused(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictions, "MAX_CELLS", 1_000)
    with pytest.raises(NotAnalysable, match="which has at most 245; upload them as several"):
        analyse(trained.spec, [trained.weights[6]], kind="predictions")


def test_lesions(trained: Trained) -> None:
    result = analyse(
        trained.spec,
        [trained.weights[6]],
        kind="lesion",
        images=40,
        max_deleted=2,
        max_pairs=2,
        samples=1,
    )
    expected = "errors on 40 of 360 test images of digits, drawn with seed 0, not augmented"
    assert result.notes[0] == expected
    dropped = rows_of(result, "dropped")
    assert [row["part"] for row in dropped] == [
        f"layer{stage}.{index}" for stage in (1, 2, 3) for index in (0, 1)
    ]
    errors = [float(row["error"] or 0) for row in dropped]
    assert result.numbers["max_error_of_one_dropped"] == max(errors)
    assert len(rows_of(result, "repeated")) == 4
    assert [row["parts"] for row in rows_of(result, "deleted")] == [1, 2]
    swapped = rows_of(result, "swapped")
    assert [row["pairs"] for row in swapped] == [1, 2]
    # The two blocks of stage 1 are the only pair.
    assert swapped[0]["kendall_tau"] == pytest.approx(1 - 2 / 15)
    assert swapped[1]["kendall_tau"] == 1.0
    assert swapped[1]["error"] == result.numbers["error"]


def test_path_gradients(trained: Trained) -> None:
    analysis = {"kind": "path-gradients", "images": 20}
    result = analyse(trained.spec, [trained.weights[6]], **analysis)
    assert result == analyse(trained.spec, [trained.weights[6]], **analysis)
    assert result.notes[0].startswith("gradients for 20 of 1,437 training images of digits, drawn")
    lengths = rows_of(result, "lengths")
    assert [row["length"] for row in lengths] == list(range(7))
    for column in ("share_of_paths", "share_of_gradient"):
        assert sum(float(row[column] or 0) for row in lengths) == pytest.approx(1.0)
    assert result.numbers["mean_length"] == pytest.approx(3.0)


@pytest.mark.parametrize("dimensions", [1, 2])
def test_loss_landscapes(trained: Trained, dimensions: int) -> None:
    result = analyse(
        trained.spec,
        [trained.weights[6]],
        kind="loss-landscape",
        images=30,
        steps=3,
        dimensions=dimensions,
    )
    rows = rows_of(result, "surface")
    points = [(row["x"], row["y"]) for row in rows]
    line = [-1.0, 0.0, 1.0]
    assert points == [(x, y) for y in (line if dimensions == 2 else [0.0]) for x in line]
    assert rows[points.index((0.0, 0.0))]["loss"] == result.numbers["loss"]
    assert len({row["loss"] for row in rows}) == len(rows)


def test_interpolations(trained: Trained) -> None:
    result = analyse(
        trained.spec,
        [trained.weights[6], trained.weights[2]],
        kind="interpolation",
        others=[OTHER],
        images=30,
        steps=5,
    )
    line = {row["x"]: row["loss"] for row in rows_of(result, "line")}
    assert list(line) == [-0.5, 0.0, 0.5, 1.0, 1.5]
    for x in (0, 1):
        assert line[x] == pytest.approx(result.numbers[f"loss_at_{x}"])
    middle = (float(line[0.0] or 0) + float(line[1.0] or 0)) / 2
    assert result.numbers["barrier"] == pytest.approx(max(0, float(line[0.5] or 0) - middle))


def test_checkpoints_of_different_networks_are_not_compared(trained: Trained) -> None:
    shallow, deep = trained.weights[6], trained.deep_weights
    with pytest.raises(NotAnalysable, match="received resnet-14-A and resnet-20-A"):
        analyse(trained.spec, [shallow, deep], kind="interpolation", others=[OTHER])
    with pytest.raises(NotAnalysable, match="received resnet-14-A, resnet-20-A"):
        analyse(trained.spec, [shallow, shallow, deep], kind="trajectory", others=[OTHER])


def test_ensembles(trained: Trained) -> None:
    first = trained.weights[6]
    result = analyse(trained.spec, [first, first], kind="ensemble", others=[OTHER])
    assert result.numbers["test_error"] == pytest.approx(trained.test_error), "of one network twice"

    files = [first, trained.weights[4], trained.deep_weights]
    result = analyse(trained.spec, files, kind="ensemble", others=[OTHER, OTHER])
    rows = rows_of(result, "networks")
    assert [row["network"] for row in rows] == ["resnet-14-A", "resnet-14-A", "resnet-20-A"]
    assert [row["iteration"] for row in rows] == [6, 4, 2]
    assert rows[0]["error"] == pytest.approx(trained.test_error)
    errors = [float(row["error"] or 0) for row in rows]
    assert result.numbers["mean_error_of_networks"] == pytest.approx(sum(errors) / 3)
    assert result.numbers["test_error"] not in errors
    assert result.notes[1] == "mean of the probabilities of 3 networks"


def test_networks_of_other_normalization_are_no_ensemble(trained: Trained, tmp_path: Path) -> None:
    recipe = RECIPE | {"iterations": 1, "validation_images": 100}
    _, observer = train(small_spec(recipe, depth=8), tmp_path)
    other = observer.files[1][CheckpointPart.WEIGHTS]
    with pytest.raises(NotAnalysable, match="not trained on images normalized alike"):
        analyse(trained.spec, [trained.weights[6], other], kind="ensemble", others=[OTHER])


def test_trajectories_and_layer_statistics(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    iterations = [2, 4, 6]
    files = [trained.weights[at] for at in (6, *iterations)]
    result = analyse(trained.spec, files, kind="trajectory", images=30, steps=3)
    path = rows_of(result, "path")
    assert [row["iteration"] for row in path] == iterations
    assert (path[-1]["x"], path[-1]["y"]) == pytest.approx((0.0, 0.0), abs=1e-6)
    assert len(rows_of(result, "surface")) == 9
    explained = [float(result.numbers[f"explained_by_{axis}"] or 0) for axis in "xy"]
    assert sum(explained) == pytest.approx(1.0), "three points are in a plane"

    result = analyse(trained.spec, files, kind="layer-statistics", images=60)
    weights, norms = rows_of(result, "weights"), rows_of(result, "batch_norm")
    assert [row["iteration"] for row in weights] == [at for at in iterations for _ in range(14)]
    assert [row["layer"] for row in norms] == list(range(1, 14)) * 3
    assert "each 48 are normalized with their own statistics" in result.notes
    assert result.notes[0] == "3 of 3 checkpoints"

    monkeypatch.setattr(layer_statistics, "MAX_CELLS", 2 * (14 * 5 + 13 * 7) + 1)
    result = analyse(trained.spec, files, kind="layer-statistics", images=60)
    assert {row["iteration"] for row in rows_of(result, "weights")} == {2, 6}
    assert result.notes[0] == "2 of 3 checkpoints"


def test_deepened_twins(trained: Trained) -> None:
    result = analyse(
        trained.spec, [trained.weights[6]], kind="deepened-twin", depth=20, images=None
    )
    assert result.numbers["max_logit_difference"] == pytest.approx(0.0, abs=1e-5)
    assert result.numbers["error_of_shallow"] == pytest.approx(trained.test_error)

    files = [trained.deep_weights, trained.weights[6]]
    result = analyse(trained.deep_spec, files, kind="deepened-twin", others=[OTHER])
    shallow, before, after = rows_of(result, "networks")
    assert before["max_logit_difference"] == pytest.approx(0.0, abs=1e-5)
    assert (before["error"], before["agreement"]) == (shallow["error"], 100.0)
    assert float(after["max_logit_difference"] or 0) > 0.01
