"""Parameters and multiply-adds of our networks and of published ones (`workers.training stats`)."""

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from service.catalog import architectures, model_stats
from service.catalog.architectures import (
    BOTTLENECK_DEPTHS,
    ActivationOrder,
    Architecture,
    Block,
    Family,
    Shortcut,
    ShortcutForm,
    StrideAt,
    make_architecture,
)
from service.catalog.model_stats import ModelStats
from service.text import count_of

# Columns of a file of published numbers, and the field of ModelStats behind each.
COLUMNS = {
    "params": "parameters",
    "conv_fc_params": "conv_fc_parameters",
    "bn_params": "bn_parameters",
    "buffers": "buffers",
    "macs": "multiply_adds",
    "conv_plus_fc_layers": "layers",
}

_PUBLISHED_NAME = re.compile(
    r"(?P<images>imagenet|cifar10|cifar100)-(?P<kinds>plain/resnet|plain|resnet|preact)"
    r"-(?P<depth>\d+)(?P<bottleneck>-bottleneck)?(-(?P<option>[ABC]))?"
    r"(-(?P<variant>v1|v1\.5))?( \(.*\))?"
)
_CLASSES = {"imagenet": 1000, "cifar10": 10, "cifar100": 100}
_SIZES = {"imagenet": 224, "cifar10": 32, "cifar100": 32}


@dataclass(frozen=True)
class NamedNetwork:
    """A network on the dataset that its numbers are published for."""

    images: str
    architecture: Architecture

    @property
    def name(self) -> str:
        return f"{self.images}-{self.architecture.label}"

    def compute_stats(self) -> ModelStats:
        size = _SIZES[self.images]
        return model_stats.compute_model_stats(
            self.architecture, classes=_CLASSES[self.images], height=size, width=size
        )


def list_networks() -> list[NamedNetwork]:
    """The papers' networks, with each shortcut at each depth."""
    return [
        *(
            NamedNetwork(
                "imagenet", make_architecture(Family.IMAGENET, depth, shortcut, stride_at=stride_at)
            )
            for depth in architectures.IMAGENET_STAGES
            for stride_at in (StrideAt if depth in BOTTLENECK_DEPTHS else [StrideAt.CONV_1X1])
            for shortcut in Shortcut
        ),
        *(
            NamedNetwork("imagenet", make_architecture(family, depth, Shortcut.NONE))
            for depth in architectures.VGG_STAGES
            for family in (Family.VGG, Family.VGG_BN)
        ),
        *(
            NamedNetwork(
                images, make_architecture(Family.CIFAR, depth, shortcut, activation_order=order)
            )
            for images in ("cifar10", "cifar100")
            for order in (ActivationOrder.ORIGINAL, ActivationOrder.FULL_PREACTIVATION)
            for depth in (20, 32, 44, 56, 110, 164, 1001, 1202)
            for shortcut in Shortcut
        ),
        *(
            NamedNetwork(
                "cifar10", make_architecture(Family.CIFAR, 110, Shortcut.A, shortcut_form=form)
            )
            for form in ShortcutForm
            if form is not ShortcutForm.IDENTITY
        ),
        *(
            NamedNetwork(
                "cifar10", make_architecture(Family.CIFAR, depth, shortcut, activation_order=order)
            )
            for depth, shortcut in ((110, Shortcut.A), (164, Shortcut.B))
            for order in ActivationOrder
            if order not in architectures.PLAIN_ORDERS
        ),
    ]


def parse_published_name(name: str) -> list[NamedNetwork]:
    """The networks that a published name denotes; empty if this version has none of them.

    `cifar10-plain/resnet-20-A` denotes two: option A adds no parameters.
    """
    match = _PUBLISHED_NAME.fullmatch(name)
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
        NamedNetwork(
            match["images"],
            make_architecture(
                Family.IMAGENET if match["images"] == "imagenet" else Family.CIFAR,
                int(match["depth"]),
                shortcut,
                block=Block.BOTTLENECK if is_bottleneck else None,
                activation_order=(
                    ActivationOrder.FULL_PREACTIVATION
                    if match["kinds"] == "preact"
                    else ActivationOrder.ORIGINAL
                ),
                stride_at=StrideAt.CONV_3X3 if match["variant"] == "v1.5" else StrideAt.CONV_1X1,
            ),
        )
        for shortcut in shortcuts
    ]


def format_table() -> list[str]:
    """Lines with our numbers."""
    return [
        _format_line("network", list(COLUMNS)),
        *(_format_line(network.name, _list_values(network)) for network in list_networks()),
    ]


def compare(published: Path) -> tuple[list[str], int]:
    """Lines with our numbers for each published network, and how many differ or are missing.

    ValueError if the file lacks a column.
    """
    lines, mismatches, skipped = [_format_line("network", list(COLUMNS))], 0, []
    with published.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = {"name", *COLUMNS} - set(reader.fieldnames or ())
        if missing:
            raise ValueError(f"{published} lacks the columns {', '.join(sorted(missing))}")
        rows = list(reader)
    for row in rows:
        expected = [int(row[column]) for column in COLUMNS]
        networks = parse_published_name(row["name"])
        if not networks:
            skipped.append(row["name"])
        for network in networks:
            values = _list_values(network)
            is_equal = values == expected
            mismatches += not is_equal
            lines.append(_format_line(network.name, values, "equal" if is_equal else "DIFFERS"))
            if not is_equal:
                lines.append(_format_line(f"  published: {row['name']}", expected))
    lines.append(
        f"{len(rows) - len(skipped)} of {count_of(len(rows), 'published row')} compared, "
        f"networks that differ: {mismatches}"
    )
    if skipped:
        lines.append(f"not in this version: {', '.join(skipped)}")
    return lines, mismatches + len(skipped)


def _list_values(network: NamedNetwork) -> list[int]:
    stats = network.compute_stats()
    return [getattr(stats, field) for field in COLUMNS.values()]


def _format_line(name: str, values: list[int] | list[str], verdict: str = "") -> str:
    cells = [f"{value:,}" if isinstance(value, int) else value for value in values]
    return f"{name:<40}" + "".join(f"{cell:>20}" for cell in cells) + f"  {verdict}".rstrip()
