"""Why a job waits, its position in the queue, and when it may start, by the scheduling policy."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path

from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import Session, load_only

from service.access import people, quotas, storage_use
from service.catalog import uploads
from service.catalog.datasets import Dataset
from service.catalog.model_stats import ModelStats
from service.catalog.recipes import Crop
from service.jobs import lifecycle, plan_notes, queue_order, submission, workload
from service.resources import ResourceBundle
from service.scheduling import cluster_state, fair_share, policy, snapshot
from service.scheduling.cluster_state import ClusterState
from service.scheduling.estimates import Estimator, TimingProfile
from service.scheduling.fair_share import Use
from service.scheduling.policy import (
    DurationEstimate,
    EstimateBasis,
    RunningJob,
    StartJob,
    WaitingJob,
)
from service.scheduling.worker_groups import WorkerGroups
from service.specs.job_spec import JobSpec
from service.specs.quota import ExceededQuota, list_keys
from service.states import WAITING_STATES, JobState
from service.storage.tables import JobRow
from service.storage.visibility import ALL_ROWS, find_visible
from service.text import count_of, format_duration, plural

_LISTED = (
    JobRow.id,
    JobRow.name,
    JobRow.state,
    JobRow.reason,
    JobRow.message,
    JobRow.user,
    JobRow.priority,
    JobRow.fair_share_points,
    JobRow.queue_sort_key,
    JobRow.not_before,
    JobRow.created_at,
)
_BYTES_PER_VALUE = 4  # float32
# Of a process that trains ResNet-8 on digits, by its own report on a CPU: 489 MiB; nearly all of
# it are torch and other libraries.
_PROCESS_BYTES = 489 * 2**20


class WaitReason(StrEnum):
    """Why a waiting job does not run."""

    HELD = "held"
    PARKED = "parked"
    PAUSED = "paused"
    DEPENDENCY = "dependency"
    BACKOFF = "backoff"
    NO_DISPATCHER = "no-dispatcher"
    TOO_LARGE = "too-large"
    LIMIT = "limit"
    RESOURCES = "resources"
    BEHIND = "behind"
    NEXT = "next"


@dataclass(frozen=True)
class FairSharePoints:
    """`points`: of priority that the job loses; `message`: what for."""

    points: int
    message: str


@dataclass(frozen=True)
class JobQueueStatus:
    """`position`: from 1, among the jobs that may start; None for a job that may not.

    `effective_priority`: with what the job has gained by waiting and loses for fair share.
    `fair_share`: None where it loses nothing. `starts_p50`: the expected start; nine of ten jobs
    start by `starts_p90`; None where a job ahead is of unknown duration.
    """

    code: WaitReason
    message: str
    position: int | None
    effective_priority: float
    fair_share: FairSharePoints | None = None
    starts_p50: datetime | None = None
    starts_p90: datetime | None = None


class QueueStatus:
    """Explains jobs by one snapshot of the queue; `planned`: jobs as if they were in it."""

    def __init__(
        self,
        session: Session,
        *,
        data_dir: Path,
        now: datetime,
        planned: Sequence[WaitingJob] = (),
    ) -> None:
        self._session = session
        self._uses: dict[str, Use] | None = None
        self._now = now
        cluster = cluster_state.find_cluster(session)
        self._has_dispatcher = cluster is not None and cluster.has_dispatcher(now)
        self._has_autoscaler = cluster is not None and bool(cluster.scalable_nodes)
        self._snapshot = snapshot.read_snapshot(
            session,
            _make_worker_groups(cluster),
            quotas=quotas.read_quotas(session),
            data_dir=data_dir,
            now=now,
        )
        if planned:
            waiting = [*self._snapshot.waiting, *planned]
            waiting.sort(key=lambda job: (job.sort_key, job.job_id))
            self._snapshot = replace(self._snapshot, waiting=waiting)
        # What runs may be of people whose jobs the reader does not see.
        self._named = find_visible(session, JobRow, [job.job_id for job in self._snapshot.running])
        self._usage = policy.compute_usage(self._snapshot.running)
        self._decision = policy.decide(self._snapshot)
        self._starts = policy.forecast_starts(self._snapshot)
        self._indices = {job.job_id: at for at, job in enumerate(self._snapshot.waiting)}

    def explain(self, job: JobRow) -> JobQueueStatus | None:
        """None for a job that does not wait."""
        if not job.state.is_waiting:
            return None
        waited = (self._now - job.created_at).total_seconds()
        gained = waited / queue_order.AGING_SECONDS
        priority = round(job.priority + gained - job.fair_share_points, 1)
        status = self._explain_waiting(job, priority)
        return replace(status, fair_share=self._explain_fair_share(job.user, job.fair_share_points))

    def explain_planned(self, job: WaitingJob, points: int) -> JobQueueStatus:
        status = self._explain_eligible(job.job_id, float(job.priority - points))
        return replace(status, fair_share=self._explain_fair_share(job.user, points))

    def _explain_waiting(self, job: JobRow, priority: float) -> JobQueueStatus:
        reason = self._find_own_reason(job)
        if reason is not None:
            code, message = reason
            return JobQueueStatus(code, message, position=None, effective_priority=priority)
        if job.id in self._indices:
            return self._explain_eligible(job.id, priority)
        num_ahead = self._count_ahead(job)
        return JobQueueStatus(
            WaitReason.BEHIND,
            f"waiting behind {count_of(num_ahead, 'job')}",
            position=num_ahead + 1,
            effective_priority=priority,
        )

    def _explain_fair_share(self, user: str, points: int) -> FairSharePoints | None:
        if points == 0:
            return None
        if self._uses is None:
            self._uses = fair_share.read_use(self._session, self._snapshot.capacity, now=self._now)
        group = people.find_group(self._session, user)
        message = fair_share.explain_points(points, user, group, self._uses)
        return FairSharePoints(points, message)

    def _find_own_reason(self, job: JobRow) -> tuple[WaitReason, str] | None:
        """Why a job may not start, whatever else waits or runs; None where it may."""
        if job.state is JobState.HELD and job.reason is not None:
            return (
                WaitReason.PARKED,
                f"held by the service; release it to try again: {job.message}",
            )
        if job.state is JobState.HELD:
            return WaitReason.HELD, "held by a user; release it to start"
        if job.state is JobState.PAUSED:
            return WaitReason.PAUSED, "paused by a user; resume it to continue"
        if job.state is JobState.BLOCKED:
            unmet = lifecycle.list_unmet_dependencies(self._session, job.id)
            visible = find_visible(self._session, JobRow, [needed.id for needed in unmet])
            named = [f"{needed.id} ({needed.state})" for needed in unmet if needed.id in visible]
            if len(named) < len(unmet):
                named.append(count_of(len(unmet) - len(named), "other"))
            listed = ", ".join(named)
            return WaitReason.DEPENDENCY, f"starts after {plural(len(unmet), 'job')} {listed}"
        if job.not_before is not None and job.not_before > self._now:
            seconds = (job.not_before - self._now).total_seconds()
            return (
                WaitReason.BACKOFF,
                f"the last attempt ended ({job.reason}); the next starts in {seconds:.0f} s",
            )
        return None

    def _explain_eligible(self, job_id: str, effective_priority: float) -> JobQueueStatus:
        at = self._indices[job_id]
        code, message = self._find_queue_reason(self._snapshot.waiting[at], at)
        start = self._starts[job_id] if self._has_dispatcher else None
        if code is WaitReason.NEXT:
            start = DurationEstimate(p50=0.0, p90=0.0)
        return JobQueueStatus(
            code,
            message,
            position=at + 1,
            effective_priority=effective_priority,
            starts_p50=None if start is None else self._now + timedelta(seconds=start.p50),
            starts_p90=None if start is None else self._now + timedelta(seconds=start.p90),
        )

    def _find_queue_reason(self, job: WaitingJob, num_ahead: int) -> tuple[WaitReason, str]:
        capacity, free = self._snapshot.capacity, self._snapshot.free
        if not self._has_dispatcher:
            return WaitReason.NO_DISPATCHER, "no dispatcher has seen the cluster in the last minute"
        at_least = "at least " if job.is_elastic else ""
        if not capacity.contains(job.resources):
            message = (
                f"needs {at_least}{_format_resources(job.resources)}; "
                f"the cluster has {_format_resources(capacity)} in total"
            )
            if self._has_autoscaler:
                message += "; nodes are requested from Ray's autoscaler"
            return WaitReason.TOO_LARGE, message
        exceeded = policy.find_exceeded_quota(job, self._usage, self._snapshot)
        if exceeded is not None:
            return WaitReason.LIMIT, self._format_exceeded(exceeded)
        if isinstance(self._decision, StartJob) and self._decision.job_id == job.job_id:
            return WaitReason.NEXT, "starts in the dispatcher's next round"
        if not free.contains(job.resources):
            needed = f"{at_least}{_format_resources(job.resources)}"
            message = f"needs {needed}; {_format_free(job, free)}"
            return WaitReason.RESOURCES, f"{message}{self._format_next_end(self._snapshot.running)}"
        return self._explain_fitting(job, num_ahead)

    def _explain_fitting(self, job: WaitingJob, num_ahead: int) -> tuple[WaitReason, str]:
        """Why a job waits although what it needs is free."""
        if job.is_elastic and any(job.job_id == other.job_id for other in self._snapshot.running):
            message = "starts once the workers of its last attempt are free: it may have more then"
            return WaitReason.RESOURCES, message
        delayed = plural(num_ahead, "it", "them")
        message = f"waiting behind {count_of(num_ahead, 'job')}; starting now could delay {delayed}"
        return WaitReason.BEHIND, message

    def _format_exceeded(self, exceeded: ExceededQuota) -> str:
        if exceeded.kind in {"core_hours", "gpu_hours"}:
            return quotas.explain_used_up(self._session, exceeded, now=self._now)
        if exceeded.kind == "stored_bytes":
            return storage_use.explain_full(exceeded)
        kind = {"jobs": "job", "workers": "worker", "gpus": "GPU"}[exceeded.kind]
        counted = plural(int(exceeded.limit), kind)
        message = f"{exceeded.key} has {exceeded.used:g} of {exceeded.limit:g} {counted} running"
        concerned = [
            job
            for job in self._snapshot.running
            if exceeded.key in list_keys(job.user, job.group, job.tags)
        ]
        return message + self._format_next_end(concerned)

    def _format_next_end(self, running: Sequence[RunningJob]) -> str:
        if not running:
            return ""
        first = min(running, key=lambda job: job.remaining.p50)
        name = f"job {first.job_id}" if first.job_id in self._named else "another job"
        if first.is_stopping:
            return f"; {name} is stopping"
        time = format_duration(first.remaining.p50)
        if first.remaining.basis is EstimateBasis.TIME_LIMIT:
            return f"; {name} ends in at most {time}, its time limit: its speed is not measured yet"
        if first.remaining.p50 < 1:
            # It has taken as long as jobs like it.
            return f"; {name} is expected to end soon"
        return f"; {name} is expected to end in {time}"

    def _count_ahead(self, job: JobRow) -> int:
        statement = select(func.count()).where(
            JobRow.state == JobState.QUEUED,
            or_(JobRow.not_before.is_(None), JobRow.not_before <= self._now),
            or_(
                JobRow.queue_sort_key < job.queue_sort_key,
                and_(JobRow.queue_sort_key == job.queue_sort_key, JobRow.id < job.id),
            ),
        )
        return self._session.scalar(statement.execution_options(**ALL_ROWS)) or 0


def list_waiting_jobs(session: Session, *, limit: int) -> list[JobRow]:
    """Queued jobs in their order, then blocked, held and paused ones.

    Of their columns those that `QueueStatus.explain` and the list read: specs are large.
    """
    found: list[JobRow] = []
    # One group of states after the other, as the index has them.
    for states in ({JobState.QUEUED}, WAITING_STATES - {JobState.QUEUED}):
        statement = (
            select(JobRow)
            .where(JobRow.state.in_(states))
            .order_by(JobRow.queue_sort_key, JobRow.id)
            .limit(limit - len(found))
            .options(load_only(*_LISTED, raiseload=True))
        )
        found += session.scalars(statement)
    return found


@dataclass(frozen=True)
class JobPlan:
    """What a submission of the spec would become.

    `model_stats`: None where the classes of a folder are not counted. `tensor_bytes`: of each
    worker, for weights, gradients, momentum and what the backward pass keeps of each convolution.
    `resident_bytes`: of each worker's process, with its libraries and the images. Of an elastic
    job with the fewest workers. `duration`: from the start to the end, in seconds, with
    `num_workers`, the most that the cluster can hold. `data_warning`: the API cannot say whether
    the images exist.
    """

    spec: JobSpec
    dataset: Dataset
    model_stats: ModelStats | None
    tensor_bytes: int | None
    resident_bytes: int | None
    num_workers: int
    duration: DurationEstimate | None
    queue_status: JobQueueStatus
    data_warning: str | None


def plan_job(
    session: Session,
    spec: JobSpec,
    *,
    user: str,
    data_dir: Path,
    now: datetime,
) -> JobPlan:
    """Submits nothing. CannotFit and InvalidInput as a submission."""
    submission.check_submission(session, spec, data_dir=data_dir)
    dataset = uploads.describe_dataset(spec.dataset, data_dir)
    model_stats = workload.model_stats_of(spec, dataset)
    groups = _make_worker_groups(cluster_state.find_cluster(session)).list(
        spec.worker_counts, spec.resources
    )
    smallest, largest = groups[0], groups[-1]
    estimator, iterations = Estimator(session), workload.count_iterations(spec)
    profiles = {
        count: TimingProfile.from_spec(spec, num_workers=count)
        for count in {smallest.num_workers, largest.num_workers}
    }
    durations = {
        count: estimator.estimate_total(profile, iterations=iterations)
        for count, profile in profiles.items()
    }
    tensor_bytes = None if model_stats is None else _estimate_tensor_bytes(spec, model_stats)
    resident_bytes = estimator.estimate_resident_bytes(profiles[smallest.num_workers])
    if resident_bytes is None and tensor_bytes is not None:
        resident_bytes = _PROCESS_BYTES + tensor_bytes + _estimate_image_bytes(spec, dataset)
    points = queue_order.read_points(session).get(user, 0)
    planned = WaitingJob(
        job_id="~",  # sorts after all ids
        sort_key=queue_order.make_sort_key(created_at=now, priority=spec.priority, points=points),
        priority=spec.priority,
        resources=smallest.resources,
        num_workers=smallest.num_workers,
        user=user,
        group=people.find_group(session, user),
        tags=spec.tags,
        duration=durations[smallest.num_workers],
        is_elastic=len(spec.worker_counts) > 1,
        larger=snapshot.list_options(groups[1:]),
    )
    queue_status = QueueStatus(session, data_dir=data_dir, now=now, planned=[planned])
    return JobPlan(
        spec=spec,
        dataset=dataset,
        model_stats=model_stats,
        tensor_bytes=tensor_bytes,
        resident_bytes=resident_bytes,
        num_workers=largest.num_workers,
        duration=durations[largest.num_workers],
        queue_status=queue_status.explain_planned(planned, points),
        data_warning=plan_notes.find_data_warning(dataset, data_dir),
    )


def _make_worker_groups(cluster: ClusterState | None) -> WorkerGroups:
    if cluster is None:
        return WorkerGroups(ResourceBundle(cpus=0, gpus=0))
    return cluster.make_worker_groups()


def _estimate_image_bytes(spec: JobSpec, dataset: Dataset) -> int:
    """Of the decoded images in memory; 0 where they are read from their files, or not counted."""
    images = (dataset.train_images or 0) + (dataset.test_images or 0)
    size = dataset.image_size(spec.stem)
    return 0 if spec.recipe.crop is not Crop.PAD_CROP else images * size * size * 3


def _estimate_tensor_bytes(spec: JobSpec, model_stats: ModelStats) -> int:
    """Each convolution's output counts twice: as it is, and normalised for the next layer."""
    share = spec.recipe.batch_size // spec.worker_counts[0]
    images = min(spec.recipe.micro_batch_size or share, share)
    return _BYTES_PER_VALUE * (3 * model_stats.parameters + 2 * model_stats.activations * images)


def _format_resources(resources: ResourceBundle) -> str:
    cpus = count_of(resources.cpus, "CPU")
    return f"{cpus} and {count_of(resources.gpus, 'GPU')}" if resources.gpus else cpus


def _format_free(job: WaitingJob, free: ResourceBundle) -> str:
    """`1 is free`; with the GPUs where the job needs any. Never below zero."""
    cpus, gpus = max(0, free.cpus), max(0.0, free.gpus)
    if job.resources.gpus:
        return f"{count_of(cpus, 'CPU')} and {count_of(gpus, 'GPU')} are free"
    return f"{cpus} {plural(cpus, 'is', 'are')} free"
