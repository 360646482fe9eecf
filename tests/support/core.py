"""Calls of the service, each in a transaction of its own, on a clock that only tests move."""

import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio

from service.access import people, quotas, tokens
from service.execution import attempts, runners, warm_pool
from service.execution.ray_job_lifecycle import RayJobSubmission
from service.jobs import checkpoints, commands, records, submission
from service.jobs.checkpoints import CheckpointFile
from service.resources import ResourceBundle, WorkerGroup
from service.scheduling import admission, cluster_state, leases
from service.scheduling.leases import Claim
from service.specs.job_spec import JobSpec, parse_job_spec
from service.specs.protocol import (
    CheckpointManifest,
    FinishAttemptRequest,
    MetricPoint,
    NextAttemptResponse,
    PartDigest,
    Report,
    ReportResponse,
)
from service.specs.quota import Quota
from service.states import CheckpointPart, JobState, Reason, Role, TokenScope
from service.storage import events
from service.storage.artifacts import ArtifactStore
from service.storage.database import Database
from service.storage.tables import AttemptRow, EventRow, JobRow, PersonRow, RunnerRow

START = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
LEASE_SECONDS = 15.0
ONE_WORKER = WorkerGroup(1, 1, 0)
# A data directory that this machine does not have.
NO_DATA = Path("/nonexistent")
# Attempts that a runner runs before it is drained.
LIVES = 100


# Of a training process, as it reports it.
ENVIRONMENT: dict[str, Any] = {
    "parameters": 77_850,
    "classes": 10,
    "train_images": 1437,
    "test_images": 360,
    "device": "cpu",
    "num_workers": 1,
    "host": "node-1",
    "pids": [7],
    "versions": {"torch": "2.15.0", "resnetd": "0.1.0", "commit": "c" * 40},
    "numerics": {
        "precision": "fp32",
        "threads": "1",
        "machine": "x86_64",
        "cpu_capability": "AVX2",
    },
    "data_checksum": {"sha256": "d" * 64, "scope": "images"},
}


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def written(**fields: Any) -> dict[str, Any]:
    """The body of a request for the smallest job, with `fields` added or replaced."""
    return {"depth": 8, "shortcut": "A", "dataset": "digits"} | fields


def spec(**fields: Any) -> JobSpec:
    return parse_job_spec(written(**fields))


def workers(number: int, **fields: Any) -> dict[str, Any]:
    return {"num_workers": number} | fields


def make_point(series: str, iteration: int, value: float | None) -> MetricPoint:
    """Measured after a second of training for each iteration."""
    at = START + timedelta(seconds=iteration)
    return MetricPoint(
        series=series, iteration=iteration, value=value, seconds=float(iteration), at=at
    )


def content(part: CheckpointPart, iteration: int) -> bytes:
    """The bytes of a checkpoint's part."""
    return f"{part} of iteration {iteration}".encode()


def note(
    iteration: int,
    *,
    test_error: float | None = None,
    selection_error: float | None = None,
    parts: Sequence[CheckpointPart] = (CheckpointPart.WEIGHTS, CheckpointPart.STATE),
) -> CheckpointManifest:
    return CheckpointManifest(
        iteration=iteration,
        test_error=test_error,
        selection_error=test_error if selection_error is None else selection_error,
        train_error=None,
        parts=[
            PartDigest(
                part=part,
                sha256=hashlib.sha256(content(part, iteration)).hexdigest(),
                size_bytes=len(content(part, iteration)),
            )
            for part in parts
        ],
    )


@dataclass(frozen=True)
class Taken(Claim):
    """A claim that was assigned to its runner; `secret` is the token of the attempt."""

    secret: str


