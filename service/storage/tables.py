"""The tables of the database, one class per row.

Relationships, which no code reads, order inserts: a flush inserts a job before its events.
"""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    Enum,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    literal_column,
    or_,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from service.states import (
    ActorKind,
    AlertChannel,
    AlertCondition,
    AttemptState,
    AuditKind,
    DeliveryState,
    DependencyCondition,
    JobState,
    LogLevel,
    RayJobState,
    Reason,
    Role,
    SearchEndReason,
    SearchState,
    StopReason,
    TokenScope,
)

Document = JSON().with_variant(JSONB(), "postgresql")


class UtcDateTime(TypeDecorator[datetime]):
    """An aware time in UTC; SQLite stores no time zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        del dialect
        if value is None:
            return None
        assert value.tzinfo is not None
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        del dialect
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _text_enum(kind: type[StrEnum]) -> Enum:
    """Text with a CHECK of the enum's values; SQLAlchemy's default stores member names."""
    return Enum(
        kind,
        native_enum=False,
        create_constraint=True,
        length=32,
        values_callable=lambda members: [member.value for member in members],
        name=kind.__name__.lower(),
    )


def _partial_index(name: str, *columns: str, where: str) -> Index:
    """An index of the few rows that the condition selects, however many there are in total."""
    return Index(name, *columns, sqlite_where=text(where), postgresql_where=text(where))


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads it from the class
        datetime: UtcDateTime,
        dict[str, Any]: Document,
        JobState: _text_enum(JobState),
        AttemptState: _text_enum(AttemptState),
        RayJobState: _text_enum(RayJobState),
        Reason: _text_enum(Reason),
        LogLevel: _text_enum(LogLevel),
        StopReason: _text_enum(StopReason),
        DependencyCondition: _text_enum(DependencyCondition),
        SearchState: _text_enum(SearchState),
        SearchEndReason: _text_enum(SearchEndReason),
        ActorKind: _text_enum(ActorKind),
        AlertChannel: _text_enum(AlertChannel),
        AlertCondition: _text_enum(AlertCondition),
        AuditKind: _text_enum(AuditKind),
        Role: _text_enum(Role),
        TokenScope: _text_enum(TokenScope),
    }


class SubmittedRow(Base):
    """What jobs, searches and studies have in common. event_count: number of the newest event.

    user: the person who owns it; no foreign key, since the row may outlive the person.
    note, starred, archived: of the users; archived rows are left out of lists.
    """

    __abstract__ = True

    id: Mapped[str] = mapped_column(String(16), primary_key=True, sort_order=-1)
    name: Mapped[str] = mapped_column(Text)
    spec: Mapped[dict[str, Any]]
    user: Mapped[str] = mapped_column(String(120))
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    message: Mapped[str | None] = mapped_column(Text)
    note: Mapped[str] = mapped_column(Text, default="")
    starred: Mapped[bool] = mapped_column(default=False)
    archived: Mapped[bool] = mapped_column(default=False)
    event_count: Mapped[int] = mapped_column(default=0)


class JobRow(SubmittedRow):
    """A submitted job and its current state.

    kind: `training`, or the kind of its analysis.
    queue_sort_key: order of the queue, ascending (service.jobs.queue_order).
    fair_share_points: that it loses in this order.
    worker_counts: numbers of workers that an attempt may have, ascending; several: it is elastic.
    num_workers: of its newest attempt.
    timing_key: equal for jobs that take the same time per iteration with as many workers.
    training_key: equal for jobs that train the same (service.jobs.training_key).
    replicate_key: the same without the seed.
    macs_per_iteration: multiply-adds per iteration; None if the number of images is not known.
    checkpointed_iteration: iteration of the newest checkpoint.
    bucket_width: iterations of the smallest metric bucket; 0: too few points for buckets.
    bucketed_iterations: metrics of lower iterations are in buckets (service.jobs.metric_buckets).
    unbucketed_points: points of the longest series that are not in buckets.
    source_checkpoint_id: checkpoint of another job, kept until this job has ended. No foreign key:
        a job fails where that checkpoint no longer exists, so its id must remain.
    source_job_id, source_iteration: of that checkpoint, also after either was deleted.
    not_before: end of the backoff after a failed attempt.
    stop_requested: why the current attempt is asked to stop.
    reason, message: why the last attempt ended.
    trained_seconds: time in which its attempts trained, for its time limit.
    restarts, infra_restarts: attempts that failed by the user's and by other causes.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        Index("ix_jobs_queue", "state", "queue_sort_key", "id"),
        Index("ix_jobs_dataset_id", "dataset", "id"),
        Index("ix_jobs_user_id", "user", "id"),
        Index("ix_jobs_user_state", "user", "state"),
        Index("ix_jobs_state_id", "state", "id"),
        Index("ix_jobs_training_key", "training_key"),
        Index("ix_jobs_replicate_key", "replicate_key"),
        Index("ix_jobs_source_checkpoint_id", "source_checkpoint_id"),
        Index("ix_jobs_source_job_id", "source_job_id"),
        _partial_index("ix_jobs_finished_at", "finished_at", where="finished_at IS NOT NULL"),
        _partial_index("ix_jobs_not_before", "not_before", where="not_before IS NOT NULL"),
    )

    kind: Mapped[str] = mapped_column(String(32))
    dataset: Mapped[str] = mapped_column(Text)
    state: Mapped[JobState]
    priority: Mapped[int]
    queue_sort_key: Mapped[float]
    fair_share_points: Mapped[int] = mapped_column(default=0)
    preemptible: Mapped[bool]
    worker_counts: Mapped[list[int]] = mapped_column(Document)
    num_workers: Mapped[int | None]
    cpus_per_worker: Mapped[int]
    gpus_per_worker: Mapped[float | None]
    timing_key: Mapped[str] = mapped_column(Text)
    training_key: Mapped[str] = mapped_column(String(64))
    replicate_key: Mapped[str] = mapped_column(String(64))
    macs_per_iteration: Mapped[float | None]
    iterations: Mapped[int]
    max_seconds: Mapped[float | None]
    checkpointed_iteration: Mapped[int] = mapped_column(default=0)
    source_checkpoint_id: Mapped[str | None] = mapped_column(String(16))
    source_job_id: Mapped[str | None] = mapped_column(String(16))
    source_iteration: Mapped[int | None]
    not_before: Mapped[datetime | None]
    stop_requested: Mapped[StopReason | None]
    stop_requested_at: Mapped[datetime | None]
    reason: Mapped[Reason | None]
    attempts: Mapped[int] = mapped_column(default=0)
    restarts: Mapped[int] = mapped_column(default=0)
    infra_restarts: Mapped[int] = mapped_column(default=0)
    preemptions: Mapped[int] = mapped_column(default=0)
    trained_seconds: Mapped[float] = mapped_column(default=0.0)
    log_line_count: Mapped[int] = mapped_column(default=0)
    progress: Mapped[dict[str, Any] | None]
    latest_metrics: Mapped[dict[str, float | None]] = mapped_column(Document, default=dict)
    newest_iteration: Mapped[int] = mapped_column(default=0)
    bucket_width: Mapped[int] = mapped_column(default=0)
    bucketed_iterations: Mapped[int] = mapped_column(default=0)
    unbucketed_points: Mapped[int] = mapped_column(default=0)
    environment: Mapped[dict[str, Any] | None]
    result: Mapped[dict[str, Any] | None]


