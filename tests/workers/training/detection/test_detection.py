"""Faster R-CNN on a trained network: its parts, COCO's scores, and a short training."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from PIL import Image, ImageDraw
from torchvision.ops import FrozenBatchNorm2d

import workers.training.__main__ as command
from service.states import CheckpointPart
from tests.workers.training.support import CPU, run, small_spec
from workers.training.detection import coco_folder, detector
from workers.training.detection.training import (
    DetectionSettings,
    learning_rate_at,
    train_detector,
)
from workers.training.errors import DatasetMissing, DatasetUnusable, WeightsMismatch
from workers.training.observers import ignore_log

SIZE = 32
# Ids of categories have gaps, as COCO's.
CATEGORIES = {3: ("box", (220, 40, 40)), 8: ("disc", (40, 60, 220))}


def make_coco_folder(folder: Path, *, images: int) -> Path:
    """A red box and a blue disc on gray in each image, at places that differ."""
    for shift, split in ((0, "train2017"), (2, "val2017")):
        (folder / split).mkdir(parents=True)
        (folder / "annotations").mkdir(exist_ok=True)
        document: dict[str, Any] = {
            "images": [],
            "annotations": [],
            "categories": [{"id": key, "name": name} for key, (name, _) in CATEGORIES.items()],
        }
        for number in range(images):
            image = Image.new("RGB", (SIZE, SIZE), (128, 128, 128))
            draw = ImageDraw.Draw(image)
            for side, (key, (name, color)) in enumerate(CATEGORIES.items()):
                left = 16 * side + 1 + (number + shift) % 5
                top = 2 + (7 * number + 3 * shift + 13 * side) % 18
                shape = draw.rectangle if name == "box" else draw.ellipse
                shape((left, top, left + 9, top + 9), fill=color)
                annotation: dict[str, Any] = {"id": 2 * number + side + 1, "image_id": 10 + number}
                annotation |= {"category_id": key, "bbox": [left, top, 10, 10]}
                document["annotations"].append(annotation | {"area": 100, "iscrowd": 0})
            image.save(folder / split / f"{number}.png")
            document["images"].append(
                {"id": 10 + number, "file_name": f"{number}.png", "width": SIZE, "height": SIZE}
            )
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_coco_folder(tmp_path_factory.mktemp("coco"), images=2)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    _, observer = run(small_spec(), tmp_path_factory.mktemp("trained"))
    return observer.saved[-1].files[CheckpointPart.WEIGHTS]


def test_boxes_are_corners_and_labels_count_from_1(folder: Path) -> None:
    train, _ = coco_folder.open_splits(folder)
    assert train.class_names == ["box", "disc"]
    target = train.load_target(1)
    assert target["labels"].tolist() == [1, 2]
    assert target["boxes"].tolist() == [[2, 9, 12, 19], [18, 4, 28, 14]]
    image_CHW = train.load_image(1)
    assert image_CHW.shape == (3, SIZE, SIZE)
    assert image_CHW[:, 12, 5].tolist() == pytest.approx([220 / 255, 40 / 255, 40 / 255])


def test_scores_are_those_of_coco(folder: Path) -> None:
    _, test = coco_folder.open_splits(folder)
    targets = [test.load_target(index) for index in range(len(test))]
    right = [target | {"scores": torch.full((2,), 0.9)} for target in targets]
    assert test.score(right).ap == pytest.approx(1.0)
    # An overlap of 7/13 counts at 0.5 and not at 0.75.
    moved = [found | {"boxes": found["boxes"] + torch.tensor([3.0, 0, 3, 0])} for found in right]
    scores = test.score(moved)
    assert [scores.ap50, scores.ap75] == pytest.approx([1.0, 0.0])
    nothing = {name: tensor[:0] for name, tensor in right[0].items()}
    assert test.score([nothing] * len(test)).ap == 0.0


def test_the_backbone_has_the_trained_features_and_fixed_batch_norm(
    weights: Path, folder: Path
) -> None:
    built = detector.build_detector(weights, classes=2, min_size=SIZE, max_size=SIZE)
    body = built.backbone.body
    assert isinstance(body["bn1"], FrozenBatchNorm2d)
    assert not body["conv1"].weight.requires_grad
    assert not any(weight.requires_grad for weight in body["layer1"].parameters())
    assert body["layer2"][0].conv1.weight.requires_grad
    # A CIFAR network keeps the size of the image: finer anchors than those of ImageNet's stride 4.
    sizes = built.rpn.anchor_generator.sizes
    assert sizes == ((8,), (16,), (32,), (64,))
    _, network, _ = detector._load_network(weights)
    image_NCHW = coco_folder.open_splits(folder)[0].load_image(0)[None]
    with torch.no_grad():
        maps = body(image_NCHW)
        assert torch.allclose(maps["2"], network.eval().forward_features(image_NCHW), atol=1e-5)


def test_a_training_changes_what_is_not_fixed_and_scores_the_detector(
    weights: Path, folder: Path
) -> None:
    before = safetensors.torch.load_file(weights)
    settings = DetectionSettings(2, CPU, batch_size=1, min_size=SIZE, max_size=SIZE)
    trained, scores = train_detector(weights, folder, settings, ignore_log)
    after = trained.state_dict()
    changed = {
        name: not torch.equal(after[f"backbone.body.{name}"], before[name])
        for name in ("conv1.weight", "layer1.0.conv1.weight", "layer2.0.conv1.weight")
    }
    assert list(changed.values()) == [False, False, True]
    assert 0 <= scores.ap <= scores.ap50 <= 1


def test_the_learning_rate_rises_and_drops_twice() -> None:
    settings = DetectionSettings(90, CPU, batch_size=16)
    rates = [learning_rate_at(iteration, settings) for iteration in (0, 8, 59, 60, 80)]
    assert rates == pytest.approx([0.02 / 9, 0.02, 0.02, 0.002, 0.0002])


def test_other_files_and_folders_are_refused(weights: Path, tmp_path: Path) -> None:
    state = weights.with_name("state.safetensors")
    with pytest.raises(WeightsMismatch, match="is not a safetensors file of this service"):
        detector.build_detector(state, classes=2, min_size=SIZE, max_size=SIZE)
    with pytest.raises(DatasetMissing, match="has no instances_"):
        coco_folder.open_splits(tmp_path)
    (tmp_path / "annotations").mkdir()
    for text, message in (
        ("{}", "is not in COCO's format: 'categories'"),
        ("[", "is not in COCO's format"),
        ('{"images": [], "annotations": [], "categories": []}', "has no images or no categories"),
    ):
        (tmp_path / "annotations" / "instances_train.json").write_text(text)
        with pytest.raises(DatasetUnusable, match=message):
            coco_folder.open_splits(tmp_path)


def test_the_command_reports_an_error_in_one_sentence(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["detect", str(weights), str(tmp_path), "--iterations", "1"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "has no instances_*.json of a split named train" in line
