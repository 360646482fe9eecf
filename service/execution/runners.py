"""Runners: Ray jobs whose workers of one shape stay up and run one attempt after another.

    planned ──room──► starting ──first question──► ready ──dismissed──► leaving ──► gone

A ready runner without an attempt is a standby: the next job of its shape begins at once. It
gives way as soon as an attempt of another shape needs the room. Dispatchers decide all of that
under the lock of the cluster's row; the API answers the runner's question what to do next.
"""

import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from service import ids
from service.access import tokens
from service.errors import Unauthorized
from service.execution import attempts
from service.resources import ResourceBundle, WorkerGroup
from service.specs.protocol import AttemptAssignment, NextAttemptResponse
from service.states import AttemptState, RunnerState
from service.storage import database
from service.storage.tables import AttemptRow, RunnerRow

_PREFIX = "runner-"

# Those that hold room in the cluster.
_ACTIVE = (RunnerState.STARTING, RunnerState.READY, RunnerState.DRAINING)
# A dispatcher that died while it told the cluster is given up after this.
_SUBMISSION_TIMEOUT = timedelta(seconds=60)


def is_runner(submission_id: str) -> bool:
    """Whether a cluster job of that name is one of ours."""
    return submission_id.startswith(_PREFIX)


def worker_group_of(row: RunnerRow | AttemptRow) -> WorkerGroup:
    return WorkerGroup(
        num_workers=row.num_workers,
        cpus_per_worker=row.cpus_per_worker,
        gpus_per_worker=row.gpus_per_worker,
    )


def authenticate(session: Session, runner_id: str, secret: str) -> RunnerRow:
    """Unauthorized unless the token is this runner's own."""
    is_name = is_runner(runner_id) and ids.is_id(runner_id.removeprefix(_PREFIX))
    runner = session.get(RunnerRow, runner_id) if is_name else None
    known = runner.token_sha256 if runner is not None else ""
    if not hmac.compare_digest(known, tokens.digest(secret)) or runner is None:
        raise Unauthorized("the token is not this runner's")
    return runner


def plan_runner(session: Session, shape: WorkerGroup, *, lives: int, now: datetime) -> RunnerRow:
    """A runner to be started once there is room; it leaves after `lives` attempts."""
    runner = RunnerRow(
        id=f"{_PREFIX}{ids.new_id(now)}",
        state=RunnerState.PLANNED,
        num_workers=shape.num_workers,
        cpus_per_worker=shape.cpus_per_worker,
        gpus_per_worker=shape.gpus_per_worker,
        token_sha256="",
        attempts_left=lives,
        created_at=now,
    )
    session.add(runner)
    return runner


def assign_runner(session: Session, attempt: AttemptRow, *, lives: int, now: datetime) -> RunnerRow:
    """Gives the attempt a standby of its shape, the readiest first, or plans a runner for it."""
    shape = worker_group_of(attempt)
    standby = session.scalars(
        select(RunnerRow)
        .where(
            RunnerRow.state.in_((RunnerState.STARTING, RunnerState.READY)),
            RunnerRow.attempt_id.is_(None),
            RunnerRow.num_workers == shape.num_workers,
            RunnerRow.cpus_per_worker == shape.cpus_per_worker,
            RunnerRow.gpus_per_worker == shape.gpus_per_worker,
        )
        .order_by(RunnerRow.ready_at.is_(None), RunnerRow.id)
        .limit(1)
        .with_for_update()
    ).first()
    runner = standby or plan_runner(session, shape, lives=lives, now=now)
    runner.attempt_id = attempt.id
    attempt.runner_id = runner.id
    attempt.submitted_at = runner.submitted_at and now
    return runner


@dataclass(frozen=True)
class RunnerSubmission:
    """A runner that the cluster is to be told of; `secret` is its token."""

    runner_id: str
    shape: WorkerGroup
    secret: str


