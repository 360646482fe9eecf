"""Draws the curves of jobs as the paper does; needs matplotlib."""

from collections.abc import Collection, Mapping
from itertools import cycle
from typing import TYPE_CHECKING

from resnetd import html
from resnetd.models import Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The range of the paper's figures; wider where a network ends above it.
_PAPER_PERCENT = 20.0
# Warm for plain networks and cold for others, as in the dashboard; distinct without color vision
# (Okabe and Ito 2008).
_PLAIN_COLORS = ("#D55E00", "#E69F00", "#CC79A7", "#8B4513", "#F0E442")
_RESIDUAL_COLORS = ("#0072B2", "#56B4E9", "#009E73", "#332288", "#000000")


def draw(
    curves: "Mapping[str, Mapping[str, Series]]",
    axes: "Axes | None" = None,
    *,
    plain: Collection[str] = (),
) -> "Axes":
    """Draw the train errors dashed and the test errors bold, in a color for each network.

    Args:
        curves: the series `train/error` and `test/error` by the label of a network.
        axes: where to draw. Default: a new figure.
        plain: the labels of networks without shortcuts.
    """
    import matplotlib.pyplot as plt  # noqa: PLC0415 - the client does not need it

    if axes is None:
        axes = plt.subplots(figsize=(5.0, 3.5), layout="constrained")[1]
    highest = 0.0
    plain_colors, residual_colors = cycle(_PLAIN_COLORS), cycle(_RESIDUAL_COLORS)
    for label, series in curves.items():
        color = next(plain_colors if label in plain else residual_colors)
        for name, style, width in (("train/error", "--", 1.0), ("test/error", "-", 2.0)):
            points = html.finite_points(series[name]) if name in series else ()
            if not points:
                continue
            axes.plot(
                [iteration for iteration, _ in points],
                [value for _, value in points],
                linestyle=style,
                linewidth=width,
                color=color,
                label=label if name == "test/error" else None,
            )
            highest = max(highest, points[-1][1])
    axes.set_xlabel("iteration")
    axes.set_ylabel("error (%)")
    axes.set_ylim(0.0, _PAPER_PERCENT if highest < _PAPER_PERCENT else None)
    axes.legend(title="dashed: train, bold: test")
    return axes
