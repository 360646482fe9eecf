"""Records as text and tables in a terminal."""

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from resnetd.models import (
    Alert,
    AnalysisJob,
    AnalysisResult,
    Attempt,
    AuditEntry,
    Cell,
    Checkpoint,
    Cluster,
    Dataset,
    Delivery,
    Duration,
    Envelope,
    EnvelopeVerdict,
    EstimateBasis,
    Event,
    EventKind,
    FairShare,
    ImagePrediction,
    Importance,
    Job,
    JobState,
    LogLine,
    Member,
    Model,
    ModelVersion,
    Person,
    Plan,
    Progress,
    QueueStatus,
    Quota,
    Reason,
    Recipe,
    SampleStatistics,
    Search,
    Series,
    Session,
    Share,
    Storage,
    Study,
    StudyEnsemble,
    Token,
    Trial,
    WaitingJob,
    Webhook,
)
from resnetd.records import OpenEnum
from resnetd.text import format_bytes, format_number

_STYLES: dict[str, str] = {
    JobState.RUNNING: "cyan",
    JobState.STARTING: "cyan",
    JobState.SUCCEEDED: "green",
    JobState.FAILED: "red",
    JobState.CANCELLED: "yellow",
    JobState.HELD: "yellow",
    JobState.PAUSED: "yellow",
}

_ID_COLUMNS = frozenset({"id", "job", "checkpoint", "dataset"})
# Of a long value, in characters: beside a field's name it fits on a line of 100.
_TEXT_WIDTH = 80

_MAX_RESULT_ROWS = 500

_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def printable(text: str) -> str:
    """Without control characters: names and log lines come from other users."""
    return "".join(
        character
        if character.isprintable() or character in "\n\t"
        else character.encode("unicode_escape").decode()
        for character in text
    )


def duration(seconds: float) -> str:
    """Rounded: 45 s, 12 min, 3.5 h, 2.1 d."""
    if seconds < _MINUTE:
        return f"{seconds:.0f} s"
    if seconds < _HOUR:
        return f"{seconds / _MINUTE:.0f} min"
    if seconds < _DAY:
        return f"{seconds / _HOUR:.1f} h"
    return f"{seconds / _DAY:.1f} d"


def percent(value: float | None, *, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f} %"


def time(at: datetime | None) -> str:
    """In the reader's time zone."""
    return "" if at is None else f"{at.astimezone():%Y-%m-%d %H:%M:%S}"


def jobs(rows: Iterable[Job], *, now: datetime, has_bars: bool) -> Table:
    listed = list(rows)
    bar = ["progress"] if has_bars else []
    kind = ["kind"] if any(row.kind != "training" for row in listed) else []
    reason = ["reason"] if any(_failure(row) for row in listed) else []
    return _table(
        ("id", "name", *kind, "state", *bar, "done", "error", "age", *reason),
        (
            (
                row.id,
                row.name,
                *(row.kind for _ in kind),
                row.state,
                *(ProgressBar(completed=_done_percent(row) or 0, width=12) for _ in bar),
                percent(_done_percent(row), digits=0),
                percent(_newest_error(row)),
                duration((now - row.created_at).total_seconds()),
                *(_failure(row) for _ in reason),
            )
            for row in listed
        ),
    )


def predictions(found: Iterable[tuple[Path, ImagePrediction]]) -> Table:
    """An image has a row for each class, its path in the first."""
    return _table(
        ("image", "class", "probability"),
        (
            (image if index == 0 else "", row.class_name, percent(100 * row.probability))
            for image, prediction in found
            for index, row in enumerate(prediction.classes)
        ),
    )


def _failure(row: Job) -> str:
    """Why it failed, or why the service holds it, in a line; empty for others."""
    if row.state != JobState.FAILED and not row.is_held_by_service:
        return ""
    return ": ".join(filter(None, (row.reason, first_line(row.message))))


def first_line(message: str | None) -> str:
    """The cause of a failure; a traceback may follow it."""
    return (message or "").strip().partition("\n")[0]