def take_startable(
    session: Session, whole: ResourceBundle, *, now: datetime
) -> list[RunnerSubmission]:
    """The planned runners that there is room for, oldest first; standbys give way to the others.

    The caller holds the lock of the cluster's row.
    """
    runners = lock_all(session)
    free = whole
    starts: list[RunnerSubmission] = []
    for runner in runners:
        if runner.state is RunnerState.PLANNED:
            continue
        free = free.minus(worker_group_of(runner).pool)
        if runner.state is RunnerState.STARTING and is_submission_lost(runner, now=now):
            starts.append(_begin_submission(runner, now=now))
    planned = [runner for runner in runners if runner.state is RunnerState.PLANNED]
    for runner in sorted(planned, key=lambda one: (one.attempt_id is None, one.id)):
        shape = worker_group_of(runner)
        attempt = _attempt_of(session, runner)
        if attempt is not None and attempt.state is AttemptState.ENDED:
            # Cancelled before anybody needed to be told.
            mark_terminated(session, runner.id, now=now)
        elif free.holds(shape.pool):
            free = free.minus(shape.pool)
            starts.append(_begin_submission(runner, now=now))
        elif attempt is not None:
            _drain_idle(session, runners, missing=shape.pool, free=free, now=now)
            # What comes free is this one's: later and smaller ones do not overtake it.
            break
        else:
            # The room that this standby was planned for is another's now, or away.
            _drain(session, runner, now=now)
    return starts


def revert_submissions(session: Session, starts: Iterable[RunnerSubmission]) -> None:
    """Of these the cluster was not told after all; each is started anew."""
    for start in starts:
        runner = _lock(session, start.runner_id)
        if runner.token_sha256 == tokens.digest(start.secret) and runner.submitted_at is None:
            runner.submission_started_at = None
            if runner.state is RunnerState.STARTING:
                runner.state = RunnerState.PLANNED


def mark_submitted(session: Session, runner_id: str, *, now: datetime) -> None:
    """The cluster knows the runner."""
    runner = _lock(session, runner_id)
    runner.submitted_at = runner.submitted_at or now
    attempt = _attempt_of(session, runner)
    if attempt is not None:
        attempt.submitted_at = attempt.submitted_at or now


def next_attempt(
    session: Session,
    runner_id: str,
    *,
    trained: str | None = None,
    is_leaving: bool = False,
    now: datetime,
) -> NextAttemptResponse | None:
    """What a runner that asks is to do next; None: nothing yet.

    The resources of its attempt are free again if that has ended, or if it is the one that has
    `trained` and only delivers. Any other is handed out again, with a new token: the answer before
    was lost, or the processes that had it have died and the runner will say so.
    """
    runner = _lock(session, runner_id)
    if runner.state is RunnerState.TERMINATED:
        return NextAttemptResponse(order=None, is_dismissed=True)
    runner.ready_at = runner.ready_at or now
    runner.last_poll_at = now
    if runner.state is RunnerState.STARTING:
        runner.state = RunnerState.READY
        # It may come up before its dispatcher has heard that it was submitted.
        mark_submitted(session, runner_id, now=now)
    attempt = _attempt_of(session, runner)
    if attempt is not None and (attempt.state is AttemptState.ENDED or attempt.id == trained):
        _release(session, runner, attempt, now=now)
        runner.attempts_left -= 1
        attempt = None
    if is_leaving or (runner.attempts_left <= 0 and attempt is None):
        _drain(session, runner, now=now)
    if attempt is not None:
        secret = tokens.new_secret()
        attempt.token_sha256 = tokens.digest(secret)
        attempt.assigned_at = now
        brief = attempts.build_config(session, attempt.id)
        return NextAttemptResponse(
            order=AttemptAssignment(brief=brief, token=secret), is_dismissed=False
        )
    if runner.state is RunnerState.DRAINING:
        return NextAttemptResponse(order=None, is_dismissed=True)
    return None


def has_next_attempt(session: Session, runner_id: str) -> bool:
    """Whether asking would bring anything; a look without a lock."""
    runner = session.execute(
        select(RunnerRow.state, RunnerRow.attempt_id).where(RunnerRow.id == runner_id)
    ).one_or_none()
    return runner is None or runner.state is not RunnerState.READY or runner.attempt_id is not None


def drain_runner(session: Session, runner_id: str, *, now: datetime) -> None:
    """It gets no further attempt. One that was only planned is gone at once."""
    runner = _lock(session, runner_id)
    if runner.state is RunnerState.PLANNED:
        mark_terminated(session, runner_id, now=now)
    elif runner.state is not RunnerState.TERMINATED:
        _drain(session, runner, now=now)


def mark_terminated(session: Session, runner_id: str, *, now: datetime) -> bool:
    """The cluster is rid of it; what its attempt occupied is free.

    False where an attempt of its lives on in the table: its own dispatcher ends it first.
    """
    runner = _lock(session, runner_id)
    if has_active_attempt(session, runner_id):
        return False
    attempt = _attempt_of(session, runner)
    if attempt is not None:
        _release(session, runner, attempt, now=now)
    if runner.state is not RunnerState.TERMINATED:
        runner.state = RunnerState.TERMINATED
        runner.terminated_at = now
    database.notify(session)
    return True


