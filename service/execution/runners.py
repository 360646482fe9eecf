"""Runners: Ray jobs whose workers run one attempt after another, all with the same resources.

A ready runner without an attempt is a warm runner: the next job that fits it begins at once. It is
drained as soon as another attempt needs its resources. Dispatchers decide that under the lock of
the cluster's row; the API answers a runner that asks for its next attempt.
"""

from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from service import ids
from service.access import tokens, usage
from service.execution import attempts, ray_job_lifecycle
from service.execution.ray_job_lifecycle import RayJobSubmission
from service.resources import ResourceBundle, WorkerGroup
from service.specs.protocol import AttemptAssignment, NextAttemptResponse
from service.states import AttemptState, RayJobState
from service.storage import changes
from service.storage.tables import AttemptRow, JobRow, RunnerRow


def worker_group_of(row: RunnerRow | AttemptRow) -> WorkerGroup:
    return WorkerGroup(
        num_workers=row.num_workers,
        cpus_per_worker=row.cpus_per_worker,
        gpus_per_worker=row.gpus_per_worker,
    )


def plan_runner(
    session: Session, worker_group: WorkerGroup, *, max_attempts: int, now: datetime
) -> RunnerRow:
    """Adds a runner that is submitted once its resources are free."""
    runner = _new_runner(worker_group, max_attempts=max_attempts, now=now)
    session.add(runner)
    return runner


def _new_runner(worker_group: WorkerGroup, *, max_attempts: int, now: datetime) -> RunnerRow:
    return RunnerRow(
        id=f"runner-{ids.new_id(now)}",
        state=RayJobState.PLANNED,
        num_workers=worker_group.num_workers,
        cpus_per_worker=worker_group.cpus_per_worker,
        gpus_per_worker=worker_group.gpus_per_worker,
        token_sha256="",
        attempts_left=max_attempts,
        created_at=now,
    )


def assign_runners(
    session: Session, starting: Sequence[AttemptRow], *, max_attempts: int, now: datetime
) -> list[RunnerRow]:
    """Gives each attempt a warm runner with its resources, ready ones first, or plans a runner.

    The attempts are pending in the session: they are inserted with the ids of their runners.
    """
    if not starting:
        return []
    warm_runners: defaultdict[WorkerGroup, deque[RunnerRow]] = defaultdict(deque)
    with session.no_autoflush:
        for runner in session.scalars(
            select(RunnerRow)
            .where(
                RunnerRow.state.in_((RayJobState.STARTING, RayJobState.READY)),
                RunnerRow.attempt_id.is_(None),
            )
            .order_by(RunnerRow.ready_at.is_(None), RunnerRow.id)
            .with_for_update()
        ):
            warm_runners[worker_group_of(runner)].append(runner)
    assigned = []
    for attempt in starting:
        worker_group = worker_group_of(attempt)
        if warm := warm_runners[worker_group]:
            runner = warm.popleft()
        else:
            runner = _new_runner(worker_group, max_attempts=max_attempts, now=now)
        changes.notify(session, runner.id)
        attempt.runner_id = runner.id
        attempt.submitted_at = runner.submitted_at and now
        assigned.append(runner)
    # A runner refers to its attempt, which must be there first.
    session.flush()
    for attempt, runner in zip(starting, assigned, strict=True):
        runner.attempt_id = attempt.id
    session.add_all(assigned)
    return assigned


def is_any_startable(session: Session) -> bool:
    """Whether `take_startable` may find any; without a lock."""
    statement = select(RunnerRow.id).where(ray_job_lifecycle.is_unsubmitted(RunnerRow)).limit(1)
    return session.scalar(statement) is not None


