"""A report's learning curves in the paper's layout, by matplotlib.

As in Fig. 6: dashed lines are training error, bold lines test error; the mean over seeds with a
band of one standard deviation. Equal reports give equal bytes.
"""

from collections.abc import Sequence
from typing import Any

from service.catalog.architectures import Shortcut
from service.figures import COLD_COLORS, WARM_COLORS, FigureFormat, figure_style, save_figure
from service.jobs.groups import GroupSeries
from service.studies.formats import describe_origin
from service.studies.report import PanelReport, StudyReport

_LINES = {"train/error": ("--", 0.9), "test/error": ("-", 1.9)}
# Errors above this are cut off while the training begins, as in the paper.
_MAX_ERROR = 20.0
_PANEL_INCHES = (4.2, 3.4)
_COLUMNS = 3


def draw(report: StudyReport, file_format: FigureFormat) -> bytes:
    """Panels side by side, and below them where the data comes from."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - see service.figures

    panels = report.panels or [PanelReport(report.spec.definition.title, {})]
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    width, height = _PANEL_INCHES
    with figure_style():
        figure = Figure(figsize=(columns * width, rows * height + 0.4), layout="constrained")
        # One scale for all panels: the paper's figure is about the difference between them.
        axes = figure.subplots(rows, columns, squeeze=False, sharey=True).flatten()
        for panel, panel_axes in zip(panels, axes, strict=False):
            _draw_panel(panel_axes, panel, report)
        axes[0].set_ylabel("error, %; dashed: training, bold: test")
        axes[0].set_ylim(0, _choose_limit(panels))
        for unused in axes[len(panels) :]:
            unused.set_axis_off()
        figure.supxlabel(describe_origin(report), fontsize=7, color="#555555")
        return save_figure(figure, file_format)


def _draw_panel(axes: Any, panel: PanelReport, report: StudyReport) -> None:
    axes.set_title(panel.title, fontsize=9)
    axes.set_xlabel("iteration")
    if not panel.curves:
        axes.text(0.5, 0.5, "no results yet", ha="center", va="center", transform=axes.transAxes)
        return
    colors = _choose_colors(panel, report)
    for label, curves in panel.curves.items():
        for name, (style, width) in _LINES.items():
            if name in curves:
                line = {"linestyle": style, "linewidth": width, "color": colors[label]}
                _draw_curve(axes, curves[name], line, label if name == "test/error" else None)
    axes.set_xlim(left=0)
    axes.grid(visible=True, color="#e5e5e5", linewidth=0.5)
    axes.legend(fontsize=7, framealpha=0.85, edgecolor="none", loc="upper right")


def _draw_curve(axes: Any, series: GroupSeries, line: dict[str, Any], label: str | None) -> None:
    """Without a label: neither a band nor an entry of the legend."""
    count = max(series.n)
    shown = "_nolegend_" if label is None else f"{label} (n = {count})"
    axes.plot(series.x, series.mean, label=shown, **line)
    if count > 1 and label is not None:
        spread = [std or 0.0 for std in series.std]
        low = [mean - std for mean, std in zip(series.mean, spread, strict=True)]
        high = [mean + std for mean, std in zip(series.mean, spread, strict=True)]
        axes.fill_between(series.x, low, high, color=line["color"], alpha=0.15, linewidth=0)


def _choose_colors(panel: PanelReport, report: StudyReport) -> dict[str, str]:
    """Plain networks in warm colors, residual ones in cold colors, in the order of the study."""
    is_plain = {
        member.label: member.architecture.shortcut is Shortcut.NONE for member in report.members
    }
    plain = [label for label in panel.curves if is_plain[label]]
    residual = [label for label in panel.curves if not is_plain[label]]
    return {
        label: palette[index % len(palette)]
        for labels, palette in ((plain, WARM_COLORS), (residual, COLD_COLORS))
        for index, label in enumerate(labels)
    }


def _choose_limit(panels: Sequence[PanelReport]) -> float:
    """Above the last value of each curve."""
    last = [
        series.mean[-1]
        for panel in panels
        for curves in panel.curves.values()
        for series in curves.values()
        if series.mean
    ]
    return max(_MAX_ERROR, 1.15 * max(last, default=0.0))
