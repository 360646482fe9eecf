import base64
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
import torchvision

from service.specs.job_spec import JobSpec
from service.states import CheckpointPart
from tests.workers.training.support import small_spec
from workers.training import checkpoint
from workers.training.checkpoint import Checkpoint, TrainProgress, weights_sha256
from workers.training.data.augmentation import Normalizer
from workers.training.errors import CheckpointWriteError
from workers.training.models import convert, resnet

CURSOR = TrainProgress(iteration=7, is_warm=True, drops=2, training_seconds=1.5, curve=((4, 12.5),))


def make_checkpoint(job: JobSpec) -> Checkpoint:
    network = resnet.build_network(job, 10).to(memory_format=torch.channels_last)
    return Checkpoint(
        cursor=CURSOR,
        weights=network.state_dict(),
        momentum={name: torch.rand_like(each) for name, each in network.named_parameters()},
        sums_RWS=torch.rand(2, 2, 3, dtype=torch.float64),
    )


def save(saved: Checkpoint, folder: Path) -> dict[CheckpointPart, Path]:
    mean_HWC = torch.arange(8 * 8 * 3, dtype=torch.float32).view(8, 8, 3)
    normaliser = Normalizer(mean_HWC, torch.full((3,), 255.0))
    return checkpoint.save(saved, folder, spec=small_spec(), classes=10, normaliser=normaliser)


def test_a_checkpoint_is_loaded_as_it_was_saved(tmp_path: Path) -> None:
    saved = make_checkpoint(small_spec())
    loaded = checkpoint.load(save(saved, tmp_path / "00000007"), spec=small_spec())
    assert loaded.cursor == saved.cursor
    assert weights_sha256(loaded.weights) == weights_sha256(saved.weights)
    assert weights_sha256(loaded.momentum) == weights_sha256(saved.momentum)
    assert torch.equal(loaded.sums_RWS, saved.sums_RWS)


def test_weights_say_how_to_build_and_feed_their_network(tmp_path: Path) -> None:
    files = save(make_checkpoint(small_spec()), tmp_path / "00000007")
    with safetensors.safe_open(files[CheckpointPart.WEIGHTS], framework="pt") as file:
        told = file.metadata()
    architecture = checkpoint.architecture_of(told)
    assert architecture == small_spec().architecture
    network = resnet.create_network(architecture, classes=int(told["classes"]))
    network.load_state_dict(safetensors.torch.load_file(files[CheckpointPart.WEIGHTS]), strict=True)
    mean = np.frombuffer(base64.b64decode(told["mean_image"]), dtype="<f4")
    assert mean.reshape(json.loads(told["mean_image_shape"]))[7, 7, 2] == 191
    assert JobSpec.model_validate_json(told["spec"]) == small_spec()
    assert (told["network"], told["iteration"]) == ("resnet-8-A", "7")


@pytest.mark.parametrize("part", [CheckpointPart.WEIGHTS, CheckpointPart.PT])
@torch.no_grad()
def test_torchvision_refuses_weights_that_it_would_misread(
    tmp_path: Path, part: CheckpointPart
) -> None:
    job = small_spec(dataset="folder:photographs", depth=50, shortcut="B")
    network = resnet.build_network(job, 10).eval()
    saved = Checkpoint(CURSOR, network.state_dict(), {}, torch.zeros(1, 2, 3))
    normaliser = Normalizer(torch.zeros(2, 2, 3), torch.ones(3))
    files = checkpoint.save(saved, tmp_path / "7", spec=job, classes=10, normaliser=normaliser)

    path = tmp_path / f"weights{'.pt' if part is CheckpointPart.PT else '.safetensors'}"
    files[part].rename(path)
    theirs = torchvision.models.resnet50(num_classes=10)
    with pytest.raises(RuntimeError, match="stride_is_in_the_first_1x1"):
        theirs.load_state_dict(
            torch.load(path, weights_only=True)
            if part is CheckpointPart.PT
            else safetensors.torch.load_file(path)
        )
    architecture, converted = convert.load(path)
    assert architecture == job.architecture
    images_NCHW = torch.randn(2, 3, 64, 64)
    assert torch.equal(converted(images_NCHW), network(images_NCHW))


def test_pt_holds_the_same_weights_and_no_code(tmp_path: Path) -> None:
    files = save(make_checkpoint(small_spec()), tmp_path / "00000007")
    assert weights_sha256(
        torch.load(files[CheckpointPart.PT], weights_only=True)
    ) == weights_sha256(safetensors.torch.load_file(files[CheckpointPart.WEIGHTS]))


def test_digests_are_those_of_the_bytes(tmp_path: Path) -> None:
    files = save(make_checkpoint(small_spec()), tmp_path / "00000007")
    for digest in checkpoint.digest(files):
        content = files[digest.part].read_bytes()
        assert digest.sha256 == hashlib.sha256(content).hexdigest()
        assert digest.size_bytes == len(content)


def test_a_checkpoint_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    save(make_checkpoint(small_spec()), tmp_path / "00000007")
    second = make_checkpoint(small_spec(seed=0))
    files = save(second, tmp_path / "00000007")
    assert torch.equal(checkpoint.load(files, spec=small_spec()).sums_RWS, second.sums_RWS)
    assert [entry.name for entry in tmp_path.iterdir()] == ["00000007"]


def test_a_failure_while_writing_leaves_the_earlier_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = save(make_checkpoint(small_spec()), tmp_path / "00000007")
    before = checkpoint.digest(files)

    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(CheckpointWriteError, match="no space left"):
        save(make_checkpoint(small_spec()), tmp_path / "00000007")
    assert checkpoint.digest(files) == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["00000007"]


def test_the_newest_checkpoint_is_the_one_that_came_furthest(tmp_path: Path) -> None:
    assert checkpoint.find_newest(tmp_path) is None
    for iteration in (900, 1000):
        save(make_checkpoint(small_spec()), tmp_path / f"{iteration:08d}")
    found = checkpoint.find_newest(tmp_path)
    assert found is not None
    assert {path.parent.name for path in found.values()} == {"00001000"}


def test_the_digest_of_weights_knows_names_and_values_but_not_their_order() -> None:
    one, two = torch.ones(2, 3), torch.zeros(2)
    digest = weights_sha256({"a": one, "b": two})
    assert weights_sha256({"b": two, "a": one}) == digest
    assert weights_sha256({"a": one.t().contiguous().t(), "b": two}) == digest
    assert weights_sha256({"b": one, "a": two}) != digest
    assert weights_sha256({"a": one.view(3, 2), "b": two}) != digest
    assert weights_sha256({"a": one, "b": -two}) != digest  # -0.0 has other bits
