from pathlib import Path

import pytest

from service import networks
from service.networks import Family, Shortcut, StrideAt
from workers.training import counts
from workers.training.__main__ import main
from workers.training.counts import Network

PUBLISHED = Path(__file__).parents[3] / ".." / "shared" / "paper" / "counts.csv"

HEADER = "name,params,conv_fc_params,bn_params,buffers,macs,conv_plus_fc_layers\n"
RESNET_20_A = "cifar10-plain/resnet-20-A,269722,268346,1376,1395,40551040,20\n"


@pytest.mark.parametrize(
    ("network", "parameters", "multiply_adds"),
    [
        (Network("cifar10", 20, Shortcut.NONE), 269_722, 40_551_040),
        (Network("cifar10", 20, Shortcut.A), 269_722, 40_551_040),
        (Network("cifar10", 56, Shortcut.B), 855_770, 125_747_840),
        (Network("cifar10", 110, Shortcut.C), 1_826_202, 266_781_312),
        (Network("imagenet", 34, Shortcut.A), 21_623_848, 3_644_493_824),
        # Table 1's 3.8e9 is the first: stride in the 1x1. The second is torchvision's.
        (Network("imagenet", 50, Shortcut.B, StrideAt.CONV_1X1), 25_557_032, 3_857_973_248),
        (Network("imagenet", 50, Shortcut.B, StrideAt.CONV_3X3), 25_557_032, 4_089_184_256),
    ],
    ids=lambda value: value.name if isinstance(value, Network) else str(value),
)
def test_counts_are_the_published_ones(
    network: Network, parameters: int, multiply_adds: int
) -> None:
    counted = network.count()
    assert (counted.parameters, counted.multiply_adds) == (parameters, multiply_adds)


@pytest.mark.skipif(not PUBLISHED.is_file(), reason=f"no {PUBLISHED}")
def test_counts_equal_every_published_row_to_the_last_digit() -> None:
    lines, differing = counts.compare(PUBLISHED)
    assert differing == 0
    assert any(line.startswith("30 of 37 published rows compared") for line in lines)
    # Pre-activation and CIFAR bottlenecks come later.
    skipped = lines[-1].removeprefix("not in this version: ").split(", ")
    assert all("preact" in name or "bottleneck" in name for name in skipped)


def test_without_published_counts_ours_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["counts"]) == 0
    assert "cifar10-resnet-20-A                                  269,722" in capsys.readouterr().out


def test_equal_counts_exit_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    published = tmp_path / "counts.csv"
    published.write_text(HEADER + RESNET_20_A + "cifar10-preact-110-A,1,1,1,1,1,1\n")
    assert main(["counts", "--against", str(published)]) == 0
    printed = capsys.readouterr().out
    assert "1 of 2 published rows compared, 0 networks differ" in printed
    assert "not in this version: cifar10-preact-110-A" in printed


def test_one_different_digit_exits_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    published = tmp_path / "counts.csv"
    published.write_text(HEADER + RESNET_20_A.replace("40551040", "40551041"))
    assert main(["counts", "--against", str(published)]) == 1
    assert "DIFFERS" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["name,params\n", "ten layers"])
def test_a_file_without_counts_exits_1_with_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    published = tmp_path / "counts.csv"
    published.write_text(text)
    assert main(["counts", "--against", str(published)]) == 1
    assert "lacks the columns" in capsys.readouterr().err


def test_larger_images_cost_more_and_weigh_the_same() -> None:
    small, large = (
        networks.count(Family.CIFAR, 20, Shortcut.A, classes=10, height=size, width=size)
        for size in (32, 64)
    )
    assert small.parameters == large.parameters
    assert large.multiply_adds - 640 == 4 * (small.multiply_adds - 640)  # all but the classifier