class OtherCheckpointRow(Base):
    """A checkpoint that an analysis uses besides its source; kept until the analysis has ended.

    No foreign key to the checkpoint, as for the source of a job.
    """

    __tablename__ = "other_checkpoints"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    checkpoint_id: Mapped[str] = mapped_column(String(16), index=True)
    _job: Mapped[JobRow] = relationship(lazy="raise")


class AnalysisResultRow(Base):
    """What a finished analysis found (service.specs.analysis_result), apart from its job.

    numbers: also in `document`, without its tables: lists show them.
    """

    __tablename__ = "analysis_results"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    numbers: Mapped[dict[str, float | None]] = mapped_column(Document)
    document: Mapped[dict[str, Any]]


class TagRow(Base):
    __tablename__ = "job_tags"

    tag: Mapped[str] = mapped_column(String(63), primary_key=True)
    job_id: Mapped[str] = mapped_column(
        ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True, index=True
    )
    _job: Mapped[JobRow] = relationship(lazy="raise")


class DependencyRow(Base):
    """Job `job_id` starts after job `needed_id` has ended as `condition` requires."""

    __tablename__ = "job_dependencies"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    needed_id: Mapped[str] = mapped_column(
        ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True, index=True
    )
    condition: Mapped[DependencyCondition]
    _job: Mapped[JobRow] = relationship(foreign_keys=job_id, lazy="raise")


