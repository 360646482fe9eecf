from pathlib import Path

import pytest

from service.catalog import architectures, model_stats
from service.catalog.architectures import Family, Shortcut
from workers.training.__main__ import main
from workers.training.models import compare_stats
from workers.training.models.compare_stats import NamedNetwork

PUBLISHED = Path(__file__).parents[4] / ".." / "shared" / "paper" / "counts.csv"

HEADER = "name,params,conv_fc_params,bn_params,buffers,macs,conv_plus_fc_layers\n"
RESNET_20_A = "cifar10-plain/resnet-20-A,269722,268346,1376,1395,40551040,20\n"


@pytest.mark.parametrize(
    ("name", "parameters", "multiply_adds"),
    [
        ("cifar10-plain-20", 269_722, 40_551_040),
        ("cifar10-resnet-20-A", 269_722, 40_551_040),
        ("cifar10-resnet-56-B", 855_770, 125_747_840),
        ("cifar10-resnet-110-C", 1_826_202, 266_781_312),
        ("cifar10-preact-1001-bottleneck-B", 10_327_706, 1_487_849_984),
        ("imagenet-resnet-34-A", 21_623_848, 3_644_493_824),
        # Table 1's 3.8e9 is the first: stride in the 1x1. The second is torchvision's.
        ("imagenet-resnet-50-B", 25_557_032, 3_857_973_248),
        ("imagenet-resnet-50-B-v1.5", 25_557_032, 4_089_184_256),
    ],
)
def test_stats_equal_the_published_ones(name: str, parameters: int, multiply_adds: int) -> None:
    (stats,) = [
        network.compute_stats() for network in compare_stats.list_networks() if network.name == name
    ]
    assert (stats.parameters, stats.multiply_adds) == (parameters, multiply_adds)


@pytest.mark.parametrize(
    ("depth", "family", "parameters", "multiply_adds"),
    [
        # torchvision's metadata; Table 1's text has 15.3e9 and 19.6e9.
        (16, Family.VGG, 138_357_544, 15_470_264_320),
        (16, Family.VGG_BN, 138_365_992, 15_470_264_320),
        (19, Family.VGG, 143_667_240, 19_632_062_464),
        (19, Family.VGG_BN, 143_678_248, 19_632_062_464),
    ],
)
def test_vgg_stats_equal_torchvisions(
    depth: int, family: Family, parameters: int, multiply_adds: int
) -> None:
    network = NamedNetwork(
        "imagenet", architectures.make_architecture(family, depth, Shortcut.NONE)
    )
    stats = network.compute_stats()
    assert (stats.parameters, stats.multiply_adds) == (parameters, multiply_adds)


@pytest.mark.skipif(not PUBLISHED.is_file(), reason=f"no {PUBLISHED}")
def test_stats_equal_every_published_row_exactly() -> None:
    lines, differing = compare_stats.compare(PUBLISHED)
    assert lines[-1] == "37 of 37 published rows compared, networks that differ: 0"
    assert differing == 0


def test_without_a_file_our_stats_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stats"]) == 0
    assert "cifar10-resnet-20-A                                  269,722" in capsys.readouterr().out


def test_equal_stats_exit_with_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    published = tmp_path / "counts.csv"
    published.write_text(HEADER + RESNET_20_A)
    assert main(["stats", "--against", str(published)]) == 0
    assert "1 of 1 published row compared, networks that differ: 0" in capsys.readouterr().out


def test_an_unknown_published_network_exits_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    published = tmp_path / "counts.csv"
    published.write_text(HEADER + RESNET_20_A + "cifar10-densenet-121,1,1,1,1,1,1\n")
    assert main(["stats", "--against", str(published)]) == 1
    printed = capsys.readouterr().out
    assert "1 of 2 published rows compared, networks that differ: 0" in printed
    assert "not in this version: cifar10-densenet-121" in printed


def test_one_different_digit_exits_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    published = tmp_path / "counts.csv"
    published.write_text(HEADER + RESNET_20_A.replace("40551040", "40551041"))
    assert main(["stats", "--against", str(published)]) == 1
    assert "DIFFERS" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["name,params\n", "ten layers"])
def test_a_file_without_stats_exits_with_1_and_a_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    published = tmp_path / "counts.csv"
    published.write_text(text)
    assert main(["stats", "--against", str(published)]) == 1
    assert "lacks the columns" in capsys.readouterr().err


def test_larger_images_need_more_multiply_adds_but_no_more_parameters() -> None:
    small, large = (
        model_stats.compute_model_stats(
            architectures.make_architecture(Family.CIFAR, 20, Shortcut.A),
            classes=10,
            height=size,
            width=size,
        )
        for size in (32, 64)
    )
    assert small.parameters == large.parameters
    assert large.multiply_adds - 640 == 4 * (small.multiply_adds - 640)  # all but the classifier