def take_startable(
    session: Session, capacity: ResourceBundle, *, now: datetime
) -> list[RayJobSubmission[RunnerRow]]:
    """Begins the submission of planned runners that fit, oldest first; drains warm ones for them.

    The caller holds the lock of the cluster's row. `capacity`: all that the cluster has.
    """
    runners = lock_runners(session)
    free = capacity
    submissions: list[RayJobSubmission[RunnerRow]] = []
    for runner in runners:
        if runner.state is RayJobState.PLANNED:
            continue
        free -= worker_group_of(runner).resources
        if ray_job_lifecycle.is_startable(runner, now=now):
            submissions.append(ray_job_lifecycle.begin_submission(runner, now=now))
    planned = [runner for runner in runners if runner.state is RayJobState.PLANNED]
    for runner in sorted(planned, key=lambda runner: (runner.attempt_id is None, runner.id)):
        required = worker_group_of(runner).resources
        attempt = _attempt_of(session, runner)
        if attempt is not None and attempt.state is AttemptState.ENDED:
            # Cancelled before the runner was submitted.
            mark_terminated(session, runner.id, now=now)
        elif free.contains(required):
            free -= required
            submissions.append(ray_job_lifecycle.begin_submission(runner, now=now))
        elif attempt is not None:
            _drain_warm_runners(session, runners, required=required, free=free, now=now)
            # It keeps its turn: what becomes free is not given to later and smaller runners.
            break
        else:
            # The resources that this warm runner was planned for are taken, or left the cluster.
            ray_job_lifecycle.drain(session, runner, now=now)
    return submissions


def mark_submitted(session: Session, runner_id: str, *, now: datetime) -> None:
    """Ray has the runner."""
    runner = _lock(session, runner_id)
    ray_job_lifecycle.mark_submitted(runner, now=now)
    attempt = _attempt_of(session, runner)
    if attempt is not None:
        attempt.submitted_at = attempt.submitted_at or now


def next_attempt(
    session: Session,
    runner_id: str,
    *,
    trained_attempt_id: str | None = None,
    is_exiting: bool = False,
    now: datetime,
) -> NextAttemptResponse | None:
    """What a runner that asks is to do next; None: nothing yet.

    The resources of its attempt are free again if the attempt has ended, or if it is the one that
    the runner has trained and only delivers. Any other attempt is assigned again, with a new
    token: the earlier response was lost, or its processes have died and the runner reports that.
    """
    runner = _lock(session, runner_id)
    if runner.state is RayJobState.TERMINATED:
        return NextAttemptResponse(assignment=None, should_exit=True)
    ray_job_lifecycle.record_call(runner, now=now)
    attempt = _attempt_of(session, runner)
    if attempt is not None and (
        attempt.state is AttemptState.ENDED or attempt.id == trained_attempt_id
    ):
        _release(session, runner, attempt, now=now)
        runner.attempts_left -= 1
        attempt = None
    if is_exiting or (runner.attempts_left <= 0 and attempt is None):
        ray_job_lifecycle.drain(session, runner, now=now)
    if attempt is not None:
        # Locks the job, which must come before the first write to the attempt.
        config = attempts.build_config(session, attempt.id)
        secret = tokens.new_secret()
        attempt.token_sha256 = tokens.digest(secret)
        attempt.submitted_at = attempt.submitted_at or now
        attempt.assigned_at = now
        return NextAttemptResponse(
            assignment=AttemptAssignment(config=config, token=secret), should_exit=False
        )
    if runner.state is RayJobState.DRAINING:
        return NextAttemptResponse(assignment=None, should_exit=True)
    return None


def has_next_attempt(session: Session, runner_id: str) -> bool:
    """Whether `next_attempt` may return a response; without a lock."""
    runner = session.execute(
        select(RunnerRow.state, RunnerRow.attempt_id).where(RunnerRow.id == runner_id)
    ).one_or_none()
    return runner is None or runner.state is not RayJobState.READY or runner.attempt_id is not None


