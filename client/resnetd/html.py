"""How records show themselves in a notebook: HTML with inline SVG, in light and in dark."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from resnetd.text import format_number

if TYPE_CHECKING:
    from resnetd.models import Comparison, Job, Plan, SampleStatistics, Search, Series, Study

Points = Sequence[tuple[float, float]]

_WIDTH, _HEIGHT = 240.0, 48.0
# Text has the color of the page. The curve is Okabe and Ito's blue, lighter where it is dark:
# by the theme of JupyterLab or VS Code, else by the setting of the browser.
_STYLE = """<style>
.resnetd { --curve: #0072b2; color: inherit; font-size: 13px; line-height: 1.5 }
@media (prefers-color-scheme: dark) { .resnetd { --curve: #56b4e9 } }
[data-jp-theme-light="true"] .resnetd, .vscode-light .resnetd { --curve: #0072b2 }
[data-jp-theme-light="false"] .resnetd, .vscode-dark .resnetd { --curve: #56b4e9 }
.resnetd progress { width: 240px; accent-color: var(--curve) }
.resnetd svg { display: block; overflow: visible }
.resnetd polyline { fill: none; stroke: var(--curve); stroke-width: 1.5 }
.resnetd table { border-collapse: collapse } .resnetd td, .resnetd th { text-align: left }
.resnetd .side { opacity: .7 }
</style>"""


def job(shown: "Job", curve: Points = ()) -> str:
    """`curve`: the test errors by iteration."""
    lines = [_head(shown.name, shown.id, shown.state)]
    progress = shown.progress
    if progress is not None:
        parts = [f"iteration {progress.iteration:,} of {progress.iterations:,}"]
        if not shown.is_final and progress.images_per_second is not None:
            parts.append(f"{format_number(progress.images_per_second)} images/s")
        if not shown.is_final and progress.eta_seconds is not None:
            parts.append(f"{progress.eta_seconds:,.0f} s left")
        lines += [
            f'<progress max="{progress.iterations}" value="{progress.iteration}"></progress>',
            _line(", ".join(parts)),
        ]
    if shown.waiting is not None:
        lines.append(_line(shown.waiting.message))
    if shown.result is not None:
        lines.append(_line(_describe_result(shown)))
    else:
        lines.append(_line(": ".join(part for part in (shown.reason, shown.message) if part)))
    if len(curve) > 1:
        lines += [draw_curve(curve), _line(f"test error, now {curve[-1][1]:.2f} %")]
    return _block(lines)


def metrics(shown: "Mapping[str, Series]") -> str:
    """A curve for each series; those of the steps and the machine are left out."""
    rows = []
    for name, series in sorted(shown.items()):
        curve = finite_points(series)
        if name.startswith(("step/", "machine/")) or not curve:
            continue
        lowest = min(value for _, value in curve)
        rows.append(
            f"<tr><th>{escape(name)}</th><td>{draw_curve(curve)}</td>"
            f"<td>{curve[-1][1]:.4g}<br><span class='side'>lowest {lowest:.4g}</span></td></tr>"
        )
    return _block([f"<table>{''.join(rows)}</table>" if rows else _line("no points yet")])


def plan(shown: "Plan") -> str:
    rows: list[tuple[str, object]] = [("starts", shown.waiting.message)]
    if shown.parameters is not None:
        rows.append(("parameters", f"{shown.parameters:,}"))
    if shown.multiply_adds is not None:
        rows.append(("multiply-adds", f"{shown.multiply_adds:,}"))
    if shown.minutes is not None:
        median, high = format_number(shown.minutes.p50), format_number(shown.minutes.p90)
        rows.append(("minutes", f"{median}, or up to {high}"))
    rows += [("note", note) for note in shown.notes]
    return _block([_head(shown.network), _table((), rows)])


def search(shown: "Search") -> str:
    counts = ", ".join(f"{count} {state}" for state, count in (shown.counts or {}).items())
    lines = [_head(shown.name, shown.id, shown.state), _line(counts), _line(shown.message or "")]
    if shown.best:
        rows = [
            (f"#{trial.number}", _fields(trial.params), _fields(trial.values))
            for trial in shown.best
        ]
        lines.append(_table(("best trial", "parameters", "values"), rows))
    return _block(lines)


def study(shown: "Study") -> str:
    rows = [
        (
            member.label,
            *(
                "" if cell is None or cell.statistics is None else _mean(cell.statistics)
                for cell in (member.results.get(column) for column in shown.columns)
            ),
        )
        for member in shown.members
    ]
    lines = [_head(shown.name, shown.id, "finished" if shown.is_final else shown.state)]
    if rows:
        lines.append(_table(("", *shown.columns), rows))
    return _block([*lines, *(_line(difference.text) for difference in shown.differences)])


def comparison(shown: "Comparison") -> str:
    state = f"finished: {shown.finished} of {shown.total}"
    return _block([_head("comparison", shown.id, state), _line(shown.difference.text)])


def finite_points(series: "Series") -> Points:
    pairs = zip(series.iterations, series.values, strict=True)
    return [(iteration, value) for iteration, value in pairs if value is not None]


def draw_curve(points: Points) -> str:
    """An SVG without axes, from the lowest to the highest value."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    width, height = (max(xs) - min(xs)) or 1.0, (max(ys) - min(ys)) or 1.0
    path = " ".join(
        f"{_WIDTH * (x - min(xs)) / width:.1f},{_HEIGHT * (max(ys) - y) / height:.1f}"
        for x, y in points
    )
    return (
        f'<svg viewBox="-2 -2 {_WIDTH + 4:g} {_HEIGHT + 4:g}" width="{_WIDTH:g}"'
        f' height="{_HEIGHT:g}" role="img" aria-label="from {ys[0]:.4g} to {ys[-1]:.4g}">'
        f'<polyline points="{path}"/></svg>'
    )


def _describe_result(shown: "Job") -> str:
    result = shown.result
    assert result is not None
    errors = {
        "test error": result.test_error,
        "top-5": result.test_top5_error,
        "validation error": result.validation_error,
        "train error": result.train_error,
    }
    parts = [f"{name} {value:.2f} %" for name, value in errors.items() if value is not None]
    if result.training_seconds is not None:
        parts.append(f"{result.training_seconds:,.0f} s of training")
    return ", ".join(parts)


def _mean(statistics: "SampleStatistics") -> str:
    deviation = "" if statistics.std is None else f" ± {statistics.std:.2f}"
    return f"{statistics.mean:.2f}{deviation} (n={statistics.n})"


def _fields(values: Mapping[str, object]) -> str:
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in values.items()
    )


def _head(name: str, run_id: str = "", state: str = "") -> str:
    return f"<div><b>{escape(name)}</b> <code>{escape(run_id)}</code> {escape(state)}</div>"


def _line(text: str) -> str:
    return f'<div class="side">{escape(text)}</div>' if text else ""


def _table(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table>{f'<tr>{head}</tr>' if head else ''}{body}</table>"


def _block(lines: Iterable[str]) -> str:
    return f'{_STYLE}<div class="resnetd">{"".join(lines)}</div>'
