"""Analyses of a small network that was trained on the digits."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from service.specs.job_spec import JobSpec, parse_job_spec
from service.states import CheckpointPart, StopReason
from tests.workers.training.support import CPU, RecordingObserver, small_spec
from workers.training import trainer
from workers.training.analyses import run
from workers.training.analyses.analysed_network import NetworkFiles
from workers.training.analyses.run import AnalysisOutcome
from workers.training.device_context import DeviceContext
from workers.training.errors import DatasetUnusable

CONTEXT = DeviceContext(rank=0, world_size=1, device=CPU, threads=1)
RECIPE = {"validation_images": 200, "iterations": 12, "checkpoint_every": 12, "exports": []}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, trainer.Outcome]:
    """The file of the weights, and what the training attained."""
    path, observer = tmp_path_factory.mktemp("trained"), RecordingObserver()
    outcome = trainer.train(
        small_spec(RECIPE), context=CONTEXT, data_dir=path, work_dir=path, observer=observer
    )
    return observer.files[12][CheckpointPart.WEIGHTS], outcome


def _spec(analysis: dict[str, Any], **fields: Any) -> JobSpec:
    start = {"job": "0" * 16, "mode": "weights"}
    document = small_spec(RECIPE).model_dump(mode="json") | {"start_from": start}
    return parse_job_spec(document | {"analysis": analysis} | fields)


def _run(
    weights: Path,
    observer: RecordingObserver,
    *,
    analysis: dict[str, Any],
    **fields: Any,
) -> AnalysisOutcome:
    return run.run(
        _spec(analysis, **fields),
        context=CONTEXT,
        data_dir=weights.parent,
        observer=observer,
        weights=[weights],
    )


def test_an_evaluation_repeats_the_errors_of_the_training(
    trained: tuple[Path, trainer.Outcome],
) -> None:
    weights, attained = trained
    for split, error in (("test", attained.test_error), ("validation", attained.validation_error)):
        observer = RecordingObserver()
        outcome = _run(weights, observer, analysis={"kind": "evaluation", "split": split})
        result = outcome.result
        assert result is not None
        assert result.numbers[f"{split}_error"] == error
        images = {"test": 360, "validation": 200}[split]
        assert result.numbers["images"] == images
        [table] = result.tables
        wrong = sum(float(f"{count}") * float(f"{errors}") for _, count, errors in table.rows) / 100
        assert 100 * wrong / images == pytest.approx(error)
        assert (observer.progress[-1].iteration, observer.progress[-1].iterations) == (images,) * 2
        assert f"{images} {split} images of digits, views: none" in result.notes


def test_other_views_and_new_batch_statistics_change_the_error(
    trained: tuple[Path, trainer.Outcome],
) -> None:
    weights, attained = trained
    for changed in ({"test_time_augmentation": "hflip"}, {"bn_statistics": "precise"}):
        analysis = {"kind": "evaluation"} | changed
        first, second = (_run(weights, RecordingObserver(), analysis=analysis) for _ in range(2))
        assert first == second
        assert first.result is not None
        assert first.result.numbers["test_error"] != attained.test_error


def test_layer_responses_have_a_row_for_each_3x3_layer(
    trained: tuple[Path, trainer.Outcome],
) -> None:
    weights, _ = trained
    analysis = {"kind": "layer-responses", "images": 50}
    result = _run(weights, RecordingObserver(), analysis=analysis).result
    assert result is not None
    [table] = result.tables
    assert [row[0] for row in table.rows] == [1, 2, 3, 4, 5, 6, 7]
    assert result.notes == ["responses to 50 test images of digits"]


def test_a_stopped_analysis_has_no_result(trained: tuple[Path, trainer.Outcome]) -> None:
    weights, _ = trained
    observer = RecordingObserver(stop_at=1)
    outcome = _run(weights, observer, analysis={"kind": "evaluation"})
    assert (outcome.stopped, outcome.result) == (StopReason.CANCEL, None)


def test_images_of_other_classes_or_sizes_are_refused(
    trained: tuple[Path, trainer.Outcome],
) -> None:
    weights, _ = trained
    with pytest.raises(DatasetUnusable, match=r"must be 8x8, .* received 32x32"):
        _run(weights, RecordingObserver(), analysis={"kind": "evaluation"}, dataset="fake")


def test_further_networks_are_loaded_when_they_are_asked_for(
    trained: tuple[Path, trainer.Outcome],
) -> None:
    weights, _ = trained
    networks = NetworkFiles([weights, weights, weights.with_name("missing")], CPU)
    first, second = networks[:2]
    assert first is networks[0]
    assert (second.iteration, second.spec) == (first.iteration, first.spec)
    assert len(networks) == 3


def test_a_network_trained_on_crops_is_tested_by_ten_of_them_and_at_several_scales(
    image_folder: Path, tmp_path: Path
) -> None:
    recipe = RECIPE | {
        "crop": "random_resized_crop",
        "batch_size": 4,
        "iterations": 1,
        "evaluate_every": 1,
        "checkpoint_every": 1,
        "validation_images": 0,
    }
    training = small_spec(recipe, dataset=f"folder:{image_folder.name}", family="cifar")
    observer = RecordingObserver()
    trained = trainer.train(
        training,
        context=CONTEXT,
        data_dir=image_folder.parent,
        work_dir=tmp_path,
        observer=observer,
    )
    weights = observer.files[1][CheckpointPart.WEIGHTS]
    start = {"job": "0" * 16, "mode": "weights"}
    losses = {}
    for views in ("none", "ten_crop", "multi_scale"):
        analysis = {"kind": "evaluation", "test_time_augmentation": views}
        document = training.model_dump(mode="json") | {"start_from": start, "analysis": analysis}
        result = run.run(
            parse_job_spec(document),
            context=CONTEXT,
            data_dir=image_folder.parent,
            observer=RecordingObserver(),
            weights=[weights],
        ).result
        assert result is not None
        assert result.numbers["images"] == 6
        losses[views] = result.numbers["test_loss"]
        if views == "none":
            assert result.numbers["test_error"] == trained.test_error
    assert len(set(losses.values())) == 3, losses
    # As its own, in folders that are none of its classes.
    photos = tmp_path / "photos"
    shutil.copytree(image_folder / "val" / "robin", photos / "friday")
    shutil.copytree(image_folder / "train" / "wren", photos / "sunday")
    document = training.model_dump(mode="json") | {
        "start_from": start,
        "analysis": {"kind": "predictions"},
        "dataset": "folder:photos",
    }
    result = run.run(
        parse_job_spec(document),
        context=CONTEXT,
        data_dir=tmp_path,
        observer=RecordingObserver(),
        weights=[weights],
    ).result
    assert result is not None
    names = [f"friday/{number}.jpg" for number in range(3)]
    names += [f"sunday/{number}.jpg" for number in range(5)]
    assert [row[0] for row in result.tables[0].rows] == names
    assert {row[1] for row in result.tables[0].rows} <= {"robin", "wren"}
