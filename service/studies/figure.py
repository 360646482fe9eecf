"""A report's learning curves in the paper's layout, by matplotlib.

As in Fig. 6: dashed lines are training error, bold lines test error; the mean over seeds with a
band of one standard deviation. Equal reports give equal bytes.
"""

from collections.abc import Iterable, Mapping, Sequence
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
_RESPONSES_INCHES = (6.4, 2.7)
_COLUMNS = 3


def draw(report: StudyReport, file_format: FigureFormat) -> bytes:
    """Panels side by side, and below them where the data comes from."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - see service.figures

    panels = report.panels or [PanelReport(report.spec.definition.title, {})]
    has_responses = any(panel.responses is not None for panel in panels)
    # One above the other, as in Fig. 7.
    columns = 1 if has_responses else min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    width, height = _RESPONSES_INCHES if has_responses else _PANEL_INCHES
    with figure_style():
        figure = Figure(figsize=(columns * width, rows * height + 0.4), layout="constrained")
        # One scale for all panels: the paper's figure is about the difference between them.
        is_shared = not has_responses
        axes = figure.subplots(rows, columns, squeeze=False, sharey=is_shared).flatten()
        for index, (panel, panel_axes) in enumerate(zip(panels, axes, strict=False)):
            if panel.responses is not None:
                _draw_responses(panel_axes, panel.title, panel.responses, report)
                continue
            _draw_panel(panel_axes, panel, report)
            if index == 0 or not is_shared:
                panel_axes.set_ylabel("error, %; dashed: training, bold: test")
                panel_axes.set_ylim(0, _choose_limit(panels))
        for unused in axes[len(panels) :]:
            unused.set_axis_off()
        figure.supxlabel(describe_origin(report), fontsize=7, color="#555555")
        return save_figure(figure, file_format)


def _draw_responses(
    axes: Any, title: str, responses: Mapping[str, Sequence[float]], report: StudyReport
) -> None:
    """As in Fig. 7: a line for each network over its layers."""
    axes.set_title(title, fontsize=9)
    axes.set_xlabel("layer")
    axes.set_ylabel("std")
    if not responses:
        _note_missing(axes)
        return
    colors = _choose_colors(responses, report)
    for label, stds in responses.items():
        line = {"color": colors[label], "marker": ".", "markersize": 3, "linewidth": 1.1}
        axes.plot(range(1, len(stds) + 1), stds, label=label, **line)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.grid(visible=True, color="#e5e5e5", linewidth=0.5)
    axes.legend(fontsize=7, framealpha=0.85, edgecolor="none", loc="upper right")


def _note_missing(axes: Any) -> None:
    axes.text(0.5, 0.5, "no results yet", ha="center", va="center", transform=axes.transAxes)


def _draw_panel(axes: Any, panel: PanelReport, report: StudyReport) -> None:
    axes.set_title(panel.title, fontsize=9)
    axes.set_xlabel("iteration")
    if not panel.curves:
        _note_missing(axes)
        return
    colors = _choose_colors(panel.curves, report)
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


def _choose_colors(labels: Iterable[str], report: StudyReport) -> dict[str, str]:
    """Plain networks in warm colors, residual ones in cold colors, in the order of the study."""
    is_plain = {
        member.label: member.architecture.shortcut is Shortcut.NONE for member in report.members
    }
    drawn = list(labels)
    plain = [label for label in drawn if is_plain[label]]
    residual = [label for label in drawn if not is_plain[label]]
    return {
        label: palette[index % len(palette)]
        for kind, palette in ((plain, WARM_COLORS), (residual, COLD_COLORS))
        for index, label in enumerate(kind)
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
