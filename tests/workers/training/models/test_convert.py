from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from service.catalog import architectures
from service.catalog.architectures import Family, Shortcut, StrideAt, ZeroPadding
from workers.training.__main__ import main
from workers.training.models import convert, resnet


class CifarBlock(nn.Module):
    """A block of akamaster's reproduction: zero channels on both sides."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.quarter = width // 4 if stride == 2 else 0

    def forward(self, maps_NCHW: Tensor) -> Tensor:
        out_NCHW = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(maps_NCHW)))))
        if self.quarter:
            around = (0, 0, 0, 0, self.quarter, self.quarter)
            maps_NCHW = functional.pad(maps_NCHW[:, :, ::2, ::2], around)
        return functional.relu(out_NCHW + maps_NCHW)


class CifarNet(nn.Module):
    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        for number, (inputs, width) in enumerate(((16, 16), (16, 32), (32, 64)), start=1):
            first = CifarBlock(inputs, width, stride=1 if number == 1 else 2)
            others = [CifarBlock(width, width, stride=1) for _ in range(blocks - 1)]
            self.add_module(f"layer{number}", nn.Sequential(first, *others))
        self.linear = nn.Linear(64, 10)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        maps_NCHW = functional.relu(self.bn1(self.conv1(images_NCHW)))
        for number in (1, 2, 3):
            maps_NCHW = self.get_submodule(f"layer{number}")(maps_NCHW)
        logits_NK: Tensor = self.linear(maps_NCHW.mean(dim=(2, 3)))
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
