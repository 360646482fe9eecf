"""Responses about jobs and runners, made from rows."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from api.stored_json import StoredAs
from service.jobs import bottleneck, checkpoints, plan_notes, records
from service.jobs.bottleneck import BottleneckCode
from service.jobs.lineage import LineageJob
from service.scheduling.policy import EstimateBasis
from service.scheduling.queue_status import JobPlan, JobQueueStatus, WaitReason
from service.specs.job_spec import JobSpec, StartMode
from service.specs.protocol import RunEnvironment, TrainingResult
from service.specs.series import is_diagnostic
from service.states import (
    ActorKind,
    AttemptState,
    Blame,
    CheckpointPart,
    JobState,
    LogLevel,
    RayJobState,
    Reason,
    StopReason,
)
from service.storage.tables import AttemptRow, CheckpointRow, EventRow, JobRow, LogRow, RunnerRow


class View(BaseModel):
    model_config = ConfigDict(frozen=True, from_attributes=True)


class ProgressView(View):
    """Errors in `metrics` are percent; `eta_seconds` is training time, without evaluations.

    `metrics` has the newest of each series, but not of the diagnostic ones (`step/`, `machine/`).
    """

    iteration: int
    iterations: int
    percent: float
    images_per_second: float | None
    eta_seconds: float | None
    metrics: dict[str, float | None]

    @classmethod
    def of(cls, job: JobRow) -> "ProgressView | None":
        progress = records.progress_of(job)
        if progress is None:
            return None
        eta_seconds = None
        if progress.images_per_second and not job.state.is_final:
            images = (progress.iterations - progress.iteration) * records.batch_size_of(job)
            eta_seconds = images / progress.images_per_second
        return cls(
            iteration=progress.iteration,
            iterations=progress.iterations,
            percent=round(100.0 * progress.iteration / progress.iterations, 2),
            images_per_second=progress.images_per_second,
            eta_seconds=eta_seconds,
            metrics={
                series: value
                for series, value in job.latest_metrics.items()
                if not is_diagnostic(series)
            },
        )


class FairSharePointsView(View):
    """Points of priority that a job loses for what its owner has used, and what for."""

    points: int
    message: str


class QueueStatusView(View):
    """Why a job waits, as a code and a sentence; `position` counts from 1 among queued jobs."""

    code: WaitReason
    message: str
    position: int | None
    effective_priority: Annotated[
        float,
        Field(
            description="priority plus one point for every ten minutes of waiting, less the "
            "points of fair share"
        ),
    ]
    fair_share: Annotated[
        FairSharePointsView | None, Field(description="null where it loses no points")
    ]
    starts_p50: datetime | None
    starts_p90: datetime | None


class BottleneckView(View):
    """What training waits for, as a code and a sentence that says what to do."""

    code: BottleneckCode
    message: str


class JobView(View):
    id: str
    name: str
    kind: Annotated[str, Field(description="`training`, or the kind of its analysis")]
    network: str
    state: JobState
    spec: Annotated[dict[str, Any], StoredAs(JobSpec)]
    reason: Annotated[Reason | None, Field(description="why the last attempt ended")]
    message: str | None
    user: Annotated[str, Field(description="the person who owns it")]
    note: str
    starred: bool
    archived: Annotated[bool, Field(description="left out of lists")]
    priority: Annotated[int, Field(description="0 to 100; higher starts first")]
    waiting: Annotated[QueueStatusView | None, Field(description="why it waits; null in lists")]
    stop_requested: Annotated[
        StopReason | None, Field(description="the stop that its attempt is asked for")
    ]
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    attempts: int
    num_workers: Annotated[
        int | None, Field(description="of its newest attempt; null before the first")
    ]
    restarts: Annotated[int, Field(description="attempts that ended by the user's fault")]
    preemptions: Annotated[int, Field(description="how often another job preempted it")]
    progress: ProgressView | None
    bottleneck: Annotated[
        BottleneckView | None, Field(description="null where computation dominates, or not known")
    ]
    parameters: int | None
    environment: RunEnvironment | None
    result: TrainingResult | None

    @classmethod
    def of(cls, job: JobRow, waiting: JobQueueStatus | None = None) -> "JobView":
        environment = records.environment_of(job)
        found = bottleneck.find_bottleneck(job.latest_metrics)
        return cls(
            id=job.id,
            name=job.name,
            kind=job.kind,
            network=records.architecture_of(job).label,
            state=job.state,
            spec=job.spec,
            reason=job.reason,
            message=job.message,
            user=job.user,
            note=job.note,
            starred=job.starred,
            archived=job.archived,
            priority=job.priority,
            waiting=None if waiting is None else QueueStatusView.model_validate(waiting),
            stop_requested=job.stop_requested,
            created_at=job.created_at,
            started_at=job.started_at,
            finished_at=job.finished_at,
            attempts=job.attempts,
            num_workers=job.num_workers,
            restarts=job.restarts,
            preemptions=job.preemptions,
            progress=ProgressView.of(job),
            bottleneck=None if found is None else BottleneckView.model_validate(found),
            parameters=None if environment is None else environment.parameters,
            environment=environment,
            result=records.result_of(job),
        )


class WaitingJobView(View):
    job_id: str
    name: str
    state: JobState
    priority: int
    waiting: QueueStatusView


class QueueView(View):
    """Queued jobs in their order, then blocked, held and paused ones."""

    jobs: list[WaitingJobView]


class DurationView(View):
    """Minutes: median and 90th percentile, and what they rest on."""

    p50: float
    p90: float
    basis: Annotated[
        EstimateBasis | None,
        Field(description="`same`: jobs like it; `other-networks`: others, by multiply-adds"),
    ]
    samples: Annotated[int, Field(description="number of measured attempts")]


class PlanView(View):
    """What a job would need, before it is submitted; null where that is unknown."""

    spec: JobSpec
    network: str
    parameters: int | None
    multiply_adds: Annotated[int | None, Field(description="of the forward pass of one image")]
    tensor_bytes: Annotated[
        int | None,
        Field(description="of each worker: weights, gradients, momentum and feature maps"),
    ]
    resident_bytes: Annotated[
        int | None,
        Field(
            description="resident memory of each worker's process, with libraries and images: "
            "measured where a job like it has run, else computed"
        ),
    ]
    minutes: Annotated[DurationView | None, Field(description="from its start to its end")]
    epochs: Annotated[float | None, Field(description="how often each training image is seen")]
    worker_counts: Annotated[
        list[int], Field(description="with how many workers it may run; several: it is elastic")
    ]
    notes: Annotated[list[str], Field(description="advice about the spec")]
    waiting: QueueStatusView

    @classmethod
    def of(cls, plan: JobPlan) -> "PlanView":
        duration = plan.duration
        worker_counts = plan_notes.describe_worker_counts(plan.spec, num_workers=plan.num_workers)
        return cls(
            spec=plan.spec,
            network=plan.spec.network,
            parameters=plan.model_stats.parameters if plan.model_stats is not None else None,
            multiply_adds=plan.model_stats.multiply_adds if plan.model_stats is not None else None,
            tensor_bytes=plan.tensor_bytes,
            resident_bytes=plan.resident_bytes,
            minutes=None
            if duration is None
            else DurationView(
                p50=duration.p50 / 60,
                p90=duration.p90 / 60,
                basis=duration.basis,
                samples=duration.samples,
            ),
            epochs=plan_notes.compute_epochs(plan.spec, plan.dataset),
            worker_counts=list(plan.spec.worker_counts),
            notes=[
                *([] if plan.data_warning is None else [plan.data_warning]),
                *([] if worker_counts is None else [worker_counts]),
                *plan_notes.list_notes(
                    plan.spec, plan.dataset, seconds=None if duration is None else duration.p50
                ),
            ],
            waiting=QueueStatusView.model_validate(plan.queue_status),
        )


class JobList(View):
    jobs: list[JobView]


class JobPage(View):
    jobs: list[JobView]
    next_page_token: str | None


class SelectedJobPage(View):
    """Of a request with `fields`: each job has only the members that they name."""

    jobs: list[dict[str, Any]]
    next_page_token: str | None


class LineageSourceView(View):
    """The checkpoint that a job started from; its job may have been deleted since."""

    job_id: str
    iteration: int
    mode: StartMode


class LineageJobView(View):
    id: str
    name: str
    state: JobState
    source: LineageSourceView | None

    @classmethod
    def of(cls, job: LineageJob) -> "LineageJobView":
        return cls(
            id=job.id,
            name=job.name,
            state=job.state,
            source=job.source and LineageSourceView.model_validate(job.source),
        )


class LineageView(View):
    """In the order of their submission: every job comes after the one that it started from."""

    jobs: list[LineageJobView]


class EventView(View):
    number: int
    at: datetime
    kind: str
    actor: Annotated[ActorKind, Field(description="who caused it")]
    user: Annotated[str | None, Field(description="of a person, the name")]
    data: dict[str, Any]

    @classmethod
    def of(cls, event: EventRow) -> "EventView":
        return cls.model_validate(event)


class EventList(View):
    events: list[EventView]
    next: Annotated[int, Field(description="as `after`, continues")]

    @classmethod
    def of(cls, events: Sequence[EventRow], *, after: int) -> "EventList":
        views = [EventView.of(event) for event in events]
        return cls(events=views, next=views[-1].number if views else after)


class LogLineView(View):
    number: int
    attempt: int
    at: datetime
    level: LogLevel
    message: str

    @classmethod
    def of(cls, line: LogRow) -> "LogLineView":
        return cls.model_validate(line)


class LogList(View):
    lines: list[LogLineView]
    next: Annotated[int, Field(description="as `after`, continues")]


class AttemptView(View):
    """The times in order: when the attempt was created, its runner submitted to Ray, the attempt
    assigned to the runner, its images in memory, its first report received, and its first
    optimizer step done; then its last report, its end, and the release of its resources.

    It trained the iterations after `first_iteration` with `num_workers`, until `last_iteration` as
    last reported.
    """

    id: str
    number: int
    state: AttemptState
    num_workers: int
    cpus_per_worker: int
    gpus_per_worker: float
    first_iteration: int
    last_iteration: int | None
    resume_checkpoint_id: str | None
    runner_id: str | None
    created_at: datetime
    submitted_at: datetime | None
    assigned_at: datetime | None
    data_ready_at: datetime | None
    started_at: datetime | None
    first_step_at: datetime | None
    last_report_at: datetime | None
    ended_at: datetime | None
    released_at: datetime | None
    reason: Reason | None
    blame: Blame | None
    message: str | None

    @classmethod
    def of(cls, attempt: AttemptRow) -> "AttemptView":
        computed = {
            "blame": None if attempt.reason is None else attempt.reason.blame,
            "last_iteration": max(
                (n for n in (attempt.iteration, attempt.progress_iteration) if n is not None),
                default=None,
            ),
        }
        stored = cls.model_fields.keys() - computed.keys()
        return cls(**computed, **{name: getattr(attempt, name) for name in stored})


class AttemptList(View):
    attempts: list[AttemptView]


class RunnerView(View):
    """`busy`: it has an attempt; a ready runner without one is a warm runner.

    `attempt_id`: of a job that the caller sees; null for others.
    """

    id: str
    state: RayJobState
    num_workers: int
    cpus_per_worker: int
    gpus_per_worker: float
    busy: bool
    attempt_id: str | None
    attempts_left: int
    created_at: datetime
    submitted_at: datetime | None
    ready_at: datetime | None

    @classmethod
    def of(cls, runner: RunnerRow, *, visible: Collection[str]) -> "RunnerView":
        """`visible`: ids of attempts."""
        return cls(
            id=runner.id,
            state=runner.state,
            num_workers=runner.num_workers,
            cpus_per_worker=runner.cpus_per_worker,
            gpus_per_worker=runner.gpus_per_worker,
            busy=runner.attempt_id is not None,
            attempt_id=runner.attempt_id if runner.attempt_id in visible else None,
            attempts_left=runner.attempts_left,
            created_at=runner.created_at,
            submitted_at=runner.submitted_at,
            ready_at=runner.ready_at,
        )


class RunnerList(View):
    runners: list[RunnerView]


class PartView(View):
    sha256: str
    size_bytes: int


class CheckpointView(View):
    """Errors in percent. `selection_error`: the one by which `best` is found; null if by none.

    `names`: in the model registry, by number and by alias.
    """

    id: str
    job_id: str
    attempt: int
    iteration: int
    created_at: datetime
    test_error: float | None
    selection_error: float | None
    train_error: float | None
    size_bytes: int
    parts: dict[CheckpointPart, PartView]
    names: list[str]

    @classmethod
    def of(cls, checkpoint: CheckpointRow, *, names: Sequence[str]) -> "CheckpointView":
        parts = {
            part: PartView(sha256=file.sha256, size_bytes=file.size_bytes)
            for part, file in checkpoints.files_of(checkpoint).items()
        }
        return cls(
            id=checkpoint.id,
            job_id=checkpoint.job_id,
            attempt=checkpoint.attempt,
            iteration=checkpoint.iteration,
            created_at=checkpoint.created_at,
            test_error=checkpoint.test_error,
            selection_error=checkpoint.selection_error,
            train_error=checkpoint.train_error,
            size_bytes=sum(part.size_bytes for part in parts.values()),
            parts=parts,
            names=list(names),
        )


class CheckpointList(View):
    checkpoints: list[CheckpointView]


class SeriesView(View):
    iterations: list[int]
    values: list[float | None]
    seconds: list[float]
    times: list[float]


class MetricsView(View):
    series: dict[str, SeriesView]


class SampleStatisticsView(View):
    """Of `n` values, one for each job. `std` and the interval are null with one value.

    `ci_low`, `ci_high`: 95 % confidence interval of the mean by Student's t distribution.
    """

    n: int
    mean: float
    std: float | None
    ci_low: float | None
    ci_high: float | None
    min: float
    max: float
