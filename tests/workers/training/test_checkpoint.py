import base64
import json
import os
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
import torchvision

from service.catalog.architectures import Architecture
from service.specs.job_spec import JobSpec
from service.states import CheckpointPart
from tests.workers.training.support import CPU, RecordingObserver, small_spec
from workers.training import checkpoint
from workers.training.checkpoint import AsyncCheckpointWriter, Checkpoint, weights_sha256
from workers.training.data.normalization import Normalizer
from workers.training.errors import CheckpointMismatch, CheckpointWriteError
from workers.training.models import convert, resnet
from workers.training.train_state import TrainState

STATE = TrainState(
    iteration=7,
    warmup_done=True,
    learning_rate=0.01,
    lr_drops=2,
    training_seconds=1.5,
    error_curve=((4, 12.5),),
)
MEAN_HWC = torch.arange(8 * 8 * 3, dtype=torch.float32).view(8, 8, 3)
CLASSES = list("0123456789")
NORMALIZER = Normalizer(MEAN_HWC, torch.full((3,), 255.0))


def make_checkpoint(spec: JobSpec, state: TrainState = STATE) -> Checkpoint:
    model = resnet.build_network(spec, 10).to(memory_format=torch.channels_last)
    return Checkpoint(
        state=state,
        weights=model.state_dict(),
        momentum={name: torch.rand_like(param) for name, param in model.named_parameters()},
        sums_RWS=torch.rand(2, 2, 3, dtype=torch.float64),
    )


def save(saved: Checkpoint, directory: Path) -> dict[CheckpointPart, Path]:
    return checkpoint.save(
        saved, directory, spec=small_spec(), class_names=CLASSES, normalizer=NORMALIZER
    )


def test_a_loaded_checkpoint_equals_the_saved_one(tmp_path: Path) -> None:
    saved = make_checkpoint(small_spec())
    loaded = checkpoint.load(save(saved, tmp_path / "00000007"), spec=small_spec())
    assert loaded.state == saved.state
    assert weights_sha256(loaded.weights) == weights_sha256(saved.weights)
    assert weights_sha256(loaded.momentum) == weights_sha256(saved.momentum)
    assert torch.equal(loaded.sums_RWS, saved.sums_RWS)


def test_a_checkpoint_of_another_run_is_rejected(tmp_path: Path) -> None:
    files = save(make_checkpoint(small_spec()), tmp_path / "00000007")
    with pytest.raises(CheckpointMismatch, match="belongs to another run"):
        checkpoint.load(files, spec=small_spec(seed=1))


def test_the_metadata_of_weights_suffices_to_build_and_feed_the_network(tmp_path: Path) -> None:
    files = save(make_checkpoint(small_spec()), tmp_path / "00000007")
    with safetensors.safe_open(files[CheckpointPart.WEIGHTS], framework="pt") as file:
        metadata = file.metadata()
    architecture = Architecture.from_metadata(metadata)
    assert architecture == small_spec().architecture
    network = resnet.create_network(architecture, classes=int(metadata["classes"]))
    network.load_state_dict(safetensors.torch.load_file(files[CheckpointPart.WEIGHTS]), strict=True)
    mean = np.frombuffer(base64.b64decode(metadata["mean_image"]), dtype="<f4")
    assert mean.reshape(json.loads(metadata["mean_image_shape"]))[7, 7, 2] == 191
    assert json.loads(metadata["std"]) == [255.0] * 3
    assert json.loads(metadata["class_names"]) == CLASSES
    assert JobSpec.model_validate_json(metadata["spec"]) == small_spec()
    assert (metadata["network"], metadata["iteration"]) == ("resnet-8-A", "7")


@torch.no_grad()
def test_torchvision_rejects_weights_that_it_would_misread(tmp_path: Path) -> None:
    spec = small_spec(dataset="folder:photos", depth=50, shortcut="B")
    network = resnet.build_network(spec, 10).eval()
    saved = Checkpoint(STATE, network.state_dict(), {}, torch.zeros(1, 2, 3))
    files = checkpoint.save(
        saved, tmp_path / "7", spec=spec, class_names=CLASSES, normalizer=NORMALIZER
    )
    path = files[CheckpointPart.WEIGHTS]
    with pytest.raises(RuntimeError, match="stride_is_in_the_first_1x1"):
        torchvision.models.resnet50(num_classes=10).load_state_dict(
            safetensors.torch.load_file(path)
        )
    architecture, converted = convert.load_network(path)
    assert architecture == spec.architecture
    images_NCHW = torch.randn(2, 3, 64, 64)
    assert torch.equal(converted(images_NCHW), network(images_NCHW))