def job(
    shown: Job,
    *,
    attempts: Sequence[Attempt],
    checkpoints: Sequence[Checkpoint],
    envelope: Envelope,
    now: datetime,
    is_full: bool = False,
) -> list[RenderableType]:
    """`is_full`: with all lines of the messages, which may be tracebacks."""
    parts: list[RenderableType] = [_sheet(_fields_of_job(shown, envelope, now))]
    if attempts:
        parts += ["", attempts_table(attempts)]
    if checkpoints:
        parts += ["", checkpoints_table(checkpoints)]
    long = [row for row in attempts if row.message and "\n" in row.message.strip()]
    if is_full:
        for row in long:
            parts += ["", f"attempt {row.number}:", printable((row.message or "").strip())]
    elif long:
        parts += ["", f"The complete messages: resnetd show {shown.id} --full"]
    return parts


def attempts_table(rows: Iterable[Attempt]) -> Table:
    return _table(
        ("attempt", "state", "reason", "workers", "iterations", "started", "ended", "message"),
        (
            (
                row.number,
                row.state,
                row.reason,
                row.num_workers,
                _stretch(row),
                row.started_at,
                row.ended_at,
                first_line(row.message),
            )
            for row in rows
        ),
    )


def _stretch(row: Attempt) -> str | None:
    """Which iterations it trained."""
    return None if row.last_iteration is None else f"{row.first_iteration}-{row.last_iteration}"


def checkpoints_table(rows: Iterable[Checkpoint]) -> Table:
    listed = list(rows)
    names = ["names"] if any(row.names for row in listed) else []
    return _table(
        (
            *("checkpoint", "attempt", "iteration", "test error", "train error", "size"),
            *("created", *names),
        ),
        (
            (
                row.id,
                row.attempt,
                row.iteration,
                percent(row.test_error),
                percent(row.train_error),
                format_bytes(row.size_bytes),
                row.created_at,
                *(_join_names(row.names) for _ in names),
            )
            for row in listed
        ),
    )


def _join_names(names: Iterable[str]) -> str:
    """The number and the aliases of a model once: `resnet-56/course@2,production`."""
    by_model: dict[str, list[str]] = {}
    for name in names:
        model, _, selector = name.rpartition("@")
        by_model.setdefault(model, []).append(selector)
    return " ".join(f"{model}@{','.join(selectors)}" for model, selectors in by_model.items())


def analyses(rows: Iterable[AnalysisJob]) -> Table:
    return _table(
        ("id", "kind", "state", "iteration", "dataset", "result"),
        (
            (
                row.job_id,
                row.kind,
                row.state,
                row.iteration,
                row.dataset,
                ", ".join(f"{name} {_value(value)}" for name, value in (row.numbers or {}).items()),
            )
            for row in rows
        ),
    )


def analysis(result: AnalysisResult) -> list[RenderableType]:
    """Its numbers, its tables, and how they were measured."""
    parts: list[RenderableType] = [
        _sheet([(name.replace("_", " "), _value(value)) for name, value in result.numbers.items()])
    ]
    for table in result.tables:
        rows = ([_cell_of(cell) for cell in row] for row in table.rows[:_MAX_RESULT_ROWS])
        parts += ["", _table([name.replace("_", " ") for name in table.columns], rows)]
        if (total := len(table.rows)) > _MAX_RESULT_ROWS:
            shown = f"the first {_MAX_RESULT_ROWS} of {total:,}"
            parts.append(f"{shown}; all: resnetd analysis ID --csv --table {table.name}")
    return [*parts, "", *(printable(note) for note in result.notes)]


def _cell_of(cell: float | str | None) -> object:
    return _value(cell) if isinstance(cell, float) or cell is None else cell


