"""A report as Markdown, LaTeX and CSV. Equal reports give equal bytes: no time, no random order."""

import csv
import io
from collections.abc import Callable, Collection, Sequence

from service.jobs.groups import SampleStatistics
from service.specs.study_spec import Column, PaperValue, StudyMetric
from service.states import JobState
from service.studies.report import Cell, EnsembleReport, MemberReport, StudyReport, Verdict
from service.text import count_of

_LATEX_ESCAPES = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
    }
)


def to_markdown(report: StudyReport) -> str:
    definition = report.spec.definition
    lines = [f"# {definition.title}", "", describe_origin(report), ""]
    if definition.notes:
        lines += [definition.notes.strip(), ""]
    lines += _markdown_table(*_make_table(report, _escape_markdown))
    rows = _list_analysis_numbers(report, _escape_markdown)
    if rows:
        lines += ["", "Analyses of the last checkpoints:", ""]
        lines += _markdown_table(["member", "analysis", "number", "n", "value"], rows)
    if report.differences:
        lines += ["", "Differences over pairs of equal seeds:", ""]
        lines += [
            f"- {_escape_markdown(tested.text)}{_describe_claim(tested.agrees)}"
            for tested in report.differences
        ]
    gaps = [f"- {found.label}: {found.gap}" for found in report.rows if found.gap]
    if gaps:
        lines += ["", "Missing results:", "", *gaps]
    if definition.source:
        lines += ["", f"Numbers of the paper: {definition.source.strip()}"]
    jobs = [
        f"- {found.label}: "
        + ", ".join(f"seed {seed}: {job_id or 'deleted'}" for seed, job_id, _ in found.jobs)
        for found in report.rows
        if found.jobs
    ]
    lines += ["", "Jobs:", "", *jobs] if jobs else []
    lines += [""]
    return "\n".join(lines)


