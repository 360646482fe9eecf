"""Conditions of alerts that time decides: silent jobs, plateaus, quotas, and a stuck queue.

A condition is reported when it begins and again only after it has ended. What holds is computed
without a lock; only a difference to what was reported is written.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path

from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import Session

from service.access import people, quotas, storage_use, usage
from service.notifications import alerts
from service.notifications.alerts import Firing, Notice
from service.notifications.messages import describe_job
from service.resources import ResourceHours
from service.specs.quota import Quota, find_quota, list_keys
from service.states import (
    WAITING_STATES,
    AlertCondition,
    AttemptState,
    JobState,
    Role,
)
from service.storage.database import Database, Lock, serialize
from service.storage.tables import (
    AlertRow,
    AttemptRow,
    JobEventRow,
    JobRow,
    MetricRow,
    PersonRow,
    TagRow,
)
from service.text import count_of, format_bytes, format_number, plural

TIMED = frozenset(
    {
        AlertCondition.SILENT,
        AlertCondition.PLATEAU,
        AlertCondition.QUOTA,
        AlertCondition.QUEUE_STUCK,
    }
)
# Of a limit, from which on it is reported.
QUOTA_SHARE = 0.9
# The first of them that a job has decides whether it is on a plateau.
_EVALUATED = ("validation/error", "test/error")
_QUOTA_WORDS = {
    "jobs": "running job",
    "workers": "worker",
    "gpus": "GPU",
    "waiting": "waiting job",
    "core_hours": "core-hour",
    "gpu_hours": "GPU-hour",
    "stored_bytes": "byte",
}
_QUEUE = "queue"
_MAX_WAITING = 500
_EPOCH = datetime.fromtimestamp(0, UTC)


def check(database: Database, *, data_dir: Path, now: datetime) -> int:
    """Reports conditions that have begun, forgets those that have ended. Returns the begun ones."""
    with database.reading() as session:
        found = _find_holding(session, data_dir=data_dir, now=now)
        firing = alerts.read_firing(session)
    if found.keys() == firing:
        return 0
    with database.transaction() as session:
        # Another dispatcher may have reported them since.
        serialize(session.connection(), Lock.CHECK_ALERTS)
        firing = alerts.read_firing(session)
        begun = [holding for holding in found if holding not in firing]
        for new in begun:
            alerts.begin(session, new, found[new], now=now)
        alerts.end(session, firing - found.keys())
    return len(begun)


def _find_holding(session: Session, *, data_dir: Path, now: datetime) -> dict[Firing, Notice]:
    timed = [row for row in alerts.list_alerts(session) if TIMED & set(row.conditions)]
    if not timed:
        return {}
    admins = set(session.scalars(select(PersonRow.name).where(PersonRow.role == Role.ADMIN)))
    state = _State(session, data_dir, now)
    finders = {
        AlertCondition.SILENT: _find_silent,
        AlertCondition.PLATEAU: _find_plateaus,
        AlertCondition.QUOTA: _find_used_quotas,
        AlertCondition.QUEUE_STUCK: _find_stuck_queue,
    }
    found = {}
    for alert in timed:
        scope = _Scope(alert, is_all=alert.all_jobs and alert.user in admins)
        for condition, find in finders.items():
            if condition in alert.conditions:
                for subject, notice in find(scope, state):
                    found[Firing(alert.id, condition, subject)] = notice
    return found


@dataclass(frozen=True)
class _Scope:
    """The jobs that an alert concerns. `is_all`: of all people."""

    alert: AlertRow
    is_all: bool

    def contains(self, user: str, tags: Iterable[str]) -> bool:
        wanted = set(self.alert.tags)
        is_tagged = not wanted or not wanted.isdisjoint(tags)
        return is_tagged and (self.is_all or user == self.alert.user)


class _State:
    """What the alerts look at, each read once and only if an alert needs it."""

    def __init__(self, session: Session, data_dir: Path, now: datetime) -> None:
        self._session = session
        self._data_dir = data_dir
        self._stored: dict[str, int] = {}
        self._errors: dict[str, list[float]] = {}
        self._hours: dict[str, ResourceHours] = {}
        self.now = now

    @cached_property
    def running(self) -> list[tuple[JobRow, datetime]]:
        """Jobs whose training runs, and when each last progressed."""
        statement = (
            select(JobRow, AttemptRow)
            .join(AttemptRow, AttemptRow.job_id == JobRow.id)
            .where(AttemptRow.state == AttemptState.RUNNING, JobRow.state == JobState.RUNNING)
            .order_by(JobRow.id)
        )
        return [
            (job, max(filter(None, (attempt.progressed_at, attempt.started_at, job.created_at))))
            for job, attempt in self._session.execute(statement)
        ]

    @cached_property
    def tags(self) -> dict[str, list[str]]:
        """Of the jobs that run or wait."""
        found = defaultdict(list)
        unfinished = JobRow.state.in_([*WAITING_STATES, JobState.STARTING, JobState.RUNNING])
        statement = select(TagRow.job_id, TagRow.tag).join(JobRow).where(unfinished)
        for job_id, tag in self._session.execute(statement):
            found[job_id].append(tag)
        return found

    def read_errors(self, job: JobRow) -> Sequence[float]:
        """Of the evaluations so far that were finite, in their order."""
        if job.id not in self._errors:
            series = next((name for name in _EVALUATED if name in job.latest_metrics), None)
            statement = (
                select(MetricRow.value)
                .where(
                    MetricRow.job_id == job.id,
                    MetricRow.series == series,
                    MetricRow.value.is_not(None),
                )
                .order_by(MetricRow.iteration)
            )
            rows = self._session.scalars(statement)
            self._errors[job.id] = [value for value in rows if value is not None]
        return self._errors[job.id]

    @cached_property
    def quotas(self) -> dict[str, Quota]:
        return quotas.read_quotas(self._session)

    @cached_property
    def groups(self) -> dict[str, str]:
        return people.read_groups(self._session)

    @cached_property
    def usage(self) -> dict[str, dict[str, float]]:
        """How much of each limit of a quota is used, by key of a person, group or tag."""
        found: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        for attempt in usage.list_running(self._session):
            _, gpus = usage.resources_of(attempt.row)
            for key in attempt.keys:
                found[key]["jobs"] += 1
                found[key]["workers"] += attempt.row.num_workers
                found[key]["gpus"] += gpus
        is_waiting = JobRow.state.in_(WAITING_STATES)
        by_user = select(JobRow.user, func.count()).where(is_waiting).group_by(JobRow.user)
        by_tag = (
            select(TagRow.tag, func.count()).join(JobRow).where(is_waiting).group_by(TagRow.tag)
        )
        for kind, statement in (("user", by_user), ("tag", by_tag)):
            for name, count in self._session.execute(statement):
                found[f"{kind}:{name}"]["waiting"] += count
                if kind == "user" and name in self.groups:
                    found[f"group:{self.groups[name]}"]["waiting"] += count
        return found

    def read_use(self, key: str, kind: str) -> float:
        """Of a limit; hours are those of the last seven days."""
        if kind == "stored_bytes":
            if key not in self._stored:
                self._stored |= storage_use.count_bytes(self._session, [key], self._data_dir)
            return self._stored[key]
        if kind not in {"core_hours", "gpu_hours"}:
            return self.usage[key][kind]
        if key not in self._hours:
            self._hours |= usage.read_usage(self._session, [key], now=self.now)
        return float(getattr(self._hours[key], kind)) if key in self._hours else 0.0

    @cached_property
    def idle_since(self) -> datetime | None:
        """When the last attempt ended; None where one holds resources or none has ended."""
        is_held = select(AttemptRow.id).where(AttemptRow.released_at.is_(None)).limit(1)
        if self._session.scalar(is_held) is not None:
            return None
        return self._session.scalar(select(func.max(AttemptRow.ended_at))) or _EPOCH

    @cached_property
    def waiting(self) -> list[tuple[str, str, datetime]]:
        """Id, user and last event of the jobs that may start."""
        statement = (
            select(JobRow.id, JobRow.user, JobEventRow.at)
            .join(
                JobEventRow,
                and_(JobEventRow.subject_id == JobRow.id, JobEventRow.number == JobRow.event_count),
            )
            .where(
                JobRow.state == JobState.QUEUED,
                or_(JobRow.not_before.is_(None), JobRow.not_before <= self.now),
            )
            .order_by(JobRow.queue_sort_key, JobRow.id)
            .limit(_MAX_WAITING)
        )
        return [(job_id, user, at) for job_id, user, at in self._session.execute(statement)]


_Found = Iterator[tuple[str, Notice]]


def _find_silent(scope: _Scope, state: _State) -> _Found:
    minutes = scope.alert.minutes
    for job, progressed_at in state.running:
        is_silent = state.now - progressed_at >= timedelta(minutes=minutes)
        if is_silent and scope.contains(job.user, state.tags[job.id]):
            title = f"{job.name} is silent"
            text = f"It runs and has made no progress for {count_of(minutes, 'minute')}."
            yield job.id, _make_job_notice(job, title, text)


def _find_plateaus(scope: _Scope, state: _State) -> _Found:
    evaluations = scope.alert.evaluations
    for job, _ in state.running:
        if not scope.contains(job.user, state.tags[job.id]):
            continue
        errors = state.read_errors(job)
        before, recent = errors[:-evaluations], errors[-evaluations:]
        if before and min(recent) >= min(before):
            title = f"{job.name} is on a plateau"
            text = (
                f"None of the last {evaluations} evaluations has a lower error than "
                f"{min(before):.2f} %, the lowest before them."
            )
            yield job.id, _make_job_notice(job, title, text)


def _find_used_quotas(scope: _Scope, state: _State) -> _Found:
    """Of the alert's tags, or else of the person and the group; for `is_all` of all."""
    user = scope.alert.user
    tags = [f"tag:{tag}" for tag in scope.alert.tags]
    keys = tags or list_keys(user, state.groups.get(user), ())
    if scope.is_all and not scope.alert.tags:
        keys = sorted(key for key in {*state.usage, *state.quotas} if not key.endswith(":*"))
    for key in keys if state.quotas else ():
        quota = find_quota(state.quotas, key)
        for kind, words in _QUOTA_WORDS.items():
            limit = None if quota is None else getattr(quota, kind)
            if not limit:
                continue
            used = state.read_use(key, kind)
            if used >= QUOTA_SHARE * limit:
                title = f"{key} uses {_format_use(kind, used, limit, words)}"
                text = f"The quota is used to {100 * used / limit:.0f} %."
                data = {"quota": key, "kind": kind, "used": used, "limit": limit}
                yield f"{key} {kind}", Notice(title, text, "/cluster", data)


def _format_use(kind: str, used: float, limit: float, words: str) -> str:
    if kind == "stored_bytes":
        return f"{format_bytes(int(used))} of {format_bytes(int(limit))} of storage"
    return f"{format_number(used)} of {count_of(limit, words)}"


def _find_stuck_queue(scope: _Scope, state: _State) -> _Found:
    if state.idle_since is None:
        return
    since = state.now - timedelta(minutes=scope.alert.minutes)
    stuck = [
        job_id
        for job_id, user, queued_at in state.waiting
        if max(queued_at, state.idle_since) <= since and scope.contains(user, state.tags[job_id])
    ]
    if stuck:
        waiting = f"{count_of(len(stuck), 'job')} {plural(len(stuck), 'waits', 'wait')}"
        minutes = count_of(scope.alert.minutes, "minute")
        text = f"No job has run for {minutes}. The cluster may be down, or too small for the jobs."
        yield _QUEUE, Notice(f"{waiting} and nothing runs", text, "/cluster", {"jobs": stuck[:100]})


def _make_job_notice(job: JobRow, title: str, text: str) -> Notice:
    return Notice(title, text, f"/jobs/{job.id}", describe_job(job))
