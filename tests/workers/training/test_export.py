import re
from pathlib import Path

import pytest
import torch

from service.catalog import model_stats
from service.states import CheckpointPart
from tests.workers.training.support import run, small_spec
from workers.training import checkpoint, export
from workers.training.models import resnet

CURVE = re.compile(r"\| \d+ \| [\d.]+ % \|")


def test_a_finished_training_leaves_a_card_and_an_unfinished_one_does_not(tmp_path: Path) -> None:
    _, recorder = run(small_spec(), tmp_path)
    assert set(recorder.files[6]) == set(checkpoint.FILE_NAMES)
    card = recorder.files[12][CheckpointPart.CARD].read_text()
    assert "# resnet-8-A on digits" in card
    assert "| parameters | 75,290 |" in card
    counted = model_stats.compute_model_stats(
        small_spec().architecture, classes=10, height=8, width=8
    )
    assert f"| multiply-adds of one image | {counted.multiply_adds:,} (8x8) |" in card
    assert "| 12 | " in card
    assert '"seed": 0' in card
    digests = {each.part for each in recorder.notes[-1].parts}
    assert digests == set(recorder.files[12])


def test_the_card_of_a_resumed_run_has_its_whole_curve(tmp_path: Path) -> None:
    _, whole = run(small_spec(), tmp_path / "whole")
    _, resumed = run(small_spec(), tmp_path / "resumed", resume=whole.files[6])
    curves = [
        [
            line
            for line in files[12][CheckpointPart.CARD].read_text().splitlines()
            if CURVE.fullmatch(line)
        ]
        for files in (whole.files, resumed.files)
    ]
    assert len(curves[0]) == 3
    assert curves[1] == curves[0]


@pytest.mark.slow
def test_exported_networks_compute_the_same_logits(tmp_path: Path) -> None:
    import onnx  # noqa: PLC0415 - costs a second, and a slow test alone needs it
    import onnxruntime  # noqa: PLC0415

    _, recorder = run(small_spec({"exports": ["onnx", "pt2"]}), tmp_path)
    files = recorder.files[12]
    model = resnet.build_network(small_spec(), 10)
    model.load_state_dict(torch.load(files[CheckpointPart.PT], weights_only=True))
    images_NCHW = torch.randn(3, 3, 8, 8)  # another number of images than it was exported with
    with torch.no_grad():
        logits_NK = model.eval()(images_NCHW)
        program = torch.export.load(files[CheckpointPart.PROGRAM]).module()
        assert torch.allclose(program(images_NCHW), logits_NK, atol=1e-4)
    session = onnxruntime.InferenceSession(files[CheckpointPart.ONNX])
    name = session.get_inputs()[0].name
    (theirs,) = session.run(None, {name: images_NCHW.numpy()})
    assert torch.allclose(torch.from_numpy(theirs), logits_NK, atol=1e-4)
    told = {each.key: each.value for each in onnx.load(files[CheckpointPart.ONNX]).metadata_props}
    assert 0 <= float(told["max_abs_logit_difference"]) < export.TOLERANCE
    assert "| largest difference of a logit, model.onnx |" in files[CheckpointPart.CARD].read_text()


@pytest.mark.slow
def test_an_export_that_computes_something_else_is_not_handed_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(export._WRITERS, CheckpointPart.PROGRAM, lambda *_: 1.0)
    _, recorder = run(small_spec({"exports": ["pt2"]}), tmp_path)
    assert CheckpointPart.PROGRAM not in recorder.files[12]
    assert "model.pt2 | 1.00e+00 |" in recorder.files[12][CheckpointPart.CARD].read_text()


def test_an_exporter_that_fails_does_not_undo_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("an operator that nobody knows")

    monkeypatch.setattr(torch.export, "export", fail)
    outcome, recorder = run(small_spec({"exports": ["onnx"]}), tmp_path)
    assert outcome.stopped is None
    assert CheckpointPart.ONNX not in recorder.files[12]
    card = recorder.files[12][CheckpointPart.CARD].read_text()
    assert "model.onnx | not exported: RuntimeError |" in card
