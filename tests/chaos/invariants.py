"""What must hold after any fault; each check raises AssertionError with what it found."""

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import psycopg
from sqlalchemy import select

import resnetd
from service.errors import ClusterUnavailable
from service.jobs import consistency
from service.jobs.consistency import IssueKind
from service.states import RayJobState, Reason
from service.storage.artifacts import ArtifactStore
from service.storage.database import Database
from service.storage.tables import AttemptRow, RunnerRow
from tests.chaos.environment import Environment
from tests.chaos.workload import (
    SEARCH,
    JobCase,
    ReferenceRun,
    comparable_points,
    weights_sha256,
)
from tests.support.fake_api import eventually
from workers.cluster.ray_jobs import RayJobClient

_SETTLE_SECONDS = 120.0
_POLL_SECONDS = 0.25

# Records each write that an attempt makes, in the order of the commits.
_RECORD_WRITES = """
CREATE TABLE recorded_writes (
    number bigint GENERATED ALWAYS AS IDENTITY, job_id text, attempt int, table_name text
);
CREATE FUNCTION record_write() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO recorded_writes (job_id, attempt, table_name)
    VALUES (NEW.job_id, NEW.attempt, TG_TABLE_NAME);
    RETURN NEW;
END $$;
CREATE TRIGGER record_write AFTER INSERT OR UPDATE ON metrics
    FOR EACH ROW EXECUTE FUNCTION record_write();
CREATE TRIGGER record_write AFTER INSERT ON log_lines
    FOR EACH ROW EXECUTE FUNCTION record_write();
CREATE TRIGGER record_write AFTER INSERT ON checkpoints
    FOR EACH ROW EXECUTE FUNCTION record_write();
"""


def record_writes(database_url: str) -> None:
    """Installs the triggers that `check_attempts_do_not_overlap` relies on."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(_RECORD_WRITES.encode())


def check_job_ends(client: resnetd.Client, jobs: Mapping[str, JobCase]) -> None:
    """Each job ended in the state, with the reason and the message of its case."""
    for job_id, case in jobs.items():
        job = client.jobs.get(job_id)
        attempts = [
            (attempt.number, attempt.reason, (attempt.message or "")[-300:])
            for attempt in client.jobs.attempts(job_id)
        ]
        assert (job.state, job.reason) == (case.state, case.reason), (
            f"{case.name} {job_id} is {job.state} ({job.reason}), "
            f"should be {case.state} ({case.reason}): {job.message}\n{attempts}"
        )
        assert case.message in (job.message or ""), f"{case.name} {job_id}: {job.message}"


def check_searches(client: resnetd.Client, search_ids: Iterable[str]) -> list[str]:
    """Each search completed all its trials, each once. Returns the trials' jobs."""
    job_ids: list[str] = []
    for search_id in search_ids:
        search = client.searches.get(search_id)
        assert (search.state, search.end_reason) == ("succeeded", "trials"), (
            f"search {search_id} is {search.state} ({search.end_reason}): {search.message}"
        )
        trials = client.searches.trials(search_id)
        numbers = sorted(trial.number for trial in trials)
        assert numbers == list(range(1, SEARCH["budget"]["trials"] + 1)), f"trials {numbers}"
        assert len({str(trial.params) for trial in trials}) == len(trials), "two trials are equal"
        reasons = {trial.reason for trial in trials}
        assert reasons == {"completed"}, f"trials of {search_id} ended as {reasons}"
        job_ids += [trial.job_id for trial in trials]
    return job_ids


def check_training(
    client: resnetd.Client, job_id: str, case: JobCase, reference: ReferenceRun, folder: Path
) -> None:
    """All metrics and weights equal those of an uninterrupted run."""
    rows = [
        (name, iteration, value)
        for name, series in client.jobs.metrics(job_id).items()
        for iteration, value in zip(series.iterations, series.values, strict=True)
    ]
    assert comparable_points(rows) == reference.points, f"{case.name} {job_id}: metrics differ"
    weights = client.jobs.download(job_id, "newest", path=folder / f"{job_id}.safetensors")
    assert weights_sha256(weights) == reference.weights_sha256, (
        f"{case.name} {job_id}: weights differ"
    )
    weights.unlink()


def check_event_numbers(client: resnetd.Client, job_ids: Iterable[str]) -> None:
    """The events of each job are numbered from 1 without a gap."""
    for job_id in job_ids:
        numbers = [event.number for event in client.jobs.events(job_id)]
        assert numbers == list(range(1, len(numbers) + 1)), f"{job_id}: {numbers}"