def to_latex(report: StudyReport) -> str:
    """A table for the package booktabs."""
    header, rows = _make_table(report, _escape_latex)
    definition = report.spec.definition
    columns = "ll" + "r" * (len(header) - 2)
    lines = [
        f"% {_escape_latex(definition.title)}; study {report.id}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        " & ".join(header) + r" \\",
        r"\midrule",
        *(" & ".join(row) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
        *_to_latex_analyses(report),
        rf"% {_escape_latex(describe_origin(report))}",
        *(f"% {_escape_latex(tested.text)}" for tested in report.differences),
        "",
    ]
    return "\n".join(lines)


def to_csv(report: StudyReport) -> str:
    """One row for each job and metric, with what it is compared with: for other programs."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        [
            "study",
            "scale",
            "dataset",
            "member",
            "network",
            "metric",
            "n",
            "mean",
            "std",
            "ci_low",
            "ci_high",
            "min",
            "max",
            "paper",
            "difference",
            "verdict",
            "jobs",
        ]
    )
    study = (report.spec.definition.name, report.spec.scale, report.spec.dataset)
    for found in report.rows:
        for column, cell in found.cells.items():
            paper = "" if cell.paper is None else _plain(cell.paper.value)
            beside = [paper, _plain(cell.difference), cell.verdict or ""]
            statistics = _list_statistics(cell.statistics)
            row = [*study, found.label, found.network, column, *statistics, *beside]
            writer.writerow([*row, _join(found.jobs)])
    for member in report.members:
        common = [*study, member.label, member.network]
        for analysis in member.analyses:
            for number, numbers in analysis.numbers.items():
                values = _list_statistics(numbers)
                writer.writerow(
                    [
                        *common,
                        f"{analysis.name}/{number}",
                        *values,
                        "",
                        "",
                        "",
                        _join(analysis.jobs),
                    ]
                )
    return text.getvalue()


def _list_statistics(found: SampleStatistics | None) -> list[object]:
    if found is None:
        return [""] * (1 + len(_STATISTICS))
    return [found.n, *(_plain(getattr(found, name)) for name in _STATISTICS)]


def _join(jobs: Sequence[tuple[int, str | None, JobState | None]]) -> str:
    return " ".join(job_id for _, job_id, _ in jobs if job_id)


_STATISTICS = ("mean", "std", "ci_low", "ci_high", "min", "max")


def describe_origin(report: StudyReport) -> str:
    """Scale, data and seeds, which are on every output."""
    spec = report.spec
    if not spec.is_training:
        return f"Counted for images of {spec.dataset}; nothing is trained."
    text = (
        f"Scale {spec.scale}, dataset {spec.dataset}, {count_of(spec.seeds, 'seed')}; "
        f"{report.finished} of {count_of(report.total, 'job')} finished."
    )
    if spec.definition.paper and not spec.is_paper_comparable:
        text += (
            " The paper's numbers are of its full recipe"
            + (f" on {spec.definition.paper_dataset}" if spec.definition.paper_dataset else "")
            + " and are not comparable with these."
        )
    evaluation = spec.definition.evaluated_by
    if evaluation is not None:
        text += f" Test errors are those of the analysis {evaluation}."
    return text


def format_statistics(found: SampleStatistics | None) -> str:
    """The mean and, over several seeds, the standard deviation: "8.75 ± 0.16"."""
    if found is None:
        return "-"
    return f"{found.mean:.2f}" if found.std is None else f"{found.mean:.2f} ± {found.std:.2f}"


def format_paper(value: PaperValue | None) -> str:
    if value is None:
        return ""
    return f"{value.value:.2f}" if value.std is None else f"{value.value:.2f} ± {value.std:.2f}"


def _list_analysis_numbers(report: StudyReport, escape: Callable[[str], str]) -> list[list[str]]:
    """A row for each member, analysis and number."""
    return [
        [
            escape(cell)
            for cell in (
                member.label,
                analysis.name,
                number.replace("_", " "),
                f"{found.n}",
                format_statistics(found),
            )
        ]
        for member in report.members
        for analysis in member.analyses
        for number, found in analysis.numbers.items()
    ]


def _to_latex_analyses(report: StudyReport) -> list[str]:
    rows = _list_analysis_numbers(report, _escape_latex)
    if not rows:
        return []
    return [
        "",
        r"\begin{tabular}{lllrr}",
        r"\toprule",
        r"member & analysis & number & n & value \\",
        r"\midrule",
        *(" & ".join(row) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]


def _make_table(
    report: StudyReport, escape: Callable[[str], str]
) -> tuple[list[str], list[list[str]]]:
    """Header and rows; the first two columns are text."""
    definition = report.spec.definition
    beside = ["difference", "verdict"] if report.spec.is_paper_comparable else []
    printed = {metric for values in definition.paper.values() for metric in values}
    is_training = report.spec.is_training
    header = ["member", "network", *(["parameters", "n"] if is_training else [])]
    columns = report.spec.columns
    for column in columns:
        header.append(column.heading)
        if column in printed:
            header += [f"paper, {definition.paper_dataset or 'its own data'}", *beside]
    rows = [
        _name_row(found, is_training=is_training) + _make_row(found, columns, printed, beside)
        for found in report.rows
    ]
    for label, values in report.paper_only.items():
        row = [label, "the paper only", *(["", ""] if is_training else [])]
        for column in columns:
            row.append("")
            if column in printed:
                row += [format_paper(values.get(column)), *([""] * len(beside))]
        rows.append(row)
    return [escape(cell) for cell in header], [[escape(cell) for cell in row] for row in rows]


def _name_row(found: MemberReport | EnsembleReport, *, is_training: bool) -> list[str]:
    if not is_training:
        return [found.label, found.network]
    counted = max(
        (
            cell.statistics.n
            for column, cell in found.cells.items()
            if cell.statistics and isinstance(column, StudyMetric)
        ),
        default=0,
    )
    parameters = found.parameters if isinstance(found, MemberReport) else None
    return [
        found.label,
        found.network,
        "" if parameters is None else f"{parameters:,}",
        f"{counted}",
    ]


def _make_row(
    found: MemberReport | EnsembleReport,
    columns: Sequence[Column],
    printed: Collection[Column],
    beside: Sequence[str],
) -> list[str]:
    row = []
    for column in columns:
        cell = found.cells.get(column)
        row.append("" if cell is None else format_statistics(cell.statistics))
        if column in printed:
            row.append("" if cell is None else format_paper(cell.paper))
            if beside:
                row += ["", ""] if cell is None else [_signed(cell), _describe(cell.verdict)]
    return row


def _signed(cell: Cell) -> str:
    return "" if cell.difference is None else f"{cell.difference:+.2f}"


def _describe(verdict: Verdict | None) -> str:
    return "" if verdict is None else verdict.replace("-", " ")


def _describe_claim(agrees: bool | None) -> str:
    if agrees is None:
        return ""
    return "; as in the paper" if agrees else "; the opposite of the paper"


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = "|" + "|".join("---" if index < 2 else "---:" for index in range(len(header))) + "|"  # noqa: PLR2004
    return [f"| {' | '.join(cells)} |" for cells in (header,)] + [
        rule,
        *(f"| {' | '.join(cells)} |" for cells in rows),
    ]


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _escape_markdown(text: str) -> str:
    return text.replace("|", r"\|").replace("<", "&lt;")


def _escape_latex(text: str) -> str:
    return text.translate(_LATEX_ESCAPES)
