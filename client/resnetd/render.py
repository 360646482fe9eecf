"""How records look in a terminal."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from resnetd.models import (
    Attempt,
    Checkpoint,
    Cluster,
    Dataset,
    Delivery,
    Event,
    EventKind,
    Job,
    JobState,
    LogLine,
    Plan,
    Progress,
    Reason,
    Recipe,
    Series,
    WaitingJob,
    Webhook,
)

_STYLES = {
    JobState.RUNNING: "cyan",
    JobState.STARTING: "cyan",
    JobState.SUCCEEDED: "green",
    JobState.FAILED: "red",
    JobState.CANCELLED: "yellow",
    JobState.HELD: "yellow",
    JobState.PAUSED: "yellow",
}

_HERE = {True: "yes", False: "no", None: ""}

_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def printable(text: str) -> str:
    """Without what would command a terminal: names and log lines come from other people."""
    return "".join(
        letter
        if letter.isprintable() or letter in "\n\t"
        else letter.encode("unicode_escape").decode()
        for letter in text
    )


def duration(seconds: float) -> str:
    """Rounded to what a reader needs: 45 s, 12 min, 3.5 h, 2.1 d."""
    if seconds < _MINUTE:
        return f"{seconds:.0f} s"
    if seconds < _HOUR:
        return f"{seconds / _MINUTE:.0f} min"
    if seconds < _DAY:
        return f"{seconds / _HOUR:.1f} h"
    return f"{seconds / _DAY:.1f} d"


def percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} %"


def jobs(rows: Iterable[Job], *, now: datetime, has_bars: bool) -> Table:
    table = _table(
        "id", "name", "state", *(["progress"] if has_bars else []), "done", "error", "age"
    )
    for job in rows:
        done = _done_percent(job)
        bar: list[RenderableType] = [ProgressBar(completed=done or 0, width=12)] if has_bars else []
        table.add_row(
            _text(job.id),
            _text(job.name),
            _state(job.state),
            *bar,
            "" if done is None else f"{done:.0f} %",
            percent(_newest_error(job)),
            duration((now - job.created_at).total_seconds()),
        )
    return table


def job(
    shown: Job, *, attempts: Sequence[Attempt], checkpoints: Sequence[Checkpoint], now: datetime
) -> list[RenderableType]:
    sheet = Table.grid(padding=(0, 2))
    sheet.add_column(no_wrap=True, style="dim")
    sheet.add_column(overflow="fold")
    for name, value in _facts_of_job(shown, now):
        sheet.add_row(name, value)
    parts: list[RenderableType] = [sheet]
    if attempts:
        parts += ["", attempts_table(attempts)]
    if checkpoints:
        parts += ["", checkpoints_table(checkpoints)]
    return parts


def attempts_table(rows: Iterable[Attempt]) -> Table:
    table = _table("attempt", "state", "reason", "started", "ended", "message")
    for attempt in rows:
        table.add_row(
            str(attempt.number),
            _text(attempt.state),
            _text(attempt.reason or ""),
            _time(attempt.started_at),
            _time(attempt.ended_at),
            _text(attempt.message or ""),
        )
    return table


def checkpoints_table(rows: Iterable[Checkpoint]) -> Table:
    table = _table(
        "checkpoint", "attempt", "iteration", "test error", "train error", "size", "made"
    )
    for checkpoint in rows:
        table.add_row(
            _text(checkpoint.id),
            str(checkpoint.attempt),
            str(checkpoint.iteration),
            percent(checkpoint.test_error),
            percent(checkpoint.train_error),
            f"{checkpoint.size_bytes / 1e6:.1f} MB",
            _time(checkpoint.created_at),
        )
    return table


def datasets(rows: Iterable[Dataset]) -> Table:
    table = _table("name", "title", "classes", "train", "test", "recipe", "here")
    for dataset in rows:
        table.add_row(
            _text(dataset.name),
            _text(dataset.title),
            _number(dataset.classes),
            _number(dataset.train_images),
            _number(dataset.test_images),
            _text(dataset.default_recipe or ""),
            _HERE[dataset.available],
        )
    return table


def recipes(rows: Iterable[Recipe]) -> list[RenderableType]:
    """Each with a line for each field."""
    parts: list[RenderableType] = []
    for recipe in rows:
        sheet = Table.grid(padding=(0, 2))
        for name, value in recipe.fields.items():
            if name != "name":
                sheet.add_row(f"  {printable(name)}", _text(str(value)))
        parts += [printable(f"{recipe.name}: {' '.join(recipe.source.split())}"), sheet]
    return parts


def cluster(seen: Cluster) -> list[str]:
    if seen.seen_at is None:
        return ["The cluster was not seen yet; is a dispatcher running?"]
    return [
        f"CPUs: {seen.reserved_cpus} of {seen.cpus} reserved",
        f"GPUs: {seen.reserved_gpus:g} of {seen.gpus} reserved",
        f"seen at {_time(seen.seen_at)}",
    ]


def queue(rows: Iterable[WaitingJob]) -> Table:
    table = _table("#", "id", "name", "state", "priority", "starts", "why it waits")
    for row in rows:
        table.add_row(
            _number(row.waiting.position),
            _text(row.job_id),
            _text(row.name),
            _state(row.state),
            f"{row.waiting.effective_priority:.1f}" if row.waiting.effective_priority else "",
            _time(row.waiting.starts_p50),
            _text(row.waiting.message),
        )
    return table


def webhooks(rows: Iterable[Webhook]) -> Table:
    table = _table("id", "url", "states", "user")
    for row in rows:
        table.add_row(
            _text(row.id), _text(row.url), _text(", ".join(row.states)), _text(row.user or "")
        )
    return table


def deliveries(rows: Iterable[Delivery]) -> Table:
    table = _table("at", "type", "state", "tries", "answer")
    for row in rows:
        answer = str(row.status) if row.status is not None else row.error or ""
        kind = _text(str(row.payload.get("type", "")))
        table.add_row(_time(row.created_at), kind, _text(row.state), str(row.tries), _text(answer))
    return table


def plan(made: Plan) -> Table:
    sheet = Table.grid(padding=(0, 2))
    memory = "" if made.memory_bytes is None else f"{made.memory_bytes / 1e6:.0f} MB a worker"
    minutes = made.minutes
    lasts = (
        "" if minutes is None else f"{duration(minutes.p50 * 60)} to {duration(minutes.p90 * 60)}"
    )
    for name, value in (
        ("network", printable(made.network)),
        ("parameters", _number(made.parameters)),
        ("multiply-adds", _number(made.multiply_adds)),
        ("memory", memory),
        ("takes", lasts or "unknown: nothing like it has run"),
        ("starts", _time(made.waiting.starts_p50)),
        ("queue", _text(made.waiting.message).plain),
    ):
        if value:
            sheet.add_row(name, value)
    return sheet


def metrics(series: Mapping[str, Series]) -> Table:
    table = _table("series", "points", "newest", "at iteration", "lowest")
    for name, points in sorted(series.items()):
        finite = [value for value in points.values if value is not None]
        table.add_row(
            _text(name),
            str(len(points.values)),
            _value(points.values[-1]) if points.values else "",
            str(points.iterations[-1]) if points.iterations else "",
            _value(min(finite)) if finite else "",
        )
    return table


def event(happened: Event) -> str:
    """A sentence without subject: state queued -> starting."""
    data = happened.data
    if happened.kind == EventKind.STATE:
        says_it_already = {None, Reason.COMPLETED, Reason.CANCELLED}
        reason = "" if data.get("reason") in says_it_already else f" ({data['reason']})"
        return printable(f"{data.get('from')} -> {data.get('to')}{reason}")
    told = _plain(data)
    return printable(f"{happened.kind}: {told}" if told else str(happened.kind))


def log_line(line: LogLine) -> str:
    return f"{_time(line.at)} {line.level:<7} {printable(line.message)}"


def progress(at: Progress) -> str:
    """What belongs beside a bar, the most wanted first: a narrow terminal cuts the rest."""
    errors = [("test", "test/error"), ("train", "train/error")]
    loss = at.metrics.get("train/loss")
    told = [f"{duration(at.eta_seconds)} left"] if at.eta_seconds is not None else []
    told += [f"loss {loss:.3f}"] if loss is not None else []
    told += [
        f"{name} {percent(at.metrics[key])}"
        for name, key in errors
        if at.metrics.get(key) is not None
    ]
    if at.images_per_second is not None:
        told.append(f"{at.images_per_second:.0f} images/s")
    return ", ".join(told)


def outcome(ended: Job) -> str:
    """How it ended; only a failure's message may need several lines."""
    if ended.state != JobState.SUCCEEDED:
        why = [part for part in (ended.reason, ended.message) if part and part != ended.state]
        return printable(": ".join([ended.state, *why]))
    if ended.result is None:
        return ended.state
    told = [
        f"{name} {percent(value)}"
        for name, value in (
            ("test error", ended.result.test_error),
            ("train error", ended.result.train_error),
        )
        if value is not None
    ]
    if ended.result.training_seconds is not None:
        told.append(f"{duration(ended.result.training_seconds)} of training")
    return ": ".join([ended.state, ", ".join(told)]) if told else ended.state


