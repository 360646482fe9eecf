"""Random steps through the queue on both databases, compared with a simple model.

The model has the state and the attempt of each job, and the times for which each person had which
cores. After each step the database must agree with it, and the invariants must hold.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from math import log
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import func, select

from service.jobs import queue_order
from service.resources import ResourceBundle
from service.scheduling import cluster_state, fair_share
from service.scheduling.leases import Claim
from service.specs.fair_share import FairShare
from service.states import AttemptState, JobState, Reason
from service.storage.database import Database
from service.storage.tables import AttemptRow, Base, JobEventRow, JobRow
from tests.support.core import Clock, Core, job_id_of, workers

CPUS = 4
_CANCELLING = frozenset({Reason.CANCELLED, Reason.KILLED, Reason.EARLY_STOPPED})
USERS = ("ann", "ben", "eve")
WEIGHT, HALF_LIFE_SECONDS = 30.0, 900.0
WAITS = (JobState.QUEUED, JobState.HELD, JobState.PAUSED, JobState.BLOCKED)


@dataclass
class Model:
    """The expected state of a job. `claim` None without an active attempt."""

    created_at: datetime
    priority: int
    user: str
    cpus: int
    state: JobState = JobState.QUEUED
    needs: str | None = None
    claim: Claim | None = None
    sequence: int = 0
    ready_at: datetime | None = None
    is_pausing: bool = False
    is_cancelling: bool = False


@dataclass
class Attempt:
    """An attempt whose resources are not released yet."""

    claim: Claim
    user: str
    cpus: int
    began_at: datetime
    has_ended: bool = False


@dataclass(frozen=True)
class Use:
    """Cores that a person had for a time, until they were released."""

    user: str
    cpus: int
    began_at: datetime
    ended_at: datetime

    def count_decayed_hours(self, now: datetime) -> float:
        """The integral of the cores, decayed from each moment until now."""
        first, last = (
            0.5 ** ((now - at).total_seconds() / HALF_LIFE_SECONDS)
            for at in (self.began_at, self.ended_at)
        )
        hours: float = self.cpus * (last - first) * HALF_LIFE_SECONDS / log(2) / 3600
        return hours


class QueueSteps(RuleBasedStateMachine):
    core: Core

    @initialize()
    def empty(self) -> None:
        with self.core.database.transaction() as session:
            for table in reversed(Base.metadata.sorted_tables):
                session.execute(table.delete())
        self.jobs: dict[str, Model] = {}
        self.unreleased: list[Attempt] = []
        self.used: list[Use] = []
        self.refreshed_at = self.core.clock.now
        self.core.record_cluster(cpus=CPUS)
        for user in USERS:
            self.core.add_person(user)
        with self.core.database.transaction() as session:
            settings = FairShare(weight=WEIGHT, half_life_days=HALF_LIFE_SECONDS / 86_400)
            fair_share.set_fair_share(session, settings, now=self.core.clock.now)

    def _pick(self, data: st.DataObject, *states: JobState) -> str | None:
        fitting = sorted(job_id for job_id, job in self.jobs.items() if job.state in states)
        return data.draw(st.sampled_from(fitting)) if fitting else None

    @rule(
        cpus=st.integers(1, CPUS),
        priority=st.sampled_from([0, 50, 100]),
        user=st.sampled_from(USERS),
        data=st.data(),
        needs_other=st.booleans(),
    )
    def submit(
        self, cpus: int, priority: int, user: str, data: st.DataObject, needs_other: bool
    ) -> None:
        needed = self._pick(data, *WAITS, JobState.RUNNING) if needs_other else None
        job_id = self.core.submit(
            priority=priority,
            user=user,
            resources=workers(cpus),
            recipe={"name": "quick", "batch_size": 12},
            after=[needed] if needed else [],
        )
        state = JobState.BLOCKED if needed else JobState.QUEUED
        created_at = self.core.clock.now
        self.jobs[job_id] = Model(created_at, priority, user, cpus, state, needs=needed)

    @rule()
    def claim(self) -> None:
        """Without measured times: the first of the queue, or a job that fits beside it."""
        claimed = self.core.try_claim()
        points = self._check_points()
        queued = sorted(
            (_sort_key(job, points), job_id)
            for job_id, job in self.jobs.items()
            if job.state is JobState.QUEUED
            and (job.ready_at is None or job.ready_at <= self.core.clock.now)
        )
        free = CPUS - sum(attempt.cpus for attempt in self.unreleased)
        if claimed is None:
            assert not queued or self.jobs[queued[0][1]].cpus > free
            return
        job_id = job_id_of(claimed)
        job = self.jobs[job_id]
        assert job.state is JobState.QUEUED
        assert job.cpus <= free
        first = self.jobs[queued[0][1]]
        assert job is first or first.cpus > free, "the first of the queue was skipped"
        job.state, job.claim, job.sequence = JobState.STARTING, claimed, 0
        self.unreleased.append(Attempt(claimed, job.user, job.cpus, self.core.clock.now))

    @rule(data=st.data())
    def report(self, data: st.DataObject) -> None:
        job_id = self._pick(data, JobState.STARTING, JobState.RUNNING)
        if job_id is None:
            return
        job = self.jobs[job_id]
        assert job.claim is not None
        job.sequence += 1
        control = self.core.report(job.claim.attempt_id, job.sequence)
        job.state = JobState.RUNNING
        expected = "cancel" if job.is_cancelling else "pause" if job.is_pausing else None
        assert control.stop_reason == expected

    @rule(data=st.data(), reason=st.sampled_from([*Reason]))
    def end(self, data: st.DataObject, reason: Reason) -> None:
        job_id = self._pick(data, JobState.STARTING, JobState.RUNNING)
        if job_id is None or reason in {Reason.DEPENDENCY_FAILED, Reason.PREEMPTED}:
            return
        job = self.jobs[job_id]
        assert job.claim is not None
        assert self.core.end(job.claim, reason)
        self._attempt_of(job).has_ended = True
        row = self.core.job(job_id)
        if reason.is_success:
            expected = {JobState.SUCCEEDED}
        elif job.is_cancelling or reason in _CANCELLING:
            expected = {JobState.CANCELLED}
        elif reason.blame is not None and not reason.is_retryable:
            expected = {JobState.FAILED}
        elif job.is_pausing or reason is Reason.PAUSED:
            expected = {JobState.PAUSED, JobState.FAILED}
        else:
            expected = {JobState.QUEUED, JobState.HELD, JobState.FAILED}
        assert row.state in expected
        if row.state is JobState.FAILED and reason.is_retryable:
            assert row.restarts > 2, "it had restarts left"
        job.ready_at = row.not_before
        self._set_state(job_id, row.state)

    @rule(data=st.data(), command=st.sampled_from(["hold", "pause", "cancel", "kill"]))
    def stop(self, data: st.DataObject, command: str) -> None:
        job_id = self._pick(data, JobState.QUEUED, JobState.BLOCKED)
        if job_id is None:
            return
        self.core.command(command, job_id)
        after = {"hold": JobState.HELD, "pause": JobState.PAUSED}
        self._set_state(job_id, after.get(command, JobState.CANCELLED))

    @rule(data=st.data(), command=st.sampled_from(["pause", "cancel", "kill"]))
    def stop_running(self, data: st.DataObject, command: str) -> None:
        job_id = self._pick(data, JobState.STARTING, JobState.RUNNING)
        if job_id is None:
            return
        job = self.jobs[job_id]
        if command == "kill":
            self.core.command(command, job_id)
            next(
                attempt for attempt in self.unreleased if attempt.claim is job.claim
            ).has_ended = True
            self._set_state(job_id, JobState.CANCELLED)
        elif command == "cancel":
            self.core.command(command, job_id)
            job.is_cancelling = True
        elif not job.is_cancelling:
            self.core.command(command, job_id)
            job.is_pausing = True

    @rule(data=st.data())
    def release_or_resume(self, data: st.DataObject) -> None:
        job_id = self._pick(data, JobState.HELD, JobState.PAUSED)
        if job_id is None:
            return
        job = self.jobs[job_id]
        self.core.command("release" if job.state is JobState.HELD else "resume", job_id)
        needed = self.jobs[job.needs] if job.needs else None
        is_blocked = needed is not None and not needed.state.is_final
        job.state = JobState.BLOCKED if is_blocked else JobState.QUEUED

    @precondition(lambda self: any(attempt.has_ended for attempt in self.unreleased))
    @rule()
    def release(self) -> None:
        attempt = next(attempt for attempt in self.unreleased if attempt.has_ended)
        self.core.release(attempt.claim)
        self.unreleased.remove(attempt)
        now = self.core.clock.now
        self.used.append(Use(attempt.user, attempt.cpus, attempt.began_at, now))

    @rule()
    def wait(self) -> None:
        """Longer than any backoff."""
        self.core.clock.advance(61.0)
        self.core.record_cluster(cpus=CPUS)

    def _check_points(self) -> dict[str, int]:
        """The points in force after a claim, which follow usage where that is due."""
        now = self.core.clock.now
        with self.core.database.reading() as session:
            points = queue_order.read_points(session)
        if now >= self.refreshed_at + timedelta(seconds=10):
            self.refreshed_at = now
            hours = self._count_hours()
            most = max(hours.values())
            for user, found in points.items():
                wanted = WEIGHT * hours[user] / most if most else 0.0
                assert abs(found - wanted) < 1, "points follow usage"
        return points

    def _count_hours(self) -> dict[str, float]:
        """Decayed core-hours of each person, with what runs."""
        now = self.core.clock.now
        running = [Use(found.user, found.cpus, found.began_at, now) for found in self.unreleased]
        hours = dict.fromkeys(USERS, 0.0)
        for use in (*self.used, *running):
            hours[use.user] += use.count_decayed_hours(now)
        return hours

    def _attempt_of(self, job: Model) -> Attempt:
        return next(attempt for attempt in self.unreleased if attempt.claim is job.claim)

    def _set_state(self, job_id: str, state: JobState) -> None:
        job = self.jobs[job_id]
        job.state, job.claim, job.is_pausing, job.is_cancelling = state, None, False, False
        if not state.is_final:
            return
        for other_id, other in self.jobs.items():
            if other.needs != job_id or other.state not in WAITS:
                continue
            if state is not JobState.SUCCEEDED:
                self._set_state(other_id, JobState.CANCELLED)
            elif other.state is JobState.BLOCKED:
                other.state = JobState.QUEUED

    @invariant()
    def database_agrees_with_the_model(self) -> None:
        with self.core.database.reading() as session:
            states = dict(session.execute(select(JobRow.id, JobRow.state)).all())
            active = list(
                session.scalars(
                    select(AttemptRow.job_id).where(AttemptRow.state != AttemptState.ENDED)
                )
            )
            reserved = cluster_state.sum_reserved(session)
            points = queue_order.read_points(session)
            waiting = session.execute(
                select(JobRow.id, JobRow.queue_sort_key).where(JobRow.state.in_(WAITS))
            ).all()
            capacity = ResourceBundle(cpus=CPUS, gpus=0)
            uses = fair_share.read_use(session, capacity, now=self.core.clock.now)
            numbers = session.execute(
                select(func.count(), func.max(JobEventRow.number)).group_by(JobEventRow.subject_id)
            ).all()
        assert states == {job_id: job.state for job_id, job in self.jobs.items()}
        assert sorted(active) == sorted(job_id for job_id, job in self.jobs.items() if job.claim)
        assert reserved == ResourceBundle(
            cpus=sum(attempt.cpus for attempt in self.unreleased), gpus=0
        )
        assert reserved.cpus <= CPUS
        for job_id, sort_key in waiting:
            assert sort_key == pytest.approx(_sort_key(self.jobs[job_id], points), abs=1e-5)
        used = {user: hours for user, hours in self._count_hours().items() if hours}
        assert {f"user:{user}": hours for user, hours in used.items()} == pytest.approx(
            {key: use.used.core_hours for key, use in uses.items() if use.used.core_hours}
        ), "each attempt counts once"
        assert all(count == newest for count, newest in numbers), "events without a gap"


def _sort_key(job: Model, points: dict[str, int]) -> float:
    return job.created_at.timestamp() - 600 * (job.priority - points.get(job.user, 0))


def _run(database: Database, *, examples: int, steps: int) -> None:
    machine: Any = type("QueueSteps", (QueueSteps,), {"core": Core(database, Clock())})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_random_steps_agree_with_the_model(database: Database) -> None:
    """Each run takes other steps, so few of them are enough."""
    _run(database, examples=15, steps=40)
