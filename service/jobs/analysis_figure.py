"""The figure of an analysis' result, by matplotlib. Equal results give equal bytes."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from service.figures import COLD_COLORS, WARM_COLORS, FigureFormat, figure_style, save_figure
from service.jobs import records
from service.jobs.analyses import read_responses
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
            points = _list_points(positions, values)
            axes.plot(*points, color=color, marker=".", label=_title(name))
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
    _name_bars(axes, [str(row[table.columns.index("class_name")]) for row in table.rows])


def _name_bars(axes: Any, names: list[str]) -> None:
    if len(names) <= _MAX_NAMES:
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    else:
        axes.set_xlabel("class")


_MAX_NAMES = 30


def _draw_predictions(figure: Any, result: AnalysisResult) -> None:
    """A bar for each class that an image has."""
    axes = figure.subplots()
    (table,) = (table for table in result.tables if table.name == "classes")
    counts = {str(name): count for name, count in table.rows if count}
    axes.bar(range(len(counts)), list(counts.values()), color=COLD_COLORS[0])
    axes.set_ylabel("images")
    _name_bars(axes, list(counts))


def _draw_ensemble(figure: Any, result: AnalysisResult) -> None:
    """A bar for each network, and a line at the error of all together."""
    axes = figure.subplots()
    (table,) = result.tables
    errors = [value or 0.0 for value in _read_numbers(table, "error")]
    axes.bar(range(len(errors)), errors, color=COLD_COLORS[0], label="single networks")
    together = next(v for name, v in result.numbers.items() if name.endswith("_error"))
    axes.axhline(together or 0.0, color=WARM_COLORS[0], linewidth=1.2, label="ensemble")
    axes.set_ylabel("error, %")
    names = [str(row[table.columns.index("network")]) for row in table.rows]
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=7)
    axes.legend(fontsize=7)


def _draw_layer_responses(figure: Any, result: AnalysisResult) -> None:
    """As Fig. 7: the layers in their order above, sorted by magnitude below."""
    values = read_responses(result)
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


def _draw_lesion(figure: Any, result: AnalysisResult) -> None:
    """As Veit et al. 2016: single dropped and repeated parts above, random lesions below."""
    figure.set_size_inches(7.2, 5.4)
    tables = {table.name: table for table in result.tables}
    grid = figure.subplots(2, 2)
    for axes, name in zip(grid[0], ("dropped", "repeated"), strict=True):
        errors = _read_numbers(tables[name], "error")
        axes.bar(
            range(1, len(errors) + 1), [error or 0.0 for error in errors], color=COLD_COLORS[0]
        )
        axes.set_xlabel(f"{name} part")
    for axes, name, column, title in (
        (grid[1][0], "deleted", "parts", "deleted parts"),
        (grid[1][1], "swapped", "kendall_tau", "Kendall tau of the order"),
    ):
        positions = _read_numbers(tables[name], column)
        axes.plot(
            *_list_points(positions, _read_numbers(tables[name], "error")),
            color=COLD_COLORS[0],
            marker=".",
            linestyle="none",
        )
        axes.set_xlabel(title)
    grid[1][1].invert_xaxis()
    for axes in grid.flat:
        axes.set_ylabel("error, %")
        axes.set_ylim(bottom=0)
        if (intact := result.numbers.get("error")) is not None:
            axes.axhline(intact, color=WARM_COLORS[0], linewidth=0.8)


def _draw_path_gradients(figure: Any, result: AnalysisResult) -> None:
    """As Veit et al. 2016, Fig. 6."""
    figure.set_size_inches(9.0, 3.0)
    (table,) = result.tables
    lengths = _read_numbers(table, "length")
    for axes, column, title in zip(
        figure.subplots(1, 3),
        ("share_of_paths", "gradient_norm", "share_of_gradient"),
        ("share of the paths", "gradient at the input", "share of the gradient"),
        strict=True,
    ):
        points = _list_points(lengths, _read_numbers(table, column))
        axes.plot(*points, color=COLD_COLORS[0], marker=".")
        axes.set_xlabel("path length, blocks")
        axes.set_ylabel(title)
        if column == "gradient_norm" and any(value > 0 for value in points[1]):
            axes.set_yscale("log")


def _draw_surface(figure: Any, result: AnalysisResult) -> None:
    """Contours of the loss, or its line; over them the path of a training, if it has one."""
    table = result.tables[0]
    xs, ys = (sorted({v for v in _read_numbers(table, c) if v is not None}) for c in ("x", "y"))
    if len(ys) == 1:
        _draw_line(figure, table)
        return
    figure.set_size_inches(5.2, 4.6)
    axes = figure.subplots()
    losses = [math.nan if value is None else value for value in _read_numbers(table, "loss")]
    rows = [losses[at : at + len(xs)] for at in range(0, len(losses), len(xs))]
    levels = _choose_levels(losses)
    if levels:
        contours = axes.contour(xs, ys, rows, levels=levels, cmap="viridis", linewidths=0.9)
        axes.clabel(contours, fontsize=6, fmt="%.3g")
    if len(result.tables) > 1:
        path = result.tables[1]
        axes.plot(
            *_list_points(_read_numbers(path, "x"), _read_numbers(path, "y")),
            color=WARM_COLORS[0],
            marker=".",
        )
        for axis, set_label in (("x", axes.set_xlabel), ("y", axes.set_ylabel)):
            set_label(f"component {axis}: {result.numbers[f'explained_by_{axis}'] or 0:.1%}")
    else:
        axes.set_xlabel("direction 1")
        axes.set_ylabel("direction 2")
    axes.set_title("loss", fontsize=9)


_LEVELS = 14


def _choose_levels(losses: Sequence[float]) -> list[float]:
    """Equal ratios, since losses grow by orders of magnitude; none where all are equal."""
    found = [loss for loss in losses if loss > 0]
    if not found or min(found) == max(found):
        return []
    ratio = max(found) / min(found)
    return [min(found) * ratio ** (step / _LEVELS) for step in range(1, _LEVELS)]


def _draw_interpolation(figure: Any, result: AnalysisResult) -> None:
    _draw_line(figure, result.tables[0])


def _draw_line(figure: Any, table: ResultTable) -> None:
    """Loss on the left axis, error on the right, as Li et al. 2018, Fig. 2."""
    axes = figure.subplots()
    xs = _read_numbers(table, "x")
    for drawn, column, title, color in (
        (axes, "loss", "loss", COLD_COLORS[0]),
        (axes.twinx(), "error", "error, %", WARM_COLORS[0]),
    ):
        drawn.plot(*_list_points(xs, _read_numbers(table, column)), color=color)
        drawn.set_ylabel(title, color=color)
        drawn.set_ylim(bottom=0)
        drawn.spines["right"].set_visible(column == "error")
    axes.set_xlabel("position")


_SHOWN_CHECKPOINTS = 8


def _draw_layer_statistics(figure: Any, result: AnalysisResult) -> None:
    """A line over the layers for each checkpoint, or for eight of them."""
    figure.set_size_inches(7.2, 5.4)
    weights, norms = result.tables
    iterations = sorted({int(row[0]) for row in weights.rows if isinstance(row[0], int | float)})
    if len(iterations) > _SHOWN_CHECKPOINTS:
        last = len(iterations) - 1
        places = {
            round(step * last / (_SHOWN_CHECKPOINTS - 1)) for step in range(_SHOWN_CHECKPOINTS)
        }
        iterations = [iterations[place] for place in sorted(places)]
    for axes, table, column, is_log in zip(
        figure.subplots(2, 2).flat,
        (weights, norms, norms, norms),
        ("gradient_norm", "running_variance", "scale", "share_near_zero"),
        (True, True, False, False),
        strict=True,
    ):
        for number, iteration in enumerate(iterations):
            chosen = table.model_copy(
                update={"rows": [row for row in table.rows if row[0] == iteration]}
            )
            points = _list_points(_read_numbers(chosen, "layer"), _read_numbers(chosen, column))
            share = (number + 1) / len(iterations)
            axes.plot(*points, color=COLD_COLORS[0], alpha=share, label=f"{iteration:,}")
            if is_log and any(value > 0 for value in points[1]):
                axes.set_yscale("log")
        axes.set_xlabel("layer" if table is weights else "batch norm")
        axes.set_ylabel(_title(column))
        axes.grid(visible=True, color="#e5e5e5", linewidth=0.5)
    figure.axes[0].legend(fontsize=6, title="iteration", title_fontsize=6)


def _draw_twins(figure: Any, result: AnalysisResult) -> None:
    """Errors, and above each bar the largest difference of a logit to the shallow network."""
    axes = figure.subplots()
    (table,) = result.tables
    names = [_title(str(row[0])) for row in table.rows]
    bars = axes.bar(names, [v or 0.0 for v in _read_numbers(table, "error")], color=COLD_COLORS[0])
    differences = _read_numbers(table, "max_logit_difference")
    axes.bar_label(bars, ["" if v is None else f"{v:.2g}" for v in differences], fontsize=7)
    axes.set_ylabel("error, %")


_DRAWINGS: dict[str, Callable[[Any, AnalysisResult], None]] = {
    "evaluation": _draw_class_errors,
    "ensemble": _draw_ensemble,
    "predictions": _draw_predictions,
    "layer-responses": _draw_layer_responses,
    "lesion": _draw_lesion,
    "path-gradients": _draw_path_gradients,
    "loss-landscape": _draw_surface,
    "interpolation": _draw_interpolation,
    "trajectory": _draw_surface,
    "layer-statistics": _draw_layer_statistics,
    "deepened-twin": _draw_twins,
}


def _read_numbers(table: ResultTable, column: str) -> list[float | None]:
    at = table.columns.index(column)
    cells = [row[at] for row in table.rows]
    return [float(cell) if isinstance(cell, int | float) else None for cell in cells]


def _list_points(
    xs: Sequence[float | None], ys: Sequence[float | None]
) -> tuple[list[float], list[float]]:
    """Without the points that are not known."""
    found = [(x, y) for x, y in zip(xs, ys, strict=True) if x is not None and y is not None]
    return [x for x, _ in found], [y for _, y in found]


def _title(name: str) -> str:
    return name.replace("_", " ")