class AttemptRow(Base):
    """One execution of a job.

    owner, lease_expires_at: the dispatcher that watches the attempt, and until when.
    fencing_token: incremented when another dispatcher takes over; writes with an older value fail.
    timing_key: of the job, for the index by which the newest attempts like it are found.
    token_sha256: digest of the processes' API token; empty before a runner has the attempt.
    runner_id, resume_checkpoint_id: no foreign keys, since they outlive those rows.
    first_iteration: where the attempt started; iteration: newest with a reported metric;
        progress_iteration: newest of a reported progress, since metrics may be minutes apart.
    backfill_deadline: when an attempt that was started by backfill must have ended.
    released_at: when its resources became free: its runner was idle again or had terminated.
    progressed_at: when a report last had another iteration than the one before.
    submitted_at to first_step_at: the runner was submitted to Ray, took the attempt, had the
        images, sent the first report, finished the first step.
    """

    __tablename__ = "attempts"
    __table_args__ = (
        UniqueConstraint("job_id", "number"),
        _partial_index(
            "ix_attempts_leased", "owner", where="released_at IS NULL OR state != 'ended'"
        ),
        Index("ix_attempts_created_at", "created_at"),
        Index("ix_attempts_runner_id_state", "runner_id", "state"),
        Index("ix_attempts_ended_at", "ended_at"),
        # The newest that took as long, or that had such workers, without a look at all others.
        _partial_index(
            "ix_attempts_timing_key",
            *("timing_key", "num_workers", "ended_at"),
            where="ended_at IS NOT NULL",
        ),
        _partial_index(
            "ix_attempts_workers",
            *("num_workers", "cpus_per_worker", "ended_at"),
            where="ended_at IS NOT NULL",
        ),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    number: Mapped[int]
    timing_key: Mapped[str] = mapped_column(Text)
    state: Mapped[AttemptState]
    token_sha256: Mapped[str] = mapped_column(String(64), default="")
    runner_id: Mapped[str | None] = mapped_column(String(32))
    owner: Mapped[str] = mapped_column(String(64))
    fencing_token: Mapped[int]
    lease_expires_at: Mapped[datetime]
    num_workers: Mapped[int]
    cpus_per_worker: Mapped[int]
    gpus_per_worker: Mapped[float]
    resume_checkpoint_id: Mapped[str | None] = mapped_column(String(16))
    first_iteration: Mapped[int] = mapped_column(default=0)
    iteration: Mapped[int | None]
    progress_iteration: Mapped[int | None]
    backfill_deadline: Mapped[datetime | None]
    created_at: Mapped[datetime]
    submitted_at: Mapped[datetime | None]
    assigned_at: Mapped[datetime | None]
    data_ready_at: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    first_step_at: Mapped[datetime | None]
    last_report_at: Mapped[datetime | None]
    progressed_at: Mapped[datetime | None]
    last_sequence: Mapped[int] = mapped_column(default=0)
    ended_at: Mapped[datetime | None]
    released_at: Mapped[datetime | None]
    reason: Mapped[Reason | None]
    message: Mapped[str | None] = mapped_column(Text)


# A dispatcher watches the attempt: its resources are not released, or it has not ended, since it
# may deliver results after its training. A literal, by which the partial index is found.
IS_LEASED = or_(AttemptRow.released_at.is_(None), AttemptRow.state != literal_column("'ended'"))


class RayJobRow(Base):
    """A Ray job that dispatchers submit, watch and delete; `id` is its submission id.

    token_sha256: digest of its API token; empty before the submission and after a driver's end.
    submitted_at: when Ray had accepted it; ready_at: when it first called the API.
    """

    __abstract__ = True

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    state: Mapped[RayJobState] = mapped_column(index=True)
    token_sha256: Mapped[str] = mapped_column(String(64), default="")
    created_at: Mapped[datetime]
    submission_started_at: Mapped[datetime | None]
    submitted_at: Mapped[datetime | None]
    ready_at: Mapped[datetime | None]
    last_seen_at: Mapped[datetime | None]
    draining_since: Mapped[datetime | None]
    terminated_at: Mapped[datetime | None]


class RunnerRow(RayJobRow):
    """A Ray job whose workers run one attempt after another.

    attempts_left: attempts until it is replaced; idle_since: when its last attempt ended.
    """

    __tablename__ = "runners"
    __table_args__ = (Index("ix_runners_terminated_at", "terminated_at"),)

    num_workers: Mapped[int]
    cpus_per_worker: Mapped[int]
    gpus_per_worker: Mapped[float]
    attempt_id: Mapped[str | None] = mapped_column(ForeignKey("attempts.id", ondelete="SET NULL"))
    attempts_left: Mapped[int]
    idle_since: Mapped[datetime | None]


class DriverRow(RayJobRow):
    """A Ray job that runs Ray Tune for a search; numbered per search from 1."""

    __tablename__ = "drivers"
    __table_args__ = (UniqueConstraint("search_id", "number"),)

    search_id: Mapped[str] = mapped_column(ForeignKey("searches.id", ondelete="CASCADE"))
    number: Mapped[int]


class MetricRow(Base):
    """A point of a metric series; a resumed attempt overwrites the iterations that it repeats.

    seconds: training time of the run until then; time: since 1970, in seconds.
    """

    __tablename__ = "metrics"
    __table_args__ = ({"sqlite_with_rowid": False},)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    series: Mapped[str] = mapped_column(String(63), primary_key=True)
    iteration: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    attempt: Mapped[int]
    value: Mapped[float | None]
    seconds: Mapped[float]
    time: Mapped[float]


class MetricBucketRow(Base):
    """Points of a series in the iterations from `start`; the level says how many iterations.

    Over finite values: num_values, sum, first, min, max, last. Of the last point: iteration,
    seconds, time.
    """

    __tablename__ = "metric_buckets"
    __table_args__ = ({"sqlite_with_rowid": False},)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    series: Mapped[str] = mapped_column(String(63), primary_key=True)
    level: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    start: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    num_values: Mapped[int]
    sum: Mapped[float | None]
    first: Mapped[float | None]
    min: Mapped[float | None]
    max: Mapped[float | None]
    last: Mapped[float | None]
    iteration: Mapped[int]
    seconds: Mapped[float]
    time: Mapped[float]


class MlflowRunRow(Base):
    """The run of MLflow that mirrors a job (service.jobs.mlflow_runs).

    run_id: None where none is known. sent_tags: with their values. sent_points: attempt and
    iteration of the newest point of each series. next_try_at: None when nothing will follow.
    """

    __tablename__ = "mlflow_runs"
    __table_args__ = (
        _partial_index(
            "ix_mlflow_runs_next_try_at", "next_try_at", where="next_try_at IS NOT NULL"
        ),
    )

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    run_id: Mapped[str | None] = mapped_column(Text)
    sent_tags: Mapped[dict[str, Any]]
    sent_points: Mapped[dict[str, Any]]
    next_try_at: Mapped[datetime | None]


class LogRow(Base):
    __tablename__ = "log_lines"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    attempt: Mapped[int]
    at: Mapped[datetime]
    level: Mapped[LogLevel]
    message: Mapped[str] = mapped_column(Text)


class CheckpointRow(Base):
    """A checkpoint, written after all of its parts are in the artifact store; errors in percent.

    selection_error: the error by which the recipe finds the best checkpoint.
    parts: `{"key", "sha256", "size_bytes"}` by name of the part; size_bytes: of all parts.
    """

    __tablename__ = "checkpoints"
    __table_args__ = (UniqueConstraint("job_id", "attempt", "iteration"),)

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    attempt: Mapped[int]
    iteration: Mapped[int]
    created_at: Mapped[datetime]
    test_error: Mapped[float | None]
    selection_error: Mapped[float | None]
    train_error: Mapped[float | None]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    parts: Mapped[dict[str, Any]]


class WebhookRow(Base):
    """A URL that is called when a job enters one of `states`; `secret` signs the calls."""

    __tablename__ = "webhooks"

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    url: Mapped[str] = mapped_column(Text)
    secret: Mapped[str] = mapped_column(String(64))
    states: Mapped[list[str]] = mapped_column(Document)
    user: Mapped[str] = mapped_column(String(120))
    created_at: Mapped[datetime]


class AlertRow(Base):
    """What a person is notified of (service.specs.alert_spec).

    secret: signs the calls of a webhook; empty for other channels.
    """

    __tablename__ = "alerts"

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    user: Mapped[str] = mapped_column(String(120), index=True)
    channel: Mapped[AlertChannel]
    target: Mapped[str] = mapped_column(Text)
    secret: Mapped[str] = mapped_column(String(64))
    conditions: Mapped[list[str]] = mapped_column(Document)
    tags: Mapped[list[str]] = mapped_column(Document)
    all_jobs: Mapped[bool]
    minutes: Mapped[int]
    evaluations: Mapped[int]
    created_at: Mapped[datetime]


class FiringAlertRow(Base):
    """A condition that an alert has reported and that has not ended since.

    subject: the id of a job, a quota's key and limit, or `queue`.
    """

    __tablename__ = "firing_alerts"

    alert_id: Mapped[str] = mapped_column(
        ForeignKey("alerts.id", ondelete="CASCADE"), primary_key=True
    )
    condition: Mapped[AlertCondition] = mapped_column(primary_key=True)
    subject: Mapped[str] = mapped_column(String(140), primary_key=True)
    since: Mapped[datetime]


class DeliveryRow(Base):
    """What is sent to a webhook or by an alert, and the outcome of the last try."""

    __tablename__ = "deliveries"
    __table_args__ = (
        Index("ix_deliveries_state_next_try_at", "state", "next_try_at"),
        Index("ix_deliveries_created_at", "created_at"),
        CheckConstraint("(webhook_id IS NULL) <> (alert_id IS NULL)", name="sender"),
    )

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    webhook_id: Mapped[str | None] = mapped_column(
        ForeignKey("webhooks.id", ondelete="CASCADE"), index=True
    )
    alert_id: Mapped[str | None] = mapped_column(
        ForeignKey("alerts.id", ondelete="CASCADE"), index=True
    )
    payload: Mapped[dict[str, Any]]
    state: Mapped[DeliveryState] = mapped_column(_text_enum(DeliveryState))
    tries: Mapped[int]
    next_try_at: Mapped[datetime]
    status: Mapped[int | None]
    error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime]
    delivered_at: Mapped[datetime | None]