def check_attempts_do_not_overlap(
    client: resnetd.Client, database_url: str, job_ids: Iterable[str]
) -> None:
    """Once a later attempt of a job has written, no earlier one does; the last one completes."""
    with psycopg.connect(database_url) as connection:
        rows = connection.execute(
            "SELECT job_id, attempt FROM recorded_writes ORDER BY number"
        ).fetchall()
    for job_id in job_ids:
        writers = [attempt for job, attempt in rows if job == job_id]
        assert writers == sorted(writers), f"attempts of {job_id} wrote alternately: {writers}"
        attempts = client.jobs.attempts(job_id)
        assert [attempt.number for attempt in attempts] == list(range(1, len(attempts) + 1))
        for earlier, later in pairwise(attempts):
            assert earlier.ended_at is not None
            assert later.created_at is not None
            assert earlier.ended_at <= later.created_at, f"{job_id}: {later.number} is too early"
        completed = [attempt.number for attempt in attempts if attempt.reason == "completed"]
        assert completed in ([], [len(attempts)]), f"{job_id} was completed by {completed}"


def check_nothing_is_left(environment: Environment, database: Database) -> None:
    """All reservations, Ray jobs, processes, files and artifacts are released or in use.

    In use are those of warm runners and of stored checkpoints.
    """
    var_path = environment.service.var_path

    _settle("unreleased attempts", lambda: _list_unreleased_attempts(database))
    _settle("Ray jobs or processes", lambda: _list_cluster_differences(environment, database))
    folder = var_path / "work" / "attempts"
    _settle("folders of attempts", lambda: _list_leftover_folders(database, folder))
    # By then no upload can be under way: an artifact that no row names is an orphan.
    later = datetime.now(UTC) + timedelta(hours=2)
    artifacts = ArtifactStore(f"file://{var_path}/artifacts")
    issues = consistency.check(database, artifacts, now=later)
    assert [issue for issue in issues if issue.kind is IssueKind.MISSING] == []
    consistency.delete_orphans(database, artifacts, now=later)
    assert consistency.check(database, artifacts, now=later) == []
    assert not list((var_path / "artifacts").rglob("*#*")), "a partial upload is left"


def _settle(what: str, list_left: Callable[[], list[str]]) -> None:
    """Waits until nothing is left; the failure names what is."""
    left: list[str] = []

    def is_settled() -> bool:
        left[:] = list_left()
        return not left

    try:
        eventually(is_settled, within_seconds=_SETTLE_SECONDS, poll_seconds=_POLL_SECONDS)
    except AssertionError as error:
        raise AssertionError(f"{what} are left: {left}") from error


def _list_unreleased_attempts(database: Database) -> list[str]:
    with database.reading() as session:
        statement = select(AttemptRow).where(AttemptRow.released_at.is_(None))
        return [
            f"{attempt.id} {attempt.state} ({attempt.reason}) of {attempt.runner_id}"
            for attempt in session.scalars(statement)
        ]


def _list_cluster_differences(environment: Environment, database: Database) -> list[str]:
    """Ray's jobs are the runners of the database, and each rank of theirs has its process."""
    with database.reading() as session:
        runners = session.scalars(
            select(RunnerRow).where(RunnerRow.state != RayJobState.TERMINATED)
        ).all()
    head = environment.service.ray
    assert head is not None
    # After a fault of the Ray head all jobs may have ended before anything noticed its absence.
    environment.restart_stopped()
    try:
        with RayJobClient(url=head.url, token=head.token) as cluster:
            jobs = {job.submission_id for job in cluster.list_jobs() if not job.state.is_final}
    except ClusterUnavailable:
        return ["the cluster does not respond"]
    states = {runner.id: runner.state for runner in runners}
    differences = [
        f"{id_} is {state}" for id_, state in states.items() if state is not RayJobState.READY
    ]
    if jobs != states.keys():
        differences.append(f"Ray has {sorted(jobs)}, the database {sorted(states)}")
    ranks = sum(runner.num_workers for runner in runners)
    drivers = environment.processes("python -m workers runner")
    workers = environment.processes("ray::RayTrainWorker")
    if len(workers) != ranks or bool(drivers) != bool(runners):
        differences.append(
            f"{len(workers)} processes of {ranks} ranks, {len(drivers)} of {len(runners)} runners"
        )
    return differences


def _list_leftover_folders(database: Database, attempts_path: Path) -> list[str]:
    """Folders that a later attempt of their job should have deleted.

    After a last attempt that did not complete no other deletes its folder; it expires in an hour.
    """
    with database.reading() as session:
        attempts = session.scalars(select(AttemptRow).order_by(AttemptRow.number)).all()
    last = {attempt.job_id: attempt for attempt in attempts}
    expiring = {attempt.id for attempt in last.values() if attempt.reason is not Reason.COMPLETED}
    return [path.name for path in attempts_path.glob("*") if path.name not in expiring]
