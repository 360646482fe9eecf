import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from service.specs.protocol import MetricPoint
from service.states import CheckpointPart
from tests.workers.training.support import Recorder, digests, run, small_spec
from workers.training import checkpoint, export

PATIENCE_SECONDS = 60.0


class Impatient(Recorder):
    """Waits for no file; opens the gate once it hears of iteration `opens_at`."""

    def __init__(self, opens_at: int) -> None:
        super().__init__()
        self.opens_at = opens_at
        self.gate = threading.Event()
        self.saved: list[Future[None]] = []

    def saving(self, saved: Future[None]) -> None:
        self.saved.append(saved)

    def metrics(self, points: list[MetricPoint]) -> None:
        super().metrics(points)
        if points[0].iteration == self.opens_at:
            self.gate.set()


def test_training_goes_on_while_a_checkpoint_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, patient = run(small_spec(), tmp_path / "patient")
    recorder = Impatient(opens_at=8)
    save = checkpoint.save

    def save_behind_the_gate(*arguments: Any, **options: Any) -> dict[CheckpointPart, Path]:
        assert recorder.gate.wait(PATIENCE_SECONDS)
        return save(*arguments, **options)

    monkeypatch.setattr(checkpoint, "save", save_behind_the_gate)
    run(small_spec(), tmp_path / "impatient", recorder=recorder)
    recorder.saved[-1].result(PATIENCE_SECONDS)
    for iteration in (6, 12):
        assert digests(recorder.files[iteration]) == digests(patient.files[iteration])


def test_the_training_is_over_before_its_network_is_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Impatient(opens_at=-1)
    write = export.write_exports

    def write_behind_the_gate(*arguments: Any, **options: Any) -> dict[CheckpointPart, Path]:
        assert recorder.gate.wait(PATIENCE_SECONDS)
        return write(*arguments, **options)

    monkeypatch.setattr(export, "write_exports", write_behind_the_gate)
    outcome, _ = run(small_spec(), tmp_path, recorder=recorder)
    assert outcome.iteration == 12
    assert 12 not in recorder.files
    recorder.gate.set()
    recorder.saved[-1].result(PATIENCE_SECONDS)
    assert CheckpointPart.CARD in recorder.files[12]


def test_a_checkpoint_that_cannot_be_written_ends_the_training_at_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save", fail)
    recorder = Impatient(opens_at=-1)
    with pytest.raises(OSError, match="No space left"):
        run(small_spec({"checkpoint_every": 4}), tmp_path, recorder=recorder)
    assert {point.iteration for point in recorder.points} == {4, 8}
