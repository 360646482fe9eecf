import json
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torchvision
from PIL import Image

from service.catalog import model_stats
from service.states import CheckpointPart
from tests.workers.training import support
from tests.workers.training.support import small_spec
from workers.training import checkpoint, export
from workers.training.checkpoint import weights_sha256
from workers.training.data.normalization import Normalizer
from workers.training.models import convert, resnet
from workers.training.observers import RunEnvironment
from workers.training.train_state import TrainState

CURVE_ROW = re.compile(r"\| \d+ \| [\d.]+ % \|")


def test_only_a_finished_run_leaves_pt_weights_and_a_card(tmp_path: Path) -> None:
    _, observer = support.run(small_spec(), tmp_path)
    assert set(observer.files[6]) == set(checkpoint.FILE_NAMES)
    files = observer.files[12]
    at_the_end = {CheckpointPart.PT, CheckpointPart.CARD, CheckpointPart.PREDICTIONS}
    assert set(files) == {*checkpoint.FILE_NAMES, *at_the_end}
    pt = torch.load(files[CheckpointPart.PT], weights_only=True)
    assert weights_sha256(pt) == weights_sha256(
        safetensors.torch.load_file(files[CheckpointPart.WEIGHTS])
    )
    card = files[CheckpointPart.CARD].read_text()
    assert "# resnet-8-A on digits" in card
    assert "| parameters | 75,290 |" in card
    stats = model_stats.compute_model_stats(
        small_spec().architecture, classes=10, height=8, width=8
    )
    assert f"| multiply-adds per image | {stats.multiply_adds:,} (8x8) |" in card
    assert "| 12 | " in card
    assert '"seed": 0' in card


def test_the_card_of_a_resumed_run_has_the_complete_error_curve(tmp_path: Path) -> None:
    _, uninterrupted = support.run(small_spec(), tmp_path / "uninterrupted")
    _, resumed = support.run(small_spec(), tmp_path / "resumed", resume=uninterrupted.files[6])
    curves = [
        [
            line
            for line in files[12][CheckpointPart.CARD].read_text().splitlines()
            if CURVE_ROW.fullmatch(line)
        ]
        for files in (uninterrupted.files, resumed.files)
    ]
    assert len(curves[0]) == 3
    assert curves[1] == curves[0]


@torch.no_grad()
def test_torchvision_rejects_pt_weights_that_it_would_misread(tmp_path: Path) -> None:
    spec = small_spec(dataset="folder:photos", depth=50, shortcut="B")
    assert spec.recipe.exports == ()
    model = resnet.build_network(spec, 10).eval()
    environment = RunEnvironment(
        parameters=1,
        classes=10,
        train_images=1,
        test_images=1,
        device="CPU",
        num_workers=1,
        host="host",
        pids=[1],
        versions={},
        numerics={},
    )
    images_NCHW = torch.randn(2, 3, 64, 64)
    normalizer = Normalizer(torch.zeros(224, 224, 3), torch.full((3,), 255.0))
    run = export.FinishedRun(spec, environment, TrainState(), list("0123456789"), normalizer)
    files = export.write_exports(model, images_NCHW, run, tmp_path)
    path = files[CheckpointPart.PT]
    with pytest.raises(RuntimeError, match="stride_is_in_the_first_1x1"):
        torchvision.models.resnet50(num_classes=10).load_state_dict(
            torch.load(path, weights_only=True)
        )
    _, converted = convert.load_network(path)
    assert torch.equal(converted(images_NCHW), model(images_NCHW))


