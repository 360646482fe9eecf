"""Our networks' counts beside published ones: the command `python -m workers.training counts`."""

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from service import counts, networks
from service.counts import Counts
from service.networks import (
    BOTTLENECK_DEPTHS,
    Architecture,
    Block,
    Family,
    Shortcut,
    StrideAt,
    architecture,
)

# Columns of a file of counts, and ours behind each.
COLUMNS = {
    "params": "parameters",
    "conv_fc_params": "conv_fc_parameters",
    "bn_params": "bn_parameters",
    "buffers": "buffers",
    "macs": "multiply_adds",
    "conv_plus_fc_layers": "layers",
}

_NAME = re.compile(
    r"(?P<images>imagenet|cifar10|cifar100)-(?P<kinds>plain/resnet|plain|resnet|preact)"
    r"-(?P<depth>\d+)(?P<bottleneck>-bottleneck)?(-(?P<option>[ABC]))?"
    r"(-(?P<variant>v1|v1\.5))?( \(.*\))?"
)
_CLASSES = {"imagenet": 1000, "cifar10": 10, "cifar100": 100}
_SIZES = {"imagenet": 224, "cifar10": 32, "cifar100": 32}


@dataclass(frozen=True)
class Counted:
    """A network on the images that its counts are published for."""

    images: str
    architecture: Architecture

    @property
    def name(self) -> str:
        return f"{self.images}-{self.architecture.label}"

    def count(self) -> Counts:
        size = _SIZES[self.images]
        return counts.count(
            self.architecture, classes=_CLASSES[self.images], height=size, width=size
        )


def ours() -> list[Counted]:
    """The papers' networks, each shortcut of each depth."""
    return [
        *(
            Counted("imagenet", architecture(Family.IMAGENET, depth, shortcut, stride_at=stride_at))
            for depth in networks.IMAGENET_STAGES
            for stride_at in (StrideAt if depth in BOTTLENECK_DEPTHS else [StrideAt.CONV_1X1])
            for shortcut in Shortcut
        ),
        *(
            Counted("imagenet", architecture(family, depth, Shortcut.NONE))
            for depth in networks.VGG_STAGES
            for family in (Family.VGG, Family.VGG_BN)
        ),
        *(
            Counted(
                images,
                architecture(Family.CIFAR, depth, shortcut, preactivation=preactivation),
            )
            for images in ("cifar10", "cifar100")
            for preactivation in (False, True)
            for depth in (20, 32, 44, 56, 110, 164, 1001, 1202)
            for shortcut in Shortcut
        ),
    ]


def named(name: str) -> list[Counted]:
    """The networks that a published name stands for; none where this version has none of them.

    `cifar10-plain/resnet-20-A` stands for two: option A adds nothing to count.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        return []
    option = [Shortcut(match["option"])] if match["option"] else []
    shortcuts = {
        "plain": [Shortcut.NONE],
        "resnet": option,
        "preact": option,
        "plain/resnet": [Shortcut.NONE, Shortcut.A],
    }[match["kinds"]]
    is_bottleneck = match["bottleneck"] is not None
    return [
        Counted(
            match["images"],
            architecture(
                Family.IMAGENET if match["images"] == "imagenet" else Family.CIFAR,
                int(match["depth"]),
                shortcut,
                block=Block.BOTTLENECK if is_bottleneck else None,
                preactivation=match["kinds"] == "preact",
                stride_at=StrideAt.CONV_3X3 if match["variant"] == "v1.5" else StrideAt.CONV_1X1,
            ),
        )
        for shortcut in shortcuts
    ]


def table() -> list[str]:
    """Lines with our counts."""
    return [
        _line("network", list(COLUMNS)),
        *(_line(network.name, _values(network)) for network in ours()),
    ]


def compare(published: Path) -> tuple[list[str], int]:
    """Lines with both counts of each published network, and how many differ or are none of ours.

    ValueError where the file does not have the columns.
    """
    lines, differing, skipped = [_line("network", list(COLUMNS))], 0, []
    with published.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = {"name", *COLUMNS} - set(reader.fieldnames or ())
        if missing:
            raise ValueError(f"{published} lacks the columns {', '.join(sorted(missing))}")
        rows = list(reader)
    for row in rows:
        wanted = [int(row[column]) for column in COLUMNS]
        found = named(row["name"])
        if not found:
            skipped.append(row["name"])
        for network in found:
            got = _values(network)
            differing += got != wanted
            lines.append(_line(network.name, got, "equal" if got == wanted else "DIFFERS"))
            if got != wanted:
                lines.append(_line(f"  published: {row['name']}", wanted))
    lines.append(
        f"{len(rows) - len(skipped)} of {len(rows)} published rows compared, "
        f"{differing} networks differ"
    )
    if skipped:
        lines.append(f"not in this version: {', '.join(skipped)}")
    return lines, differing + len(skipped)


def _values(network: Counted) -> list[int]:
    counted = network.count()
    return [getattr(counted, field) for field in COLUMNS.values()]


def _line(name: str, values: list[int] | list[str], verdict: str = "") -> str:
    cells = [f"{value:,}" if isinstance(value, int) else value for value in values]
    return f"{name:<40}" + "".join(f"{cell:>20}" for cell in cells) + f"  {verdict}".rstrip()
