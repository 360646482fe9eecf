"""The figure of an analysis' result, by matplotlib. Equal results give equal bytes."""

from collections.abc import Callable
from typing import Any

from service.figures import COLD_COLORS, FigureFormat, figure_style, save_figure
from service.jobs import records
from service.specs.analysis_result import AnalysisResult, ResultTable
from service.storage.tables import JobRow

_INCHES = (6.4, 3.6)


def draw(job: JobRow, result: AnalysisResult, file_format: FigureFormat) -> bytes:
    """The figure of its kind, and below it what it is of."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - see service.figures

    with figure_style():
        figure = Figure(figsize=_INCHES, layout="constrained")
        _DRAWINGS.get(job.kind, draw_lines)(figure, result)
        network = records.architecture_of(job).label
        origin = f"{network} on {job.dataset}, weights of iteration {job.source_iteration:,}"
        figure.supxlabel(". ".join([origin, *result.notes]), fontsize=7, color="#555555", wrap=True)
        return save_figure(figure, file_format)


def draw_lines(figure: Any, result: AnalysisResult) -> None:
    """Each column of numbers of the first table over its first column."""
    axes = figure.subplots()
    if not result.tables:
        axes.set_axis_off()
        return
    table = result.tables[0]
    x, *others = table.columns
    positions = _read_numbers(table, x)
    for name, color in zip(others, COLD_COLORS * len(others), strict=False):
        values = _read_numbers(table, name)
        if any(value is not None for value in values):
            points = [
                (at, v) for at, v in zip(positions, values, strict=True) if None not in {at, v}
            ]
            axes.plot(*zip(*points, strict=True), color=color, marker=".", label=_title(name))
    axes.set_xlabel(_title(x))
    axes.legend(fontsize=7)
    axes.grid(visible=True, color="#e5e5e5", linewidth=0.5)


def _draw_class_errors(figure: Any, result: AnalysisResult) -> None:
    """A bar for each class."""
    axes = figure.subplots()
    (table,) = result.tables
    errors = [value or 0.0 for value in _read_numbers(table, "error")]
    axes.bar(range(len(errors)), errors, color=COLD_COLORS[0])
    axes.set_ylabel("error, %")
    names = [str(row[table.columns.index("class_name")]) for row in table.rows]
    if len(names) <= _MAX_NAMES:
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    else:
        axes.set_xlabel("class")


_MAX_NAMES = 30


def _draw_layer_responses(figure: Any, result: AnalysisResult) -> None:
    """As Fig. 7: the layers in their order above, sorted by magnitude below."""
    (table,) = result.tables
    values = [value or 0.0 for value in _read_numbers(table, "std")]
    top, bottom = figure.subplots(2, 1, sharey=True)
    for axes, shown, title in (
        (top, values, "layer index (original)"),
        (bottom, sorted(values, reverse=True), "layer index (sorted by magnitude)"),
    ):
        axes.plot(range(1, len(shown) + 1), shown, color=COLD_COLORS[0], marker=".")
        axes.set_xlabel(title)
        axes.set_ylabel("std")
        axes.set_ylim(bottom=0)
        axes.grid(visible=True, color="#e5e5e5", linewidth=0.5)


_DRAWINGS: dict[str, Callable[[Any, AnalysisResult], None]] = {
    "evaluation": _draw_class_errors,
    "layer-responses": _draw_layer_responses,
}


def _read_numbers(table: ResultTable, column: str) -> list[float | None]:
    at = table.columns.index(column)
    cells = [row[at] for row in table.rows]
    return [float(cell) if isinstance(cell, int | float) else None for cell in cells]


def _title(name: str) -> str:
    return name.replace("_", " ")