class PersonRow(Base):
    """A person who uses the service; jobs and others have the name as `user`.

    group: of people, such as a course or a team; it exists as long as a person is in it.
    """

    __tablename__ = "people"

    name: Mapped[str] = mapped_column(String(120), primary_key=True)
    role: Mapped[Role]
    group: Mapped[str | None] = mapped_column(String(120))
    created_at: Mapped[datetime]


class TokenRow(Base):
    """A token of a person; only its digest is stored.

    tag: the token is limited to jobs with this tag. last_used_at: to the minute.
    shared_job_ids, shared_study_id: of a link, whose scope is `shared`, what it shows. No foreign
        keys: a link to what was deleted shows nothing.
    """

    __tablename__ = "tokens"

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    token_sha256: Mapped[str] = mapped_column(String(64), unique=True)
    user: Mapped[str] = mapped_column(ForeignKey("people.name", ondelete="CASCADE"), index=True)
    label: Mapped[str] = mapped_column(String(120))
    scope: Mapped[TokenScope]
    tag: Mapped[str | None] = mapped_column(String(63))
    shared_job_ids: Mapped[list[str]] = mapped_column(Document, default=list)
    shared_study_id: Mapped[str | None] = mapped_column(String(16))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]


class SignInRow(Base):
    """A browser that is signed in with a person's token; it ends with the token."""

    __tablename__ = "sign_ins"

    secret_sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    token_id: Mapped[str] = mapped_column(ForeignKey("tokens.id", ondelete="CASCADE"), index=True)
    expires_at: Mapped[datetime]