def test_a_checkpoint_replaces_an_earlier_one_of_the_same_iteration(tmp_path: Path) -> None:
    save(make_checkpoint(small_spec()), tmp_path / "00000007")
    second = make_checkpoint(small_spec(seed=0))
    files = save(second, tmp_path / "00000007")
    assert torch.equal(checkpoint.load(files, spec=small_spec()).sums_RWS, second.sums_RWS)
    assert [entry.name for entry in tmp_path.iterdir()] == ["00000007"]


def test_a_failed_write_keeps_the_earlier_checkpoint_and_leaves_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make_checkpoint(small_spec())
    files = save(first, tmp_path / "00000007")

    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(CheckpointWriteError, match="no space left"):
        save(make_checkpoint(small_spec()), tmp_path / "00000007")
    assert torch.equal(checkpoint.load(files, spec=small_spec()).sums_RWS, first.sums_RWS)
    assert [entry.name for entry in tmp_path.iterdir()] == ["00000007"]


def test_the_newest_checkpoint_is_the_one_with_the_most_iterations(tmp_path: Path) -> None:
    assert checkpoint.find_newest(tmp_path) is None
    for iteration in (900, 1000):
        save(make_checkpoint(small_spec()), tmp_path / f"{iteration:08d}")
    found = checkpoint.find_newest(tmp_path)
    assert found is not None
    assert {path.parent.name for path in found.values()} == {"00001000"}


def test_the_digest_of_weights_depends_on_names_and_values_but_not_on_order_or_layout() -> None:
    ones, zeros = torch.ones(2, 3), torch.zeros(2)
    digest = weights_sha256({"a": ones, "b": zeros})
    assert weights_sha256({"b": zeros, "a": ones}) == digest
    assert weights_sha256({"a": ones.t().contiguous().t(), "b": zeros}) == digest
    assert weights_sha256({"b": ones, "a": zeros}) != digest
    assert weights_sha256({"a": ones.view(3, 2), "b": zeros}) != digest
    assert weights_sha256({"a": ones, "b": -zeros}) != digest  # -0.0 has other bits


class DeferringObserver(RecordingObserver):
    """Does not wait for checkpoints while they are written."""

    def on_checkpoint_pending(self, written: Any) -> None:
        self.pending = written


@pytest.fixture
def observer() -> DeferringObserver:
    return DeferringObserver()


@pytest.fixture
def writer(observer: DeferringObserver, tmp_path: Path) -> Iterator[AsyncCheckpointWriter]:
    made = AsyncCheckpointWriter(
        observer, tmp_path / "work", small_spec(), class_names=CLASSES, normalizer=NORMALIZER
    )
    with closing(made):
        yield made


def test_training_continues_while_a_checkpoint_is_exported(
    writer: AsyncCheckpointWriter, observer: DeferringObserver
) -> None:
    may_export = threading.Event()

    def export(directory: Path) -> dict[CheckpointPart, Path]:
        may_export.wait()
        path = directory / "card.md"
        path.write_text("done")
        return {CheckpointPart.CARD: path}

    writer.write(
        make_checkpoint(small_spec()),
        test_error=12.5,
        selection_error=None,
        is_last=True,
        exporter=export,
    )
    assert observer.saved == [], "write() returned before the checkpoint was complete"
    may_export.set()
    writer.wait()
    (saved,) = observer.saved
    assert (saved.iteration, saved.test_error) == (7, 12.5)
    assert saved.files[CheckpointPart.CARD].read_text() == "done"
    assert observer.pending.done()


def test_only_the_last_checkpoint_must_be_writable(
    writer: AsyncCheckpointWriter, observer: DeferringObserver, tmp_path: Path
) -> None:
    (tmp_path / "work").write_text("a file where the directory should be")
    writer.write(make_checkpoint(small_spec()), test_error=None, selection_error=None)
    writer.wait()
    assert len(observer.lines) == 1
    assert "checkpoint 00000007 cannot be written" in observer.lines[0]
    writer.write(make_checkpoint(small_spec()), test_error=None, selection_error=None, is_last=True)
    with pytest.raises(CheckpointWriteError):
        writer.wait()
    assert observer.saved == []


def test_copies_do_not_change_with_the_network() -> None:
    model = resnet.build_network(small_spec(), 10)
    copied = Checkpoint(
        STATE, model.state_dict(), dict(model.named_parameters()), torch.zeros(1, 2, 3)
    ).copy_to_cpu()
    before = weights_sha256(copied.weights), weights_sha256(copied.momentum)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert (weights_sha256(copied.weights), weights_sha256(copied.momentum)) == before
    assert {tensor.device for tensor in copied.weights.values()} == {CPU}
