"""Weights as a folder that timm, the Hugging Face Hub and torch.hub read.

config.json         timm's architecture, the classes, and how images are prepared
model.safetensors   the weights; timm's networks have the same names
README.md           a model card with the metadata of the Hub
hubconf.py          the entry point of torch.hub, which loads the network with timm

timm computes the same logits, or there is no folder: `write` refuses a network that differs.
"""

import array
import base64
import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from resnetd.downloads import require_folder
from resnetd.errors import NoSuchNetwork, UnusableFile

FORMAT = "timm"
WEIGHTS_NAME = "model.safetensors"
_LENGTH_BYTES = 8
# Of safetensors' own reader.
_MAX_HEADER_BYTES = 100_000_000
# Of the crop that is evaluated, to the shorter side of the image.
_CROP_SHARE = 224 / 256
_BYTE_RANGE = 255
_BLOCKS = {18: "basic", 34: "basic", 50: "bottleneck", 101: "bottleneck", 152: "bottleneck"}
# What timm's networks have in common.
_TIMM = {
    "family": "imagenet",
    "shortcut": "B",
    "stem": "imagenet",
    "shortcut_form": "identity",
    "activation_order": "original",
    "survival": "1.0",
}

_HUBCONF = '''\
"""Loads the network of this folder: torch.hub.load(FOLDER, "model", source="local")."""

from pathlib import Path

dependencies = ["timm"]


def model(pretrained=True, **kwargs):
    """timm's network with the weights of this folder; keywords are those of timm.create_model."""
    import timm

    folder = Path(__file__).resolve().parent
    return timm.create_model(f"local-dir:{folder}", pretrained=pretrained, **kwargs)
'''


def download(receive: Callable[[Path], object], folder: Path) -> Path:
    """The folder, which is written once `receive` has written the weights to a path."""
    require_folder(folder.parent)
    # On the disk of the folder, to which the file is moved.
    with tempfile.TemporaryDirectory(prefix=".", dir=folder.absolute().parent) as received:
        weights = Path(received) / WEIGHTS_NAME
        receive(weights)
        write(weights, folder)
    return folder


def write(weights: Path, folder: Path) -> None:
    """Moves the weights of a checkpoint into the folder and writes the other files.

    NoSuchNetwork says how the network differs from timm's; nothing is written then.
    """
    metadata = read_metadata(weights)
    config = make_config(metadata)
    card = _make_card(metadata, config)
    folder.mkdir(exist_ok=True)
    weights.replace(folder / WEIGHTS_NAME)
    document = json.dumps(config, indent=2, ensure_ascii=False)
    (folder / "config.json").write_text(document + "\n", encoding="utf-8")
    (folder / "README.md").write_text(card, encoding="utf-8")
    (folder / "hubconf.py").write_text(_HUBCONF, encoding="utf-8")


def read_metadata(weights: Path) -> dict[str, str]:
    """Of a safetensors file of the service, which describes its network. UnusableFile."""
    with weights.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        header = file.read(length) if length <= _MAX_HEADER_BYTES else b""
    try:
        metadata: dict[str, str] = json.loads(header)["__metadata__"]
    except (KeyError, TypeError, ValueError) as error:
        raise UnusableFile(f"{weights.name} has no metadata of safetensors") from error
    return metadata