class QuotaRow(Base):
    """A quota (service.specs.quota). key: `user:NAME`, `group:NAME`, `tag:TAG` or `user:*`, ..."""

    __tablename__ = "quotas"

    key: Mapped[str] = mapped_column(String(126), primary_key=True)
    jobs: Mapped[int | None]
    workers: Mapped[int | None]
    gpus: Mapped[float | None]
    waiting: Mapped[int | None]
    core_hours: Mapped[float | None]
    gpu_hours: Mapped[float | None]
    stored_bytes: Mapped[int | None] = mapped_column(BigInteger)


class UsageHourRow(Base):
    """What a person, group or tag used in an hour, counted since the epoch (service.access.usage).

    key: as that of a quota.
    """

    __tablename__ = "usage_hours"
    __table_args__ = (Index("ix_usage_hours_hour", "hour"),)

    key: Mapped[str] = mapped_column(String(126), primary_key=True)
    hour: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    core_hours: Mapped[float]
    gpu_hours: Mapped[float]


class UsageRow(Base):
    """What a person or group has used, decayed until `at` (service.specs.fair_share)."""

    __tablename__ = "usage"

    key: Mapped[str] = mapped_column(String(126), primary_key=True)
    core_hours: Mapped[float]
    gpu_hours: Mapped[float]
    at: Mapped[datetime]