def drain_runner(session: Session, runner_id: str, *, now: datetime) -> None:
    """Gives the runner no further attempt. A planned one terminates at once."""
    runner = _lock(session, runner_id)
    if runner.state is RayJobState.PLANNED:
        mark_terminated(session, runner_id, now=now)
    else:
        ray_job_lifecycle.drain(session, runner, now=now)


def mark_terminated(session: Session, runner_id: str, *, now: datetime) -> bool:
    """Ray has the runner no longer; the resources of its attempt are free.

    False, and no change, while an attempt of it is active: its own dispatcher ends that first.
    """
    runner = _lock(session, runner_id)
    if has_active_attempt(session, runner_id):
        return False
    attempt = _attempt_of(session, runner)
    if attempt is not None:
        _release(session, runner, attempt, now=now)
    ray_job_lifecycle.mark_terminated(session, runner, now=now)
    return True


def has_active_attempt(session: Session, runner_id: str) -> bool:
    """Whether the runner trains an attempt, or still delivers what it has trained."""
    statement = (
        select(AttemptRow.id)
        .where(AttemptRow.runner_id == runner_id, AttemptRow.state != AttemptState.ENDED)
        .limit(1)
    )
    return session.scalar(statement) is not None


def list_runners(session: Session) -> list[RunnerRow]:
    """All that have not terminated, oldest first."""
    statement = (
        select(RunnerRow).where(RunnerRow.state != RayJobState.TERMINATED).order_by(RunnerRow.id)
    )
    return list(session.scalars(statement))


def find_visible_attempts(session: Session, rows: Iterable[RunnerRow]) -> set[str]:
    """The current attempts of these runners whose jobs the session sees."""
    attempt_ids = [row.attempt_id for row in rows if row.attempt_id is not None]
    statement = (
        select(AttemptRow.id)
        .join(JobRow, JobRow.id == AttemptRow.job_id)
        .where(AttemptRow.id.in_(attempt_ids))
    )
    return set(session.scalars(statement))


def lock_runners(session: Session) -> list[RunnerRow]:
    """As `list_runners`, each row locked."""
    statement = (
        select(RunnerRow)
        .where(RunnerRow.state != RayJobState.TERMINATED)
        .order_by(RunnerRow.id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    return list(session.scalars(statement))


def last_used_at(runner: RunnerRow) -> datetime:
    return runner.idle_since or runner.created_at


def is_any_draining(session: Session) -> bool:
    """Whether resources are about to become free."""
    statement = select(RunnerRow.id).where(RunnerRow.state == RayJobState.DRAINING).limit(1)
    return session.scalar(statement) is not None


def _drain_warm_runners(
    session: Session,
    runners: Iterable[RunnerRow],
    *,
    required: ResourceBundle,
    free: ResourceBundle,
    now: datetime,
) -> None:
    """Drains the least recently used first, until the draining ones will free enough."""
    runners = list(runners)
    for runner in runners:
        if runner.state is RayJobState.DRAINING:
            free += worker_group_of(runner).resources
    warm_runners = [
        runner
        for runner in runners
        if runner.attempt_id is None and runner.state in (RayJobState.STARTING, RayJobState.READY)
    ]
    for runner in sorted(warm_runners, key=last_used_at):
        if free.contains(required):
            return
        ray_job_lifecycle.drain(session, runner, now=now)
        free += worker_group_of(runner).resources


def _release(session: Session, runner: RunnerRow, attempt: AttemptRow, *, now: datetime) -> None:
    """Frees the resources of the attempt."""
    usage.record_usage(session, attempt, now=now)
    attempt.released_at = now
    runner.attempt_id = None
    runner.idle_since = now
    changes.notify(session, runner.id)


def _attempt_of(session: Session, runner: RunnerRow) -> AttemptRow | None:
    if runner.attempt_id is None:
        return None
    return session.get(AttemptRow, runner.attempt_id, populate_existing=True)


def _lock(session: Session, runner_id: str) -> RunnerRow:
    return ray_job_lifecycle.lock_row(session, RunnerRow, runner_id)