def make_config(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The content of config.json. NoSuchNetwork."""
    differences = _list_differences(metadata)
    mean = _read_mean(metadata)
    if mean is None:
        differences.append(
            "its images are normalized by a mean image, timm's by a mean per channel "
            "(recipe.normalization: channel)"
        )
    if differences:
        raise NoSuchNetwork(
            f"timm has no network that computes what {metadata['network']} does: "
            + "; ".join(differences)
        )
    assert mean is not None
    depth, size = int(metadata["depth"]), json.loads(metadata["mean_image_shape"])[0]
    names: list[str] = json.loads(metadata["class_names"])
    is_cropped = json.loads(metadata["spec"])["recipe"]["crop"] != "pad_crop"
    return {
        "architecture": f"resnet{depth}",
        "num_classes": len(names),
        "num_features": 2048 if _BLOCKS[depth] == "bottleneck" else 512,
        "global_pool": "avg",
        "label_names": names,
        "pretrained_cfg": {
            "architecture": f"resnet{depth}",
            "num_classes": len(names),
            "input_size": [3, size, size],
            "fixed_input_size": False,
            "interpolation": "bicubic",
            "crop_pct": _CROP_SHARE if is_cropped else 1.0,
            "crop_mode": "center",
            "mean": [value / _BYTE_RANGE for value in mean],
            "std": [value / _BYTE_RANGE for value in json.loads(metadata["std"])],
            "first_conv": "conv1",
            "classifier": "fc",
        },
    }


def _list_differences(metadata: Mapping[str, str]) -> list[str]:
    """Of the network from timm's of the same depth, each as a part of a sentence."""
    depth = int(metadata["depth"])
    if metadata["family"] != _TIMM["family"] or depth not in _BLOCKS:
        depths = ", ".join(map(str, _BLOCKS))
        return [f"it is not an ImageNet network of depth {depths}"]
    expected = _TIMM | {"block": _BLOCKS[depth]}
    if _BLOCKS[depth] == "bottleneck":
        expected["stride_at"] = "3x3"
    return [
        f"{name} is {metadata[name]}, timm's is {theirs}"
        for name, theirs in expected.items()
        if metadata[name] != theirs
    ]


def _read_mean(metadata: Mapping[str, str]) -> list[float] | None:
    """Of the bytes by channel; None where it differs between pixels."""
    pixels = array.array("f", base64.b64decode(metadata["mean_image"]))
    if sys.byteorder == "big":
        pixels.byteswap()
    mean = pixels[:3].tolist()
    return mean if pixels.tolist() == mean * (len(pixels) // 3) else None


def _make_card(metadata: Mapping[str, str], config: Mapping[str, Any]) -> str:
    name = f"{metadata['network']} on {metadata['dataset']}"
    spec = json.loads(metadata["spec"])
    error = json.loads(metadata["test_error"])
    described: dict[str, Any] = {
        "library_name": "timm",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "timm", "resnetd"],
    }
    if error is not None:
        accuracy = {"type": "accuracy", "name": "Top-1 accuracy", "value": round(100 - error, 4)}
        described["model-index"] = [
            {
                "name": name,
                "results": [
                    {
                        "task": {"type": "image-classification"},
                        "dataset": {"type": metadata["dataset"], "name": metadata["dataset"]},
                        "metrics": [accuracy],
                    }
                ],
            }
        ]
    prepared = config["pretrained_cfg"]
    size = prepared["input_size"][1]
    rows = {
        "network": f"{metadata['network']}, timm's `{config['architecture']}`",
        "dataset": metadata["dataset"],
        "classes": str(config["num_classes"]),
        "test error": "-" if error is None else f"{error:.2f} %",
        "recipe": f"`{spec['recipe']['name']}`, seed {spec['seed']}",
        "iterations": f"{int(metadata['iteration']):,}",
        "images": f"{size} x {size}, {prepared['interpolation']}, "
        f"crop_pct {prepared['crop_pct']:g}",
    }
    lines = [
        "---",
        yaml.safe_dump(described, allow_unicode=True, sort_keys=False).rstrip(),
        "---",
        "",
        f"# {name}",
        "",
        "Trained with resnetd. The metadata of `model.safetensors` has the complete spec.",
        "",
        "| property | value |",
        "|---|---|",
        *(f"| {label} | {value} |" for label, value in rows.items()),
        "",
        "```python",
        "import timm",
        "",
        'model = timm.create_model("local-dir:PATH/OF/THIS/FOLDER", pretrained=True).eval()',
        "config = timm.data.resolve_model_data_config(model)",
        "transform = timm.data.create_transform(**config, is_training=False)",
        "```",
        "",
    ]
    return "\n".join(lines)