class QueuePointsRow(Base):
    """The points in force that a person's waiting jobs lose in the queue."""

    __tablename__ = "queue_points"

    user: Mapped[str] = mapped_column(String(120), primary_key=True)
    points: Mapped[int]


class FairShareRow(Base):
    """The settings of fair share (service.specs.fair_share); a single row.

    refreshed_at: when a dispatcher last compared points with usage.
    """

    __tablename__ = "fair_share"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    weight: Mapped[float]
    half_life_days: Mapped[float]
    refreshed_at: Mapped[datetime]


class AuditRow(Base):
    """An entry of the audit log; triggers of the database refuse to change or delete one.

    user: who did it; None: no person. subject: a name or an id, by kind.
    """

    __tablename__ = "audit_log"

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    at: Mapped[datetime]
    kind: Mapped[AuditKind]
    user: Mapped[str | None] = mapped_column(String(120))
    subject: Mapped[str] = mapped_column(String(120))
    data: Mapped[dict[str, Any]]


class ClusterRow(Base):
    """The cluster's resources as dispatchers last saw them; a single row.

    Dispatchers lock it during admission, so that two do not assign the same resources.
    nodes: CPUs and GPUs per node; empty: a single node has all of them. scalable_nodes: of all
    nodes that an autoscaler can have; empty: there is no autoscaler.
    """

    __tablename__ = "cluster"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    cpus: Mapped[int]
    gpus: Mapped[int]
    nodes: Mapped[list[list[int]]] = mapped_column(Document, default=list)
    scalable_nodes: Mapped[list[list[int]]] = mapped_column(Document, default=list)
    seen_at: Mapped[datetime]


class DispatcherRow(Base):
    """A dispatcher that runs, or that was killed. seen_at: of its last heartbeat.

    round_at: when it last ended a round without an error.
    """

    __tablename__ = "dispatchers"

    owner: Mapped[str] = mapped_column(String(64), primary_key=True)
    started_at: Mapped[datetime]
    seen_at: Mapped[datetime]
    round_at: Mapped[datetime | None]