def search(shown: Search, *, now: datetime) -> Table:
    best = [
        ", ".join(f"{metric} {value:g}" for metric, value in trial.values.items())
        + f" (trial {trial.number}, job {trial.job_id})"
        for trial in shown.best or ()
    ]
    counts = ", ".join(f"{count} {state}" for state, count in (shown.counts or {}).items() if count)
    spec = shown.spec
    age = duration((now - shown.created_at).total_seconds())
    return _sheet(
        [
            ("id", shown.id),
            ("name", shown.name),
            ("state", shown.state),
            ("end reason", shown.end_reason),
            ("message", first_line(shown.message) or None),
            *(("best", text) for text in best),
            ("trials", counts or None),
            ("algorithm", spec.get("algorithm")),
            *(("metric", metric) for metric in _as_list(spec.get("metric"))),
            *(
                ("space", f"{path}: {_plain(dimension)}")
                for path, dimension in spec.get("space", {}).items()
            ),
            ("budget", _plain(spec.get("budget", {}))),
            ("created", f"{time(shown.created_at)} ({age} ago)"),
        ]
    )


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def searches(rows: Iterable[Search]) -> Table:
    return _table(
        ("id", "name", "state", "end reason"),
        ((row.id, row.name, row.state, row.end_reason) for row in rows),
    )


def studies(rows: Iterable[Study]) -> Table:
    return _table(
        ("id", "name", "scale", "dataset", "seeds", "created"),
        (
            (row.id, row.name, row.scale, row.dataset, row.seeds, time(row.created_at))
            for row in rows
        ),
    )


def study(shown: Study) -> Table:
    """A line for each member and ensemble: its results over seeds, and the paper's."""
    found: list[Member | StudyEnsemble] = [*shown.members, *shown.ensembles]
    has_paper = any(result.paper for row in found for result in row.results.values())
    columns = ["member", "network", "n"]
    for column in shown.columns:
        columns += [column, "paper"] if has_paper else [column]
    rows = []
    for row in found:
        results = [row.results.get(column, Cell()) for column in shown.columns]
        network = row.network if isinstance(row, Member) else f"mean of {len(row.members)}"
        counts = [result.statistics.n for result in results if result.statistics is not None]
        cells: list[object] = [row.label, network, max(counts, default=0)]
        for result in results:
            cells.append(_mean(result.statistics))
            if has_paper:
                cells.append("" if result.paper is None else f"{result.paper.value:.2f}")
        rows.append([*cells, row.gap])
    return _table([*columns, "missing"], rows)


def study_analyses(shown: Study) -> Table:
    """A line for each member, analysis and number, over seeds."""
    return _table(
        ("member", "analysis", "number", "n", "value"),
        (
            (member.label, analysis.name, number.replace("_", " "), found.n, _mean(found))
            for member in shown.members
            for analysis in member.analyses
            for number, found in analysis.numbers.items()
        ),
    )


def _mean(found: SampleStatistics | None) -> str:
    if found is None:
        return ""
    return f"{found.mean:.2f}" if found.std is None else f"{found.mean:.2f} ± {found.std:.2f}"


def trials(rows: Sequence[Trial]) -> Table:
    fields = list(rows[0].params) if rows else []
    metric_names = list(dict.fromkeys(metric for row in rows for metric in row.values))
    return _table(
        ("trial", "job", "state", *metric_names, *fields),
        (
            (
                row.number,
                row.job_id,
                row.reason or row.state,
                *(_trial_value(row, metric) for metric in metric_names),
                *(row.params.get(field) for field in fields),
            )
            for row in rows
        ),
    )


def _trial_value(row: Trial, metric: str) -> str | float | None:
    value, std = row.values.get(metric), row.stds.get(metric)
    return value if value is None or std is None else f"{value:.4g} ± {std:.2g}"


def trial(ended: Trial) -> str:
    """A line: #3 early-stopped: test/error 12.5 (shortcut=A)."""
    values = ", ".join(f"{metric} {value:g}" for metric, value in ended.values.items())
    params = ", ".join(f"{field}={value}" for field, value in ended.params.items())
    return f"#{ended.number} {ended.reason or ended.state}: {values or 'no value'} ({params})"


def importance(found: Mapping[str, Importance]) -> Table:
    return _table(
        ("metric", "field", "share"),
        (
            (metric, field, f"{100 * share:.1f} %")
            for metric, shares in found.items()
            for field, share in shares.shares.items()
        ),
    )


def datasets(rows: Iterable[Dataset]) -> Table:
    return _table(
        (
            *("dataset", "title", "classes", "train", "test", "recipe", "available"),
            *("jobs", "owner", "size"),
        ),
        (
            (
                row.name,
                row.title,
                row.classes,
                row.train_images,
                row.test_images,
                row.default_recipe,
                row.available,
                row.jobs,
                row.user,
                _bytes(row.stored_bytes),
            )
            for row in rows
        ),
    )