def time_of(at: datetime | None) -> str:
    return _time(at)


def _facts_of_job(shown: Job, now: datetime) -> list[tuple[str, RenderableType]]:
    recipe = shown.spec.get("recipe")
    facts: list[tuple[str, RenderableType]] = [
        ("id", _text(shown.id)),
        ("name", _text(shown.name)),
        ("network", _text(shown.network)),
        ("state", _state(shown.state)),
    ]
    if shown.stop_requested is not None:
        facts.append((_text(shown.stop_requested).plain, "asked for; at its next step boundary"))
    if shown.waiting is not None:
        facts.append(("waits", _text(shown.waiting.message)))
        facts.append(("starts", _time(shown.waiting.starts_p50)))
    if shown.is_final:
        facts.append(("outcome", _text(outcome(shown))))
    elif shown.reason is not None:
        facts.append(
            ("last attempt", _text(": ".join(filter(None, (shown.reason, shown.message)))))
        )
    if shown.progress is not None and not shown.is_final:
        at = shown.progress
        facts.append(("progress", f"{at.iteration}/{at.iterations} ({at.percent:.0f} %)"))
        facts.append(("", _text(progress(at))))
    facts += [
        ("dataset", _text(str(shown.spec.get("dataset", "")))),
        ("recipe", _text(_plain(recipe) if isinstance(recipe, Mapping) else str(recipe or ""))),
        ("parameters", _number(shown.parameters)),
        (
            "attempts",
            f"{shown.attempts}, of which {shown.restarts} restarts"
            if shown.restarts
            else str(shown.attempts),
        ),
        (
            "created",
            f"{_time(shown.created_at)} ({duration((now - shown.created_at).total_seconds())} ago)",
        ),
        ("started", _time(shown.started_at)),
        ("finished", _time(shown.finished_at)),
    ]
    return [(name, value) for name, value in facts if value != ""]


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        is_id = column in {"id", "checkpoint"}
        table.add_column(column.upper(), no_wrap=True, overflow="fold" if is_id else "ellipsis")
    return table


def _text(value: str) -> Text:
    """Never markup: a name may hold brackets."""
    return Text(printable(value))


def _state(state: JobState) -> Text:
    return Text(printable(state), style=_STYLES.get(state, ""))


def _done_percent(shown: Job) -> float | None:
    if shown.progress is not None:
        return shown.progress.percent
    return 100.0 if shown.state == JobState.SUCCEEDED else None


def _newest_error(shown: Job) -> float | None:
    """Of the test set: the final one, or the newest."""
    if shown.result is not None:
        return shown.result.test_error
    return shown.progress.metrics.get("test/error") if shown.progress is not None else None


def _time(at: datetime | None) -> str:
    """In the reader's own time zone."""
    return "" if at is None else f"{at.astimezone():%Y-%m-%d %H:%M:%S}"


def now() -> datetime:
    return datetime.now(UTC)


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _value(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.5g}"


def _plain(data: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in data.items() if value is not None)