class SearchRow(SubmittedRow):
    """A hyperparameter search.

    active_seconds: time in state running before `active_since`.
    driver_id: the current driver, until it has terminated; driver_number: drivers so far.
    driver_failures: consecutive drivers that died before assigning a trial; the next one does not
        start before `driver_not_before`.
    """

    __tablename__ = "searches"
    __table_args__ = (Index("ix_searches_state", "state"),)

    state: Mapped[SearchState]
    active_seconds: Mapped[float] = mapped_column(default=0.0)
    active_since: Mapped[datetime | None]
    end_reason: Mapped[SearchEndReason | None]
    driver_id: Mapped[str | None] = mapped_column(String(32))
    driver_number: Mapped[int] = mapped_column(default=0)
    driver_failures: Mapped[int] = mapped_column(default=0)
    driver_not_before: Mapped[datetime | None]


class TrialRow(Base):
    """A job of a trial of a search; trials are numbered per search from 1.

    repeat: of the trial's jobs, from 0; they differ in the seed.
    driver_trial_id: the driver and its Ray Tune trial id.
    stop_reason: why the search stopped the trial early.
    is_paused: paused because the search was paused.
    """

    __tablename__ = "trials"
    __table_args__ = (Index("ix_trials_search_id_driver_trial_id", "search_id", "driver_trial_id"),)

    search_id: Mapped[str] = mapped_column(
        ForeignKey("searches.id", ondelete="CASCADE"), primary_key=True
    )
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    repeat: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), unique=True)
    params: Mapped[dict[str, Any]]
    driver_trial_id: Mapped[str] = mapped_column(String(80))
    stop_reason: Mapped[str | None] = mapped_column(Text)
    is_paused: Mapped[bool] = mapped_column(default=False)
    _job: Mapped[JobRow] = relationship(lazy="raise")


class StudyRow(SubmittedRow):
    """A study (service.specs.study_spec); its state is that of its members' jobs."""

    __tablename__ = "studies"


class StudyMemberRow(Base):
    """A job of a study; several studies may share it. job_id: None once the job is deleted."""

    __tablename__ = "study_members"

    study_id: Mapped[str] = mapped_column(
        ForeignKey("studies.id", ondelete="CASCADE"), primary_key=True
    )
    label: Mapped[str] = mapped_column(String(60), primary_key=True)
    seed: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    job_id: Mapped[str | None] = mapped_column(
        ForeignKey("jobs.id", ondelete="SET NULL"), index=True
    )
    _job: Mapped[JobRow | None] = relationship(lazy="raise")


class StudyAnalysisRow(Base):
    """An analysis of a member of a study, whose training has succeeded.

    job_id: None once the job is deleted, or where it could not be submitted: `problem` says why.
    """

    __tablename__ = "study_analyses"

    study_id: Mapped[str] = mapped_column(
        ForeignKey("studies.id", ondelete="CASCADE"), primary_key=True
    )
    label: Mapped[str] = mapped_column(String(60), primary_key=True)
    seed: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    job_id: Mapped[str | None] = mapped_column(
        ForeignKey("jobs.id", ondelete="SET NULL"), index=True
    )
    problem: Mapped[str | None] = mapped_column(Text)
    _job: Mapped[JobRow | None] = relationship(lazy="raise")


class EventRow(Base):
    """An event of its subject, a job, a search or a model; numbered per subject from 1.

    actor: who caused it; user: of a person, the name.
    """

    __abstract__ = True

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[datetime]
    kind: Mapped[str] = mapped_column(String(32))
    actor: Mapped[ActorKind]
    user: Mapped[str | None] = mapped_column(String(120))
    data: Mapped[dict[str, Any]]


class JobEventRow(EventRow):
    __tablename__ = "job_events"

    subject_id: Mapped[str] = mapped_column(
        "job_id", ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True
    )
    _job: Mapped[JobRow] = relationship(lazy="raise")