def recipes(rows: Iterable[Recipe]) -> list[RenderableType]:
    """Each with a line per field."""
    parts: list[RenderableType] = []
    for row in rows:
        fields = ((f"  {name}", str(value)) for name, value in row.fields.items() if name != "name")
        parts += [printable(f"{row.name}: {' '.join(row.source.split())}"), _sheet(fields)]
    return parts


def cluster(seen: Cluster) -> list[str]:
    if seen.seen_at is None:
        return ["No dispatcher has seen the cluster; is resnetd-worker dispatcher running?"]
    return [
        f"CPUs: {seen.reserved_cpus} of {seen.cpus} reserved",
        f"GPUs: {seen.reserved_gpus:g} of {seen.gpus} reserved",
        f"seen at {time(seen.seen_at)}",
    ]


def queue(rows: Iterable[WaitingJob]) -> Table:
    return _table(
        ("#", "id", "name", "state", "priority", "expected start", "reason"),
        (
            (
                row.waiting.position,
                row.job_id,
                row.name,
                row.state,
                row.waiting.effective_priority,
                row.waiting.starts_p50,
                _explain_waiting(row.waiting),
            )
            for row in rows
        ),
    )


def _explain_waiting(status: QueueStatus) -> str:
    if status.fair_share is None:
        return status.message
    return f"{status.message}; loses {status.fair_share.message}"


def whoami(found: Session) -> list[str]:
    group = f", in group {found.group}" if found.group is not None else ""
    limits = [f"token: {found.scope}"]
    if found.tag is not None:
        limits.append(f"only jobs with the tag {found.tag}")
    if found.expires_at is not None:
        limits.append(f"expires at {time(found.expires_at)}")
    return [f"{found.user}, {found.role}{group}", ", ".join(limits)]


def audit(rows: Iterable[AuditEntry]) -> Table:
    return _table(
        ("at", "user", "what", "subject", "details"),
        ((row.at, row.user, row.kind, row.subject, _plain(row.data)) for row in rows),
    )


def quotas(rows: Iterable[Quota]) -> Table:
    return _table(
        ("key", "jobs", "workers", "GPUs", "waiting", "core-hours", "GPU-hours", "storage"),
        (
            (
                row.key,
                row.jobs,
                row.workers,
                row.gpus,
                row.waiting,
                row.core_hours,
                row.gpu_hours,
                _bytes(row.stored_bytes),
            )
            for row in rows
        ),
    )


def storage(found: Storage) -> list[RenderableType]:
    sizes = (
        ("checkpoints", _bytes(found.checkpoint_bytes)),
        ("uploaded datasets", _bytes(found.dataset_bytes)),
        ("limit", _bytes(found.limit_bytes)),
    )
    jobs = [(job.id, job.name, _bytes(job.stored_bytes)) for job in found.largest_jobs]
    tables: list[RenderableType] = [_table(("stored", "size"), sizes)]
    return [*tables, _table(("job", "name", "size"), jobs)] if jobs else tables


def _bytes(count: int | None) -> str | None:
    return None if count is None else format_bytes(count)


def fair_share(found: FairShare) -> list[RenderableType]:
    settings = f"weight {found.weight:g}, half-life {found.half_life_days:g} d"
    settings = settings if found.weight else f"{settings}: off"
    if not found.usage:
        return [settings]
    return [
        settings,
        _table(
            ("key", "core-hours", "GPU-hours", "of most", "points"),
            (
                (
                    row.key,
                    format_number(row.core_hours),
                    format_number(row.gpu_hours),
                    f"{format_number(100 * row.relative)} %",
                    row.points,
                )
                for row in found.usage
            ),
        ),
    ]


def people(rows: Iterable[Person]) -> Table:
    return _table(
        ("name", "role", "group", "added", "tokens", "last used"),
        (
            (row.name, row.role, row.group, row.created_at, row.tokens, row.last_used_at)
            for row in rows
        ),
    )


