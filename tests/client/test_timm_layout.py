"""A folder for timm, torch.hub and the Hub: the same logits by their own readers, or none."""

import json
from pathlib import Path
from typing import Any

import pytest

import resnetd
from resnetd import timm_layout
from service.specs import job_spec
from service.states import CheckpointPart
from tests.client.conftest import Command
from tests.client.service import Service
from tests.support import clean_environment
from tests.support.predictions import finish_with_parts

FIELDS = {"depth": 18, "shortcut": "B", "dataset": "folder:birds"}
CHANNEL = {"name": "paper-imagenet", "normalization": "channel"}


def _write_weights(path: Path, **fields: Any) -> Any:
    """The network whose weights are written as a checkpoint's are."""
    # They import torch.
    import torch  # noqa: PLC0415

    from workers.training import checkpoint  # noqa: PLC0415
    from workers.training.data.normalization import Normalizer  # noqa: PLC0415
    from workers.training.models import resnet, weight_markers  # noqa: PLC0415
    from workers.training.train_state import TrainState  # noqa: PLC0415

    spec = job_spec.parse_job_spec(FIELDS | {"recipe": CHANNEL} | fields)
    network = resnet.build_network(spec, 3)
    with torch.no_grad():
        for name, values in network.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                values.uniform_(0.5, 1.5)
    mean = torch.tensor([120.0, 110.0, 100.0]).expand(224, 224, 3)
    if spec.recipe.normalization == "pixel-mean":
        mean = mean + torch.arange(224)[:, None, None]
    metadata = checkpoint.describe_weights(
        spec,
        class_names=["crow", "robin", "wren"],
        normalizer=Normalizer(mean, torch.tensor([60.0, 50.0, 40.0])),
        state=TrainState(iteration=20, test_error=12.5),
    )
    weights = weight_markers.add_markers(network.state_dict(), spec.architecture)
    checkpoint._write_safetensors(path, weights, metadata)
    return network.eval()


# Of which the folder's users need nothing: only timm is installed for them.
_LOAD = """
import importlib.util
import json

import timm
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

folder, images, logits = sys.argv[1:]
assert not any(map(importlib.util.find_spec, ["resnetd", "workers", "service", "api"]))
by_timm = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
by_hub = torch.hub.load(folder, "model", source="local").eval()
with torch.no_grad():
    batch = load_file(images)["images"]
    save_file({"timm": by_timm(batch), "torch.hub": by_hub(batch)}, logits)
card = ModelCard.load(f"{folder}/README.md").data
(result,) = card.eval_results
described = {
    "config": timm.data.resolve_model_data_config(by_timm),
    "classes": by_timm.pretrained_cfg["label_names"],
    "card": [card.library_name, result.metric_type, result.metric_value],
}
print(json.dumps(described))
"""


@pytest.mark.slow
def test_timm_torch_hub_and_the_hub_read_a_downloaded_folder_without_our_packages(
    service: Service, command: Command, tmp_path: Path
) -> None:
    import torch  # noqa: PLC0415
    from safetensors.torch import load_file, save_file  # noqa: PLC0415

    weights = tmp_path / "weights"
    network = _write_weights(weights)
    parts = {CheckpointPart.WEIGHTS: weights.read_bytes()}
    job_id = finish_with_parts(service.api, service.core.run(), parts)
    folder = tmp_path / "birds"
    assert command("download", job_id, "--format", "timm", "--to", str(folder)) == 0
    assert command.out == f"{folder}\n"
    assert {path.name for path in folder.iterdir()} == {
        "README.md",
        "config.json",
        "hubconf.py",
        "model.safetensors",
    }
    images, logits = tmp_path / "images", tmp_path / "logits"
    save_file({"images": torch.randn(2, 3, 224, 224)}, images)
    arguments = folder, images, logits
    printed = clean_environment.run(
        _LOAD, *arguments, packages=["timm"], folder=tmp_path / "packages"
    )
    with torch.no_grad():
        expected = network(load_file(images)["images"])
    computed = load_file(logits)
    assert torch.allclose(computed["timm"], expected, atol=1e-5)
    assert torch.equal(computed["torch.hub"], computed["timm"])
    described = json.loads(printed)
    config = described["config"]
    assert config["mean"] == pytest.approx([120 / 255, 110 / 255, 100 / 255])
    assert config["std"] == pytest.approx([60 / 255, 50 / 255, 40 / 255])
    assert (config["input_size"], config["crop_pct"]) == ([3, 224, 224], 0.875)
    assert (config["interpolation"], config["crop_mode"]) == ("bicubic", "center")
    assert described["classes"] == ["crow", "robin", "wren"]
    assert described["card"] == ["timm", "accuracy", 87.5]