class SearchEventRow(EventRow):
    __tablename__ = "search_events"

    subject_id: Mapped[str] = mapped_column(
        "search_id", ForeignKey("searches.id", ondelete="CASCADE"), primary_key=True
    )
    _search: Mapped["SearchRow"] = relationship(lazy="raise")


class ModelRow(Base):
    """A name for weights (service.jobs.model_registry); its versions are numbered from 1.

    user: the person who owns it. version_count: number of the last version, also if it was deleted.
    """

    __tablename__ = "models"

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    name: Mapped[str] = mapped_column(String(120), unique=True)
    user: Mapped[str] = mapped_column(String(120))
    created_at: Mapped[datetime]
    version_count: Mapped[int] = mapped_column(default=0)
    event_count: Mapped[int] = mapped_column(default=0)


class ModelVersionRow(Base):
    """A checkpoint under the name of a model; it keeps the checkpoint and its job.

    checkpoint_id: no foreign key; a check of the artifact store may delete a broken checkpoint.
    user: who registered it. lineage: where it came from (service.specs.model_registry).
    """

    __tablename__ = "model_versions"
    __table_args__ = (UniqueConstraint("model_id", "checkpoint_id"),)

    model_id: Mapped[str] = mapped_column(
        ForeignKey("models.id", ondelete="CASCADE"), primary_key=True
    )
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    checkpoint_id: Mapped[str] = mapped_column(String(16), index=True)
    user: Mapped[str] = mapped_column(String(120))
    note: Mapped[str] = mapped_column(Text)
    lineage: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]


class ModelAliasRow(Base):
    """A word for a version of a model, such as `production`; user: who moved it there, and when."""

    __tablename__ = "model_aliases"
    __table_args__ = (
        ForeignKeyConstraint(
            ["model_id", "version"],
            ["model_versions.model_id", "model_versions.number"],
            ondelete="CASCADE",
        ),
    )

    model_id: Mapped[str] = mapped_column(String(16), primary_key=True)
    alias: Mapped[str] = mapped_column(String(63), primary_key=True)
    version: Mapped[int]
    user: Mapped[str] = mapped_column(String(120))
    note: Mapped[str] = mapped_column(Text)
    moved_at: Mapped[datetime]


class ModelEventRow(EventRow):
    __tablename__ = "model_events"

    subject_id: Mapped[str] = mapped_column(
        "model_id", ForeignKey("models.id", ondelete="CASCADE"), primary_key=True
    )


class ChangeRow(Base):
    """The id of something that a commit changed, for listeners; on SQLite, the newest only.

    PostgreSQL notifies its listeners without a table.
    """

    __tablename__ = "changes"
    __table_args__ = ({"sqlite_autoincrement": True},)

    number: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(32))
    subject_id: Mapped[str] = mapped_column(String(32))


class IdempotencyKeyRow(Base):
    """A client's key, and the job, search or study that the request with this key created.

    user, operation: keys of different users and kinds of requests are independent.
    item: index in a batch, 0 for a single submission.
    request_sha256: of the validated request body, in a batch of all jobs.
    """

    __tablename__ = "idempotency_keys"

    user: Mapped[str] = mapped_column(String(120), primary_key=True)
    operation: Mapped[str] = mapped_column(String(32), primary_key=True)
    key: Mapped[str] = mapped_column(String(200), primary_key=True)
    item: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    request_sha256: Mapped[str] = mapped_column(String(64))
    job_id: Mapped[str | None] = mapped_column(
        ForeignKey("jobs.id", ondelete="CASCADE"), index=True
    )
    search_id: Mapped[str | None] = mapped_column(
        ForeignKey("searches.id", ondelete="CASCADE"), index=True
    )
    study_id: Mapped[str | None] = mapped_column(
        ForeignKey("studies.id", ondelete="CASCADE"), index=True
    )
    _job: Mapped[JobRow | None] = relationship(lazy="raise")
    _search: Mapped["SearchRow | None"] = relationship(lazy="raise")
    _study: Mapped["StudyRow | None"] = relationship(lazy="raise")