@pytest.mark.slow
def test_exported_networks_compute_the_same_logits(tmp_path: Path) -> None:
    import onnx  # noqa: PLC0415 - takes a second, and only this slow test needs it
    import onnxruntime  # noqa: PLC0415

    _, observer = support.run(small_spec({"exports": ["onnx", "pt2"]}), tmp_path)
    files = observer.files[12]
    model = resnet.build_network(small_spec(), 10)
    model.load_state_dict(torch.load(files[CheckpointPart.PT], weights_only=True))
    images_NCHW = torch.randn(3, 3, 8, 8)  # another batch size than it was exported with
    with torch.no_grad():
        logits_NK = model.eval()(images_NCHW)
        program = torch.export.load(files[CheckpointPart.PROGRAM]).module()
        assert torch.allclose(program(images_NCHW), logits_NK, atol=1e-4)
    session = onnxruntime.InferenceSession(files[CheckpointPart.ONNX])
    (model_input,), (model_output,) = session.get_inputs(), session.get_outputs()
    assert (model_input.name, model_input.shape) == ("images", ["batch", 3, 8, 8])
    assert (model_output.name, model_output.shape) == ("logits", ["batch", 10])
    (theirs,) = session.run(None, {"images": images_NCHW.numpy()})
    assert torch.allclose(torch.from_numpy(theirs), logits_NK, atol=1e-4)
    properties = onnx.load(files[CheckpointPart.ONNX]).metadata_props
    metadata = {entry.key: entry.value for entry in properties}
    assert 0 <= float(metadata["max_abs_logit_difference"]) < export.MAX_LOGIT_DIFFERENCE
    assert json.loads(metadata["class_names"]) == list("0123456789")
    extra = {"class_names": ""}
    torch.export.load(files[CheckpointPart.PROGRAM], extra_files=extra)
    assert json.loads(extra["class_names"]) == list("0123456789")
    assert "| largest difference of a logit, model.onnx |" in files[CheckpointPart.CARD].read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        {"shortcut_form": "exclusive-gating", "activation_order": "full-preactivation"},
        {"shortcut_form": "dropout", "activation_order": "relu-only-preactivation"},
        {"shortcut_form": "constant-scaling", "activation_order": "bn-after-addition"},
        {"survival": 0.5, "activation_order": "relu-before-addition", "shortcut": "B"},
    ],
    ids=str,
)
def test_every_variant_of_the_second_paper_is_exported(
    tmp_path: Path, fields: dict[str, Any]
) -> None:
    """With logits that are equal to those of the network: else the files are withheld."""
    recipe = {"iterations": 2, "exports": ["onnx", "pt2"]}
    _, observer = support.run(small_spec(recipe, **fields), tmp_path)
    assert {CheckpointPart.ONNX, CheckpointPart.PROGRAM} <= set(observer.files[2])


@pytest.mark.slow
def test_an_export_with_other_logits_is_withheld(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(export._WRITERS, CheckpointPart.PROGRAM, lambda *_: 1.0)
    _, observer = support.run(small_spec({"exports": ["pt2"]}), tmp_path)
    assert CheckpointPart.PROGRAM not in observer.files[12]
    assert "model.pt2 | 1.00e+00 |" in observer.files[12][CheckpointPart.CARD].read_text()


def test_a_failed_export_does_not_fail_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("an unknown operator")

    monkeypatch.setattr(torch.export, "export", fail)
    outcome, observer = support.run(small_spec({"exports": ["onnx"]}), tmp_path)
    assert outcome.stopped is None
    assert CheckpointPart.ONNX not in observer.files[12]
    card = observer.files[12][CheckpointPart.CARD].read_text()
    assert "model.onnx | not exported: RuntimeError: an unknown operator |" in card
    assert "model.onnx was not exported: RuntimeError: an unknown operator" in observer.lines
    assert "```python" not in card


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "part"),
    [("onnx-image", CheckpointPart.ONNX_IMAGE), ("pt2-image", CheckpointPart.PROGRAM_IMAGE)],
)
def test_the_lines_of_the_card_classify_an_image_file_without_our_code(
    name: str, part: CheckpointPart, tmp_path: Path
) -> None:
    colors = {"blue": (0, 0, 200), "café": (90, 60, 20), "red": (200, 0, 0)}
    for class_name, color in colors.items():
        (tmp_path / "data" / "colors" / class_name).mkdir(parents=True)
        for number in range(10):
            image = Image.new("RGB", (40 + 7 * number, 50), color)
            image.save(tmp_path / "data" / "colors" / class_name / f"{number}.png")
    recipe = {"iterations": 24, "batch_size": 6, "warmup_until_error": 100.0, "exports": [name]}
    outcome, observer = support.run(
        small_spec(recipe, dataset="folder:colors"),
        tmp_path / "work",
        data_dir=tmp_path / "data",
    )
    assert outcome.test_error == 0
    files = observer.files[24]
    card = files[CheckpointPart.CARD].read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    assert len(code.splitlines()) == 10
    assert json.dumps(list(colors), ensure_ascii=False) in card

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(files[part], elsewhere)
    Image.new("RGB", (301, 203), colors["café"]).save(elsewhere / "picture.jpg")
    # Without site's .pth files, which lead to our code.
    packages = sysconfig.get_path("purelib")
    prelude = (
        f"import importlib.util, sys; sys.path.append({packages!r})\n"
        "assert importlib.util.find_spec('workers') is None\n"
    )
    finished = subprocess.run(
        [sys.executable, "-I", "-S", "-X", "utf8", "-c", prelude + code],
        cwd=elsewhere,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
    )
    if part is CheckpointPart.ONNX_IMAGE:
        import onnx  # noqa: PLC0415 - as above

        (model_input,) = onnx.load(files[part]).graph.input
        dimensions = model_input.type.tensor_type.shape.dim
        assert model_input.name == "image"
        assert [axis.dim_param or axis.dim_value for axis in dimensions] == ["height", "width", 3]
    first, *others = finished.stdout.splitlines()
    assert first.endswith(" café")
    assert len(others) == 2
