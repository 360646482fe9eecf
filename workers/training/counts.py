"""Our networks' counts beside published ones: the command `python -m workers.training counts`."""

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from service import networks
from service.networks import BOTTLENECK_DEPTHS, Counts, Family, Shortcut, StrideAt

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
    r"(?P<images>imagenet|cifar10|cifar100)-(?P<kinds>plain/resnet|plain|resnet)-(?P<depth>\d+)"
    r"(-(?P<option>[ABC]))?(-(?P<variant>v1|v1\.5))?( \(.*\))?"
)
_CLASSES = {"imagenet": 1000, "cifar10": 10, "cifar100": 100}


@dataclass(frozen=True)
class Network:
    """A network on the images that its counts are published for."""

    images: str
    depth: int
    shortcut: Shortcut
    stride_at: StrideAt = StrideAt.CONV_3X3

    @property
    def name(self) -> str:
        is_bottleneck = self.images == "imagenet" and self.depth in BOTTLENECK_DEPTHS
        variant = "-v1" if self.stride_at is StrideAt.CONV_1X1 else "-v1.5"
        label = networks.label(self.depth, self.shortcut)
        return f"{self.images}-{label}{variant if is_bottleneck else ''}"

    def count(self) -> Counts:
        size = 224 if self.images == "imagenet" else 32
        return networks.count(
            Family.IMAGENET if self.images == "imagenet" else Family.CIFAR,
            self.depth,
            self.shortcut,
            classes=_CLASSES[self.images],
            height=size,
            width=size,
            stride_at=self.stride_at,
        )


def ours() -> list[Network]:
    """The paper's networks, each shortcut of each depth."""
    return [
        *(
            Network("imagenet", depth, shortcut, stride_at)
            for depth in networks.IMAGENET_STAGES
            for stride_at in (StrideAt if depth in BOTTLENECK_DEPTHS else [StrideAt.CONV_3X3])
            for shortcut in Shortcut
        ),
        *(
            Network(images, depth, shortcut)
            for images in ("cifar10", "cifar100")
            for depth in (20, 32, 44, 56, 110, 1202)
            for shortcut in Shortcut
        ),
    ]


def named(name: str) -> list[Network]:
    """The networks that a published name stands for; none where this version has none of them.

    `cifar10-plain/resnet-20-A` stands for two: option A adds nothing to count.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        return []
    shortcuts = {
        "plain": [Shortcut.NONE],
        "resnet": [Shortcut(match["option"])] if match["option"] else [],
        "plain/resnet": [Shortcut.NONE, Shortcut.A],
    }[match["kinds"]]
    stride_at = StrideAt.CONV_1X1 if match["variant"] == "v1" else StrideAt.CONV_3X3
    return [
        Network(match["images"], int(match["depth"]), shortcut, stride_at) for shortcut in shortcuts
    ]


def table() -> list[str]:
    """Lines with our counts."""
    return [
        _line("network", list(COLUMNS)),
        *(_line(network.name, _values(network)) for network in ours()),
    ]


def compare(published: Path) -> tuple[list[str], int]:
    """Lines with both counts of each published network, and how many networks differ.

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
    return lines, differing


def _values(network: Network) -> list[int]:
    counted = network.count()
    return [getattr(counted, field) for field in COLUMNS.values()]


def _line(name: str, values: list[int] | list[str], verdict: str = "") -> str:
    cells = [f"{value:,}" if isinstance(value, int) else value for value in values]
    return f"{name:<40}" + "".join(f"{cell:>20}" for cell in cells) + f"  {verdict}".rstrip()