def tokens(rows: Iterable[Token]) -> Table:
    return _table(
        ("id", "user", "label", "scope", "tag", "expires", "last used"),
        (
            (row.id, row.user, row.label, row.scope, row.tag, row.expires_at, row.last_used_at)
            for row in rows
        ),
    )


def webhooks(rows: Iterable[Webhook]) -> Table:
    return _table(
        ("id", "url", "states", "user"),
        ((row.id, row.url, ", ".join(row.states), row.user) for row in rows),
    )


def shares(rows: Iterable[Share]) -> Table:
    return _table(
        ("id", "shows", "user", "expires", "last used"),
        ((row.id, row.label, row.user, row.expires_at, row.last_used_at) for row in rows),
    )


def models(rows: Iterable[Model]) -> Table:
    return _table(
        ("name", "newest", "aliases", "user", "created"),
        (
            (
                row.name,
                row.newest_version,
                ", ".join(f"{alias.alias} {alias.version}" for alias in row.aliases),
                row.user,
                row.created_at,
            )
            for row in rows
        ),
    )


def model_versions(rows: Iterable[ModelVersion]) -> Table:
    return _table(
        ("version", "aliases", "error", "network", "job", "user", "created", "note"),
        (
            (
                row.version,
                ", ".join(row.aliases),
                percent(row.lineage.test_error),
                row.lineage.network,
                row.job_id,
                row.user,
                row.created_at,
                first_line(row.note),
            )
            for row in rows
        ),
    )


def model_version(shown: ModelVersion) -> RenderableType:
    """With its lineage."""
    return _sheet(_fields_of_version(shown))


def _fields_of_version(shown: ModelVersion) -> Iterator[tuple[str, object]]:
    lineage, source = shown.lineage, shown.lineage.source
    yield "model", f"{shown.name}@{shown.version}"
    yield from (("aliases", ", ".join(shown.aliases) or None), ("note", shown.note or None))
    yield "registered", f"{time(shown.created_at)} by {shown.user}"
    yield from (("job", shown.job_id), ("checkpoint", shown.checkpoint_id))
    yield "iteration", lineage.iteration
    yield "test error", percent(lineage.test_error) or None
    yield from (("network", lineage.network), ("dataset", lineage.dataset))
    checksum = lineage.dataset_checksum or {}
    yield "data hash", checksum.get("sha256")
    yield "seed", lineage.seed
    if source is None:
        yield "began with", "new weights"
    elif source.weights is not None:
        yield "began with", f"{source.weights} ({source.mode})"
    else:
        yield "began with", f"job {source.job}, iteration {source.iteration} ({source.mode})"
    yield from (("code", lineage.code_version), ("commit", lineage.code_commit))
    yield from (("code hash", lineage.training_code_sha256), ("weights", lineage.weights_sha256))


def model_history(rows: Iterable[Event]) -> Table:
    return _table(
        ("at", "user", "what", "details"),
        ((row.at, row.user, row.kind, _plain(row.data)) for row in rows),
    )


def alerts(rows: Iterable[Alert]) -> Table:
    return _table(
        ("id", "channel", "target", "on", "tags", "user"),
        (
            (
                row.id,
                row.channel,
                row.target,
                ", ".join(row.conditions),
                ", ".join(row.tags),
                f"{row.user} (all jobs)" if row.all_jobs else row.user,
            )
            for row in rows
        ),
    )


def deliveries(rows: Iterable[Delivery]) -> Table:
    return _table(
        ("created", "type", "state", "tries", "response"),
        (
            (
                row.created_at,
                row.payload.get("type"),
                row.state,
                row.tries,
                row.error if row.status is None else row.status,
            )
            for row in rows
        ),
    )


def plan(estimate: Plan) -> Table:
    return _sheet(
        [
            ("network", estimate.network),
            ("parameters", estimate.parameters),
            ("multiply-adds", estimate.multiply_adds),
            ("memory", _plan_memory(estimate)),
            ("run time", _plan_time(estimate.minutes)),
            ("epochs", estimate.epochs),
            ("expected start", estimate.waiting.starts_p50),
            ("queue", estimate.waiting.message),
            *(("note", note) for note in estimate.notes),
        ]
    )


