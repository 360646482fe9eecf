from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from service.catalog import architectures
from service.catalog.architectures import (
    ActivationOrder,
    Family,
    Shortcut,
    StrideAt,
    ZeroPadding,
)
from workers.training.__main__ import main
from workers.training.models import convert, resnet, weight_markers


class CifarBlock(nn.Module):
    """A block of akamaster's reproduction, with zero channels on both sides, or of chenyaofo's."""

    def __init__(self, inputs: int, width: int, stride: int, *, is_projected: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.quarter = width // 4 if stride == 2 else 0
        self.downsample: nn.Module | None = None
        if is_projected and stride == 2:
            conv = nn.Conv2d(inputs, width, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(width))

    def forward(self, maps_NCHW: Tensor) -> Tensor:
        out_NCHW = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(maps_NCHW)))))
        if self.downsample is not None:
            maps_NCHW = self.downsample(maps_NCHW)
        elif self.quarter:
            around = (0, 0, 0, 0, self.quarter, self.quarter)
            maps_NCHW = functional.pad(maps_NCHW[:, :, ::2, ::2], around)
        return functional.relu(out_NCHW + maps_NCHW)


class CifarNet(nn.Module):
    """`is_projected`: with 1x1 convolutions and names as in chenyaofo's files."""

    def __init__(self, blocks: int, *, is_projected: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        for number, (inputs, width) in enumerate(((16, 16), (16, 32), (32, 64)), start=1):
            first = CifarBlock(inputs, width, 1 if number == 1 else 2, is_projected=is_projected)
            others = [CifarBlock(width, width, stride=1) for _ in range(blocks - 1)]
            self.add_module(f"layer{number}", nn.Sequential(first, *others))
        self.classifier_name = "fc" if is_projected else "linear"
        self.add_module(self.classifier_name, nn.Linear(64, 10))

    def forward(self, images_NCHW: Tensor) -> Tensor:
        maps_NCHW = functional.relu(self.bn1(self.conv1(images_NCHW)))
        for number in (1, 2, 3):
            maps_NCHW = self.get_submodule(f"layer{number}")(maps_NCHW)
        classifier = self.get_submodule(self.classifier_name)
        logits_NK: Tensor = classifier(maps_NCHW.mean(dim=(2, 3)))
        return logits_NK


def randomize_stats(network: nn.Module) -> None:
    """So that a wrong order of the layers changes the logits."""
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            nn.init.normal_(buffer, std=0.1)
        elif name.endswith("running_var"):
            nn.init.uniform_(buffer, 0.5, 1.5)


@pytest.fixture
def akamaster_file(tmp_path: Path) -> tuple[Path, CifarNet]:
    torch.manual_seed(0)
    network = CifarNet(blocks=3).eval()
    randomize_stats(network)
    state = {f"module.{name}": tensor for name, tensor in network.state_dict().items()}
    path = tmp_path / "resnet20-12fca82f.th"
    torch.save({"state_dict": state, "best_prec1": 91.7}, path)
    return path, network


@torch.no_grad()
def test_converted_akamaster_weights_compute_the_same_logits(
    akamaster_file: tuple[Path, CifarNet],
) -> None:
    path, theirs = akamaster_file
    architecture, ours = convert.load_network(path)
    assert (architecture.family, architecture.depth) == (Family.CIFAR, 20)
    assert architecture.zero_padding is ZeroPadding.BOTH
    images_NCHW = torch.randn(4, 3, 32, 32)
    assert torch.allclose(ours(images_NCHW), theirs(images_NCHW), atol=1e-5)


@pytest.mark.parametrize("depth", [18, 50])
@torch.no_grad()
def test_converted_torchvision_weights_compute_the_same_logits(depth: int, tmp_path: Path) -> None:
    theirs = torchvision.models.get_model(f"resnet{depth}", weights=None, num_classes=7).eval()
    randomize_stats(theirs)
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    architecture, ours = convert.load_network(tmp_path / "weights.pth")
    assert (architecture.depth, architecture.shortcut) == (depth, Shortcut.B)
    assert architecture.stride_at is StrideAt.CONV_3X3
    images_NCHW = torch.randn(2, 3, 64, 64)
    assert torch.equal(ours(images_NCHW), theirs(images_NCHW))


def metadata_of(path: Path) -> dict[str, str]:
    with safetensors.safe_open(path, framework="pt") as file:
        return dict(file.metadata())


def published(name: str) -> tuple[nn.Module, dict[str, Any]]:
    """A network as its authors publish it, and the content of its file."""
    if name.startswith("akamaster"):
        network: nn.Module = CifarNet(blocks=(int(name[10:]) - 2) // 6)
        state = {f"module.{key}": tensor for key, tensor in network.state_dict().items()}
        return network, {"state_dict": state, "best_prec1": 91.7}
    if name.startswith("chenyaofo"):
        network = CifarNet(blocks=(int(name[10:]) - 2) // 6, is_projected=True)
        return network, network.state_dict()
    network = torchvision.models.get_model(name, weights=None, num_classes=7)
    return network, network.state_dict()


@pytest.mark.parametrize(
    ("name", "label"),
    [
        *((f"akamaster-{depth}", f"resnet-{depth}-A-padded-both") for depth in (20, 32, 44, 56)),
        *((f"chenyaofo-{depth}", f"resnet-{depth}-B") for depth in (20, 32, 44, 56)),
        ("resnet50", "resnet-50-B-v1.5"),
    ],
)
@torch.no_grad()
def test_a_converted_file_loads_as_the_network_that_it_was_converted_from(
    name: str, label: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    theirs, content = published(name)
    randomize_stats(theirs.eval())
    torch.save(content, tmp_path / "published.th")
    once, twice = tmp_path / "once.safetensors", tmp_path / "twice.safetensors"
    architecture = convert.convert_file(tmp_path / "published.th", once)
    assert architecture.label == label
    found, ours = convert.load_network(once)
    assert found == architecture
    images_NCHW = torch.randn(2, 3, 32, 32)
    assert torch.allclose(ours(images_NCHW), theirs(images_NCHW), atol=1e-5)
    assert convert.convert_file(once, twice) == architecture
    assert metadata_of(twice) == metadata_of(once)
    again, weights = safetensors.torch.load_file(twice), safetensors.torch.load_file(once)
    assert again.keys() == weights.keys()
    assert all(torch.equal(again[name], weights[name]) for name in weights)


def test_a_file_of_a_job_keeps_all_its_metadata_and_tensors(tmp_path: Path) -> None:
    network = architectures.make_architecture(
        Family.CIFAR, 8, Shortcut.A, activation_order=ActivationOrder.BN_AFTER_ADDITION
    )
    model = resnet.create_network(network, classes=3)
    weights = weight_markers.add_markers(model.state_dict(), network)
    metadata = network.metadata | {"format": "pt", "class_names": '["a", "b", "c"]', "spec": "{}"}
    safetensors.torch.save_file(weights, tmp_path / "job.safetensors", metadata)
    target = tmp_path / "again.safetensors"
    assert convert.convert_file(tmp_path / "job.safetensors", target) == network
    with safetensors.safe_open(target, framework="pt") as file:
        assert file.metadata() == metadata
        assert set(file.keys()) == set(weights)


def test_converted_weights_record_their_architecture(
    akamaster_file: tuple[Path, CifarNet], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "weights.safetensors"
    assert main(["convert", str(akamaster_file[0]), str(target)]) == 0
    assert "resnet-20-A-padded-both" in capsys.readouterr().out
    with safetensors.safe_open(target, framework="pt") as file:
        assert file.metadata()["zero_padding"] == "both"
        assert "fc.weight" in file.keys()  # noqa: SIM118 - no mapping


@pytest.mark.parametrize("shortcut", [Shortcut.NONE, Shortcut.A])
def test_weights_that_do_not_determine_their_shortcut_are_rejected(
    shortcut: Shortcut, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = resnet.create_network(
        architectures.make_architecture(Family.CIFAR, 20, shortcut), classes=10
    )
    torch.save(network.state_dict(), tmp_path / "ours.pt")
    assert main(["convert", str(tmp_path / "ours.pt"), str(tmp_path / "out.safetensors")]) == 1
    assert "a plain network or one with option A" in capsys.readouterr().err


def test_a_wide_network_with_a_small_stem_is_rejected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = torchvision.models.resnet18(num_classes=10)
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    torch.save(network.state_dict(), tmp_path / "wide.pt")
    assert main(["convert", str(tmp_path / "wide.pt"), str(tmp_path / "out.safetensors")]) == 1
    assert capsys.readouterr().err


@pytest.mark.parametrize("content", [{"weight": torch.zeros(1)}, {"state_dict": 7}, [1]])
def test_files_without_a_residual_network_are_rejected(
    content: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(content, tmp_path / "other.pt")
    assert main(["convert", str(tmp_path / "other.pt"), str(tmp_path / "out.safetensors")]) == 1
    assert capsys.readouterr().err
    assert not (tmp_path / "out.safetensors").exists()