def _describe(**changes: str) -> dict[str, str]:
    """The metadata of the smallest network that timm has."""
    return {
        "network": "resnet-50-B-v1.5",
        "family": "imagenet",
        "depth": "50",
        "shortcut": "B",
        "block": "bottleneck",
        "stem": "imagenet",
        "shortcut_form": "identity",
        "activation_order": "original",
        "survival": "1.0",
        "stride_at": "3x3",
        "class_names": '["crow", "wren"]',
        "mean_image": "AADIQgAAyEIAAMhC",  # 100 of each channel
        "mean_image_shape": "[1, 1, 3]",
        "std": "[255.0, 255.0, 255.0]",
        "spec": '{"recipe": {"crop": "scale_jitter"}}',
    } | changes


def test_the_configuration_names_the_architecture_and_its_features() -> None:
    config = timm_layout.make_config(_describe())
    assert (config["architecture"], config["num_features"]) == ("resnet50", 2048)
    padded = _describe(spec='{"recipe": {"crop": "pad_crop"}}', depth="34", block="basic")
    config = timm_layout.make_config(padded | {"stride_at": "1x1"})  # basic blocks have no 1x1
    assert (config["architecture"], config["num_features"]) == ("resnet34", 512)
    assert config["pretrained_cfg"]["crop_pct"] == 1.0


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"family": "cifar"}, "it is not an ImageNet network of depth 18, 34, 50, 101, 152"),
        ({"depth": "200"}, "it is not an ImageNet network of depth 18, 34, 50, 101, 152"),
        ({"shortcut": "C"}, "shortcut is C, timm's is B"),
        ({"stride_at": "1x1"}, "stride_at is 1x1, timm's is 3x3"),
        ({"stem": "cifar"}, "stem is cifar, timm's is imagenet"),
        ({"survival": "0.5"}, "survival is 0.5, timm's is 1.0"),
        ({"shortcut_form": "dropout"}, "shortcut_form is dropout, timm's is identity"),
        (
            {"activation_order": "full-preactivation"},
            "activation_order is full-preactivation, timm's is original",
        ),
        (
            {"mean_image": "AADIQgAAyEIAAMhCAADIQgAAyEIAAMhD"},
            "its images are normalized by a mean image, timm's by a mean per channel",
        ),
    ],
)
def test_a_network_that_computes_something_else_is_refused_by_what_differs(
    changes: dict[str, str], difference: str
) -> None:
    with pytest.raises(resnetd.NoSuchNetwork, match=difference):
        timm_layout.make_config(_describe(**changes))


def _weights_without_tensors(**changes: str) -> bytes:
    document = json.dumps({"__metadata__": _describe(**changes)})
    return len(document).to_bytes(8, "little") + document.encode()


def test_a_registered_version_is_downloaded_as_a_folder_that_its_number_names(
    service: Service, command: Command
) -> None:
    weights = _weights_without_tensors(
        dataset="folder:birds",
        iteration="20",
        test_error="12.5",
        spec='{"recipe": {"name": "quick", "crop": "scale_jitter"}, "seed": 1}',
    )
    job_id = finish_with_parts(service.api, service.core.run(), {CheckpointPart.WEIGHTS: weights})
    assert command("model", "register", "birds/resnet", job_id, "--alias", "production") == 0
    assert command("model", "download", "birds/resnet@production", "--format", "timm") == 0
    assert command.out == "birds-resnet-v1-timm\n"
    assert (Path("birds-resnet-v1-timm") / timm_layout.WEIGHTS_NAME).read_bytes() == weights


def test_a_refused_network_leaves_nothing_on_disk(
    service: Service, command: Command, tmp_path: Path
) -> None:
    weights = _weights_without_tensors(family="cifar", network="resnet-8-A")
    job_id = finish_with_parts(service.api, service.core.run(), {CheckpointPart.WEIGHTS: weights})
    assert command("download", job_id, "--format", "timm", "--to", str(tmp_path / "no")) == 1
    assert command.err.startswith("timm has no network that computes what resnet-8-A does: ")
    assert not any(path.name != "working" for path in tmp_path.iterdir())
    other = finish_with_parts(service.api, service.core.run(), {})
    assert command("download", other, "--format", "timm") == 1
    assert command.err == "model.safetensors has no metadata of safetensors\n"