def _plan_memory(estimate: Plan) -> str | None:
    resident, tensors = estimate.resident_bytes, estimate.tensor_bytes
    if resident is None:
        return None
    of_it = "" if tensors is None else f", of it {tensors / 1e6:.0f} MB of tensors"
    return f"{resident / 1e6:.0f} MB resident in each worker{of_it}"


def _plan_time(minutes: Duration | None) -> str:
    if minutes is None:
        return "unknown: no comparable job has run"
    median, high = duration(minutes.p50 * 60), duration(minutes.p90 * 60)
    expected = f"about {median}" if median == high else f"{median} to {high}"
    if minutes.basis == EstimateBasis.OTHER_NETWORKS:
        return f"{expected}, by multiply-adds from other networks (attempts: {minutes.samples})"
    if minutes.basis == EstimateBasis.MAX_SECONDS:
        return f"at most {high}, by its max_seconds: no comparable job has run"
    return f"{expected}, from jobs like it (attempts: {minutes.samples})"


def metrics(series: Mapping[str, Series]) -> Table:
    rows = []
    for name, points in sorted(series.items()):
        finite = [value for value in points.values if value is not None]
        newest = (_value(points.values[-1]), points.iterations[-1]) if points.values else ("", "")
        rows.append((name, len(points.values), *newest, _value(min(finite)) if finite else ""))
    return _table(("series", "points", "newest", "at iteration", "lowest"), rows)


def event(shown: Event) -> str:
    """A line without the time: queued -> starting, or queued -> cancelled by ann."""
    data = shown.data
    by = f" by {shown.user}" if shown.user is not None else ""
    if shown.kind == EventKind.STATE:
        is_obvious = data.get("reason") in {None, Reason.COMPLETED, Reason.CANCELLED}
        reason = "" if is_obvious else f" ({data['reason']})"
        return printable(f"{data.get('from')} -> {data.get('to')}{reason}{by}")
    if shown.kind == EventKind.CHECKPOINT:
        data = _describe_checkpoint(data)
    if isinstance(message := data.get("message"), str):
        data = {**data, "message": first_line(message)}
    details = _plain(data)
    return printable(f"{shown.kind}: {details}{by}" if details else f"{shown.kind}{by}")


def _describe_checkpoint(data: Mapping[str, Any]) -> dict[str, Any]:
    """With errors as everywhere else: test error 7.50 %."""
    return {
        name.replace("_", " "): percent(value)
        if name.endswith("_error") and isinstance(value, int | float)
        else value
        for name, value in data.items()
    }


def log_line(line: LogLine) -> str:
    return f"{time(line.at)} {line.level:<7} {printable(line.message)}"


def progress(shown: Progress) -> str:
    """The text beside a bar, the most important first: a narrow terminal cuts the end."""
    values: list[tuple[str, str]] = []
    if shown.eta_seconds is not None:
        values.append(("", f"{duration(shown.eta_seconds)} left"))
    if (loss := shown.metrics.get("train/loss")) is not None:
        values.append(("loss ", f"{loss:.3f}"))
    for label, series in (("test ", "test/error"), ("train ", "train/error")):
        values.append((label, percent(shown.metrics.get(series))))
    if shown.images_per_second is not None:
        values.append(("", f"{format_number(shown.images_per_second)} images/s"))
    return ", ".join(f"{label}{value}" for label, value in values if value)


def outcome(ended: Job) -> str:
    """One line."""
    if ended.state != JobState.SUCCEEDED:
        message = first_line(ended.message)
        causes = [part for part in (ended.reason, message) if part and part != ended.state]
        return printable(": ".join([ended.state, *causes]))
    if ended.result is None:
        return ended.state
    seconds = ended.result.training_seconds
    values = (
        ("test error ", percent(ended.result.test_error)),
        ("top-5 ", percent(ended.result.test_top5_error)),
        ("validation error ", percent(ended.result.validation_error)),
        ("train error ", percent(ended.result.train_error)),
        ("training time ", "" if seconds is None else duration(seconds)),
    )
    details = ", ".join(f"{label}{value}" for label, value in values if value)
    is_limited = ended.reason == Reason.BUDGET_REACHED
    budget = printable(f"{ended.reason}: {first_line(ended.message)}") if is_limited else ""
    return ": ".join(filter(None, (ended.state, details, budget)))