class Core:
    def __init__(self, database: Database, clock: Clock) -> None:
        self.database = database
        self.clock = clock
        self.data_dir = NO_DATA

    def add_person(
        self,
        name: str,
        role: Role = Role.MEMBER,
        *,
        scope: TokenScope = TokenScope.FULL,
        tag: str | None = None,
        group: str | None = None,
    ) -> str:
        """The secret of a new token, of a new person or one that is known."""
        with self.database.transaction() as session:
            if session.get(PersonRow, name) is None:
                people.add_person(session, name, role=role, group=group, now=self.clock.now)
            _, secret = tokens.create_token(
                session,
                user=name,
                label="tests",
                scope=scope,
                tag=tag,
                expires_at=None,
                now=self.clock.now,
            )
            return secret

    def set_quota(self, key: str, **limits: float) -> None:
        with self.database.transaction() as session:
            quotas.set_quota(session, key, Quota.model_validate(limits))

    def record_cluster(
        self, *, cpus: int, gpus: float = 0, nodes: Sequence[ResourceBundle] = ()
    ) -> None:
        """Records the cluster's capacity, on these nodes or on one."""
        capacity = ResourceBundle(cpus=cpus, gpus=gpus)
        with self.database.transaction() as session:
            cluster_state.record_cluster(session, capacity, nodes=nodes, now=self.clock.now)

    def submit(self, *, key: str | None = None, user: str = "ann", **fields: Any) -> str:
        """The new job's id; each job is a second younger than the one before."""
        self.clock.advance(1.0)
        with self.database.transaction() as session:
            submitted = submission.submit(
                session,
                spec(**fields),
                user=user,
                data_dir=self.data_dir,
                now=self.clock.now,
                idempotency_key=key,
            )
            return submitted.row.id

    def claim_jobs(self, owner: str = "one", *, limit: int = admission.MAX_CLAIMS) -> list[Claim]:
        """What one transaction claims."""
        with self.database.transaction() as session:
            return admission.claim_jobs(
                session,
                owner=owner,
                now=self.clock.now,
                lease_seconds=LEASE_SECONDS,
                data_dir=self.data_dir,
                limit=limit,
            )

    def try_claim(self, owner: str = "one") -> Claim | None:
        claims = self.claim_jobs(owner, limit=1)
        return claims[0] if claims else None

    def start_all(self, *, limit: int = admission.MAX_CLAIMS) -> list[str]:
        """Names of all jobs that start now, in the order of their claims, `limit` at once."""
        found: list[str] = []
        while claims := self.claim_jobs(limit=limit):
            found += [self.job(job_id_of(claim)).name for claim in claims]
        return found

    def claim(self, owner: str = "one") -> Claim:
        claimed = self.try_claim(owner)
        assert claimed is not None, "no job fits, or none waits"
        return claimed

    def start(self, owner: str = "one", **fields: Any) -> Taken:
        """A new job on a large cluster: claimed, and assigned to its ready runner."""
        self.record_cluster(cpus=64)
        self.submit(**fields)
        return self.start_next(owner)

    def start_small(self, *, cpus: int) -> Taken:
        """A new job of one worker with `cpus`, on the cluster as recorded."""
        self.submit(resources=workers(1, cpus_per_worker=cpus))
        return self.start_next()

    def start_next(self, owner: str = "one") -> Taken:
        claimed = self.claim(owner)
        self.start_runners()
        return self.take(claimed)

    def take(self, claimed: Claim) -> Taken:
        """The runner, which is ready, polls and gets the attempt."""
        response = self.ask(claimed.runner_id)
        assert response is not None
        assert response.assignment is not None
        assert response.assignment.config.attempt_id == claimed.attempt_id
        return Taken(
            attempt_id=claimed.attempt_id,
            fencing_token=claimed.fencing_token,
            runner_id=claimed.runner_id,
            secret=response.assignment.token,
        )

    def start_warm_runner(
        self, worker_group: WorkerGroup = ONE_WORKER
    ) -> RayJobSubmission[RunnerRow]:
        """A submitted runner that has not polled yet."""
        self.clock.advance(1.0)
        with self.database.transaction() as session:
            runner_id = runners.plan_runner(
                session, worker_group, max_attempts=LIVES, now=self.clock.now
            ).id
        (start,) = self.start_runners()
        assert start.id == runner_id
        return start

    def reconcile_warm_pool(
        self, *, target: int, num_workers: int = 1
    ) -> list[tuple[str, WorkerGroup]]:
        """Reconciles the warm pool; state and workers of all runners that have not terminated."""
        with self.database.transaction() as session:
            capacity = cluster_state.lock_cluster(session)
            assert capacity is not None
            warm_pool.reconcile(
                session,
                capacity,
                target=target,
                default_num_workers=num_workers,
                max_attempts=LIVES,
                now=self.clock.now,
            )
        with self.database.reading() as session:
            return [
                (runner.state, runners.worker_group_of(runner))
                for runner in runners.list_runners(session)
            ]

    def start_runners(self) -> list[RayJobSubmission[RunnerRow]]:
        """Submits the planned runners that fit."""
        with self.database.transaction() as session:
            capacity = cluster_state.lock_cluster(session)
            assert capacity is not None
            starts = runners.take_startable(session, capacity, now=self.clock.now)
            for start in starts:
                runners.mark_submitted(session, start.id, now=self.clock.now)
        return starts

    def ask(
        self,
        runner_id: str,
        *,
        trained_attempt_id: str | None = None,
        is_exiting: bool = False,
    ) -> NextAttemptResponse | None:
        """The runner polls for its next attempt."""
        with self.database.transaction() as session:
            return runners.next_attempt(
                session,
                runner_id,
                trained_attempt_id=trained_attempt_id,
                is_exiting=is_exiting,
                now=self.clock.now,
            )

    def runner(self, runner_id: str) -> RunnerRow:
        with self.database.reading() as session:
            found = session.get(RunnerRow, runner_id)
            assert found is not None
            return found

    def runner_of(self, attempt_id: str) -> str:
        runner_id = self.attempt(attempt_id).runner_id
        assert runner_id is not None
        return runner_id

    def run(self, owner: str = "one", **fields: Any) -> Taken:
        """A new job whose training processes have sent a first, empty report."""
        claimed = self.start(owner, **fields)
        self.report(claimed.attempt_id, 1)
        return claimed

    def retry(self) -> Taken:
        """Starts the job in backoff once that is over; it is running."""
        self.clock.advance(60.0)
        claimed = self.start_next()
        self.report(claimed.attempt_id, 1)
        return claimed

    def report(self, attempt_id: str, sequence: int, **fields: Any) -> ReportResponse:
        return self.apply(attempt_id, sequence, **fields).response

    def apply(self, attempt_id: str, sequence: int, **fields: Any) -> attempts.AppliedReport:
        sent = Report(sequence=sequence, **fields)
        with self.database.transaction() as session:
            return attempts.apply_report(
                session, attempt_id, sent, data_dir=self.data_dir, now=self.clock.now
            )

    def finish(self, attempt_id: str, reason: Reason = Reason.COMPLETED, **fields: Any) -> JobState:
        request = FinishAttemptRequest(reason=reason, **fields)
        with self.database.transaction() as session:
            return attempts.finish_attempt(session, attempt_id, request, now=self.clock.now)

    def end(self, claimed: Claim, reason: Reason) -> bool:
        """The dispatcher ends the attempt."""
        with self.database.transaction() as session:
            return leases.end_attempt(
                session,
                claimed.attempt_id,
                reason,
                fencing_token=claimed.fencing_token,
                now=self.clock.now,
                message="ended by a test",
            )

    def release(self, claimed: Claim) -> None:
        """The attempt's runner terminates, which frees its resources."""
        with self.database.transaction() as session:
            assert runners.mark_terminated(session, claimed.runner_id, now=self.clock.now)

    def take_over(self, owner: str) -> list[AttemptRow]:
        with self.database.transaction() as session:
            return leases.take_over_expired(
                session, owner=owner, now=self.clock.now, lease_seconds=LEASE_SECONDS
            )

    def cancel(self, job_id: str) -> JobState:
        with self.database.transaction() as session:
            return commands.cancel(session, job_id, now=self.clock.now).state

    def stop_early(self, job_id: str) -> bool:
        with self.database.transaction() as session:
            return commands.stop_early(session, job_id, message="worse", now=self.clock.now)

    def command(self, verb: str, job_id: str, *arguments: Any) -> JobRow:
        """Calls a function of service.jobs.commands."""
        with self.database.transaction() as session:
            job: JobRow = getattr(commands, verb)(session, job_id, *arguments, now=self.clock.now)
            return job

    def job(self, job_id: str) -> JobRow:
        with self.database.reading() as session:
            return records.find_job(session, job_id)

    def attempt(self, attempt_id: str) -> AttemptRow:
        with self.database.reading() as session:
            found = session.get(AttemptRow, attempt_id)
            assert found is not None
            return found

    def events(self, job_id: str) -> list[EventRow]:
        with self.database.reading() as session:
            return events.list_events_after(
                session, records.find_job(session, job_id), 0, limit=10_000
            )

    def list_owned(self, owner: str) -> list[str]:
        with self.database.reading() as session:
            return [owned.attempt.id for owned in leases.list_owned(session, owner=owner)]


def store_checkpoint(
    artifacts: ArtifactStore, claimed: Claim, iteration: int
) -> CheckpointManifest:
    """Uploads the parts of a checkpoint; it counts once its manifest is reported."""

    async def bytes_of(part: CheckpointPart) -> AsyncIterator[bytes]:
        yield content(part, iteration)

    manifest = note(iteration)
    for part, file in checkpoints.files_of_manifest(claimed.attempt_id, manifest).items():

        async def write(part: CheckpointPart = part, file: CheckpointFile = file) -> None:
            await artifacts.write(file.key, bytes_of(part), sha256=file.sha256, max_bytes=1000)

        anyio.run(write)
    return manifest


def job_id_of(attempt: Claim | str) -> str:
    attempt_id = attempt if isinstance(attempt, str) else attempt.attempt_id
    return attempt_id.partition("-a")[0]


def cancelled(core: Core, **fields: Any) -> str:
    """A job that was cancelled before it started."""
    job_id = core.submit(**fields)
    core.cancel(job_id)
    return job_id