def has_active_attempt(session: Session, runner_id: str) -> bool:
    """Whether it trains one, or still delivers what one has trained."""
    statement = (
        select(AttemptRow.id)
        .where(AttemptRow.runner_id == runner_id, AttemptRow.state != AttemptState.ENDED)
        .limit(1)
    )
    return session.scalar(statement) is not None


def list_active(session: Session) -> list[RunnerRow]:
    """Those that the cluster should know, oldest first."""
    statement = select(RunnerRow).where(RunnerRow.state.in_(_ACTIVE)).order_by(RunnerRow.id)
    return list(session.scalars(statement))


def list_all(session: Session) -> list[RunnerRow]:
    """Planned and present, oldest first."""
    statement = (
        select(RunnerRow).where(RunnerRow.state != RunnerState.TERMINATED).order_by(RunnerRow.id)
    )
    return list(session.scalars(statement))


def lock_all(session: Session) -> list[RunnerRow]:
    """The same, as they are now, and nobody else changes them."""
    statement = (
        select(RunnerRow)
        .where(RunnerRow.state != RunnerState.TERMINATED)
        .order_by(RunnerRow.id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    return list(session.scalars(statement))


def last_used_at(runner: RunnerRow) -> datetime:
    return runner.idle_since or runner.created_at


def is_any_to_start(session: Session) -> bool:
    """A look without a lock."""
    statement = (
        select(RunnerRow.id)
        .where(
            RunnerRow.state.in_((RunnerState.PLANNED, RunnerState.STARTING)),
            RunnerRow.submitted_at.is_(None),
        )
        .limit(1)
    )
    return session.scalar(statement) is not None


def is_submission_lost(runner: RunnerRow, *, now: datetime) -> bool:
    """Whether whoever began to tell the cluster of it has died, or was not heard."""
    assert runner.submission_started_at is not None
    return runner.submitted_at is None and now > runner.submission_started_at + _SUBMISSION_TIMEOUT


def is_any_draining(session: Session) -> bool:
    """Whether room is about to come free."""
    statement = select(RunnerRow.id).where(RunnerRow.state == RunnerState.DRAINING).limit(1)
    return session.scalar(statement) is not None


def _begin_submission(runner: RunnerRow, *, now: datetime) -> RunnerSubmission:
    secret = tokens.new_secret()
    runner.token_sha256 = tokens.digest(secret)
    runner.state = RunnerState.STARTING
    runner.submission_started_at = now
    return RunnerSubmission(runner_id=runner.id, shape=worker_group_of(runner), secret=secret)


def _drain_idle(
    session: Session,
    runners: Iterable[RunnerRow],
    *,
    missing: ResourceBundle,
    free: ResourceBundle,
    now: datetime,
) -> None:
    """The least recently used first, until those that are leaving make room enough."""
    runners = list(runners)
    for runner in runners:
        if runner.state is RunnerState.DRAINING:
            free = free.plus(worker_group_of(runner).pool)
    standbys = [
        runner
        for runner in runners
        if runner.attempt_id is None and runner.state in (RunnerState.STARTING, RunnerState.READY)
    ]
    for runner in sorted(standbys, key=last_used_at):
        if free.holds(missing):
            return
        _drain(session, runner, now=now)
        free = free.plus(worker_group_of(runner).pool)


def _drain(session: Session, runner: RunnerRow, *, now: datetime) -> None:
    if runner.state is RunnerState.PLANNED:
        runner.state = RunnerState.TERMINATED
        runner.terminated_at = now
    elif runner.state is not RunnerState.DRAINING:
        runner.state = RunnerState.DRAINING
        runner.draining_since = now
        # Its open question is answered, and its dispatcher waits for its room.
        database.notify(session)


def _release(session: Session, runner: RunnerRow, attempt: AttemptRow, *, now: datetime) -> None:
    """What the attempt occupied is free."""
    attempt.released_at = now
    runner.attempt_id = None
    runner.idle_since = now
    database.notify(session)


def _attempt_of(session: Session, runner: RunnerRow) -> AttemptRow | None:
    if runner.attempt_id is None:
        return None
    return session.get(AttemptRow, runner.attempt_id, populate_existing=True)


def _lock(session: Session, runner_id: str) -> RunnerRow:
    runner = session.get(RunnerRow, runner_id, with_for_update=True, populate_existing=True)
    assert runner is not None, "authenticated, or read from the table"
    return runner