def _fields_of_job(shown: Job, envelope: Envelope, now: datetime) -> Iterator[tuple[str, object]]:
    recipe = shown.spec.get("recipe")
    yield from (("id", shown.id), ("name", shown.name), ("network", shown.network))
    yield "kind", None if shown.kind == "training" else shown.kind
    yield "state", shown.state
    if shown.stop_requested is not None:
        yield shown.stop_requested, "requested; at its next step"
    if shown.waiting is not None:
        yield "waiting", shown.waiting.message
        if shown.waiting.fair_share is not None:
            yield "fair share", f"loses {shown.waiting.fair_share.message}"
        yield "expected start", shown.waiting.starts_p50
    if shown.is_final:
        yield "outcome", _wrap(outcome(shown))
    elif shown.reason is not None:
        yield "last attempt", ": ".join(filter(None, (shown.reason, first_line(shown.message))))
    if shown.progress is not None and not shown.is_final:
        done = shown.progress
        yield "progress", f"{done.iteration}/{done.iterations} ({done.percent:.0f} %)"
        yield "", progress(done)
    if envelope.verdict != EnvelopeVerdict.UNKNOWN:
        yield "curve", _wrap(envelope.message)
    if shown.bottleneck is not None:
        yield "bottleneck", _wrap(shown.bottleneck.message)
    yield "dataset", shown.spec.get("dataset")
    yield "recipe", _wrap(_plain(recipe)) if isinstance(recipe, Mapping) else recipe
    yield "parameters", shown.parameters
    yield "attempts", shown.attempts
    yield "failed attempts", shown.restarts or None
    age = duration((now - shown.created_at).total_seconds())
    yield "created", f"{time(shown.created_at)} ({age} ago)"
    yield from (("started", shown.started_at), ("finished", shown.finished_at))


def _sheet(fields: Iterable[tuple[str, object]]) -> Table:
    """A row per field that has a value."""
    sheet = Table.grid(padding=(0, 2))
    sheet.add_column(no_wrap=True, style="dim")
    sheet.add_column(overflow="fold")
    for name, value in fields:
        if value is not None:
            sheet.add_row(_cell(name), _cell(value))
    return sheet


def _table(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> Table:
    """A line per row. A narrow terminal cuts the widest columns, but never an id."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    names, cells = list(columns), [list(row) for row in rows]
    for index, name in enumerate(names):
        is_id = name in _ID_COLUMNS
        width = max((len(str(row[index])) for row in cells), default=0) if is_id else None
        # Rich narrows only columns that may wrap; the cells do not.
        table.add_column(_line(name.upper()), no_wrap=is_id, min_width=width)
    for row in cells:
        table.add_row(
            *(value if isinstance(value, ProgressBar) else _line(_cell(value)) for value in row)
        )
    return table


def _line(text: str | Text) -> Text:
    line = Text(text) if isinstance(text, str) else text
    line.no_wrap, line.overflow = True, "ellipsis"
    return line


def _cell(value: object) -> Text:
    style = _STYLES.get(value, "") if isinstance(value, OpenEnum) else ""
    # Never markup: a name may have brackets.
    return Text(printable(_plain_text(value)), style=style)


def _plain_text(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:.4g}"
        case datetime():
            return time(value)
        case _:
            return str(value)


def _done_percent(shown: Job) -> float | None:
    if shown.progress is not None:
        return shown.progress.percent
    return 100.0 if shown.state == JobState.SUCCEEDED else None


def _newest_error(shown: Job) -> float | None:
    """Of the test set: the final error, or the newest."""
    if shown.result is not None:
        return shown.result.test_error
    return shown.progress.metrics.get("test/error") if shown.progress is not None else None


def _value(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.5g}"


def _plain(data: Mapping[str, Any]) -> str:
    """Without empty values, such as the message of an attempt that completed."""
    return ", ".join(f"{name} {value}" for name, value in data.items() if value not in (None, ""))


def _wrap(text: str) -> str:
    return textwrap.fill(text, _TEXT_WIDTH, break_long_words=False, break_on_hyphens=False)
