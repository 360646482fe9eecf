"""What must hold after any disturbance; each check raises AssertionError with what it found."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import psycopg
from sqlalchemy import func, select

import resnetd
from service.errors import ClusterUnavailable
from service.jobs import consistency
from service.jobs.consistency import IssueKind
from service.states import RayJobState, Reason
from service.storage.artifacts import ArtifactStore
from service.storage.database import Database
from service.storage.tables import AttemptRow, RunnerRow
from tests.chaos.environment import World
from tests.chaos.workload import SEARCH, Order, Undisturbed, points_of, sha256_of
from tests.support.fake_api import eventually
from workers.cluster.ray_jobs import RayJobs

_SETTLE_SECONDS = 120.0

# Each write that an attempt makes leaves its number behind, in the order of the commits.
_WITNESS = """
CREATE TABLE witnessed (
    number bigint GENERATED ALWAYS AS IDENTITY, job_id text, attempt int, what text
);
CREATE FUNCTION witness() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO witnessed (job_id, attempt, what) VALUES (NEW.job_id, NEW.attempt, TG_TABLE_NAME);
    RETURN NEW;
END $$;
CREATE TRIGGER witness AFTER INSERT OR UPDATE ON metrics FOR EACH ROW EXECUTE FUNCTION witness();
CREATE TRIGGER witness AFTER INSERT ON log_lines FOR EACH ROW EXECUTE FUNCTION witness();
CREATE TRIGGER witness AFTER INSERT ON checkpoints FOR EACH ROW EXECUTE FUNCTION witness();
"""


def call_a_witness(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(_WITNESS.encode())


def ended_as_deserved(client: resnetd.Client, jobs: Mapping[str, Order]) -> None:
    for job_id, order in jobs.items():
        job = client.job(job_id)
        told = [
            (one.number, one.reason, (one.message or "")[-300:]) for one in client.attempts(job_id)
        ]
        assert (job.state, job.reason) == (order.state, order.reason), (
            f"{order.name} {job_id} is {job.state} ({job.reason}), "
            f"should be {order.state} ({order.reason}): {job.message}\n{told}"
        )


def searches_ended_whole(client: resnetd.Client, search_ids: Iterable[str]) -> list[str]:
    """Each has all its trials, each of them once, and all completed. The trials' jobs."""
    found: list[str] = []
    for search_id in search_ids:
        search = client.search(search_id)
        assert (search.state, search.end_reason) == ("succeeded", "trials"), (
            f"search {search_id} is {search.state} ({search.end_reason}): {search.message}"
        )
        trials = client.trials(search_id)
        numbers = sorted(trial.number for trial in trials)
        assert numbers == list(range(1, SEARCH["budget"]["trials"] + 1)), f"trials {numbers}"
        assert len({str(trial.params) for trial in trials}) == len(trials), "a trial came twice"
        reasons = {trial.reason for trial in trials}
        assert reasons == {"completed"}, f"trials of {search_id} ended as {reasons}"
        found += [trial.job_id for trial in trials]
    return found


def told_everything_once(
    client: resnetd.Client, job_id: str, order: Order, undisturbed: Undisturbed, folder: Path
) -> None:
    """Every number and every weight is that of the run that nobody disturbed."""
    rows = [
        (name, iteration, value)
        for name, series in client.metrics(job_id).items()
        for iteration, value in zip(series.iterations, series.values, strict=True)
    ]
    assert points_of(rows) == undisturbed.points, f"{order.name} {job_id} told other numbers"
    weights = client.download(job_id, "newest", path=folder / f"{job_id}.safetensors")
    assert sha256_of(weights) == undisturbed.weights_sha256, f"{order.name} {job_id}: weights"
    weights.unlink()


def events_have_no_gap(client: resnetd.Client, job_ids: Iterable[str]) -> None:
    for job_id in job_ids:
        numbers = [event.number for event in client.events(job_id)]
        assert numbers == list(range(1, len(numbers) + 1)), f"{job_id}: {numbers}"


def attempts_wrote_one_after_the_other(
    client: resnetd.Client, url: str, job_ids: Iterable[str]
) -> None:
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "SELECT job_id, attempt FROM witnessed ORDER BY number"
        ).fetchall()
    for job_id in job_ids:
        wrote = [attempt for job, attempt in rows if job == job_id]
        assert wrote == sorted(wrote), f"attempts of {job_id} wrote in turns: {wrote}"
        attempts = client.attempts(job_id)
        assert [one.number for one in attempts] == list(range(1, len(attempts) + 1))
        for earlier, later in pairwise(attempts):
            assert earlier.ended_at is not None
            assert later.created_at is not None
            assert earlier.ended_at <= later.created_at, f"{job_id}: {later.number} began too soon"
        completed = [one.number for one in attempts if one.reason == "completed"]
        assert completed in ([], [len(attempts)]), f"{job_id} was completed by {completed}"


def nothing_is_left(world: World, database: Database) -> None:
    """Rows, cluster jobs, processes, files and artifacts: what there is belongs to a standby."""
    eventually(lambda: not _unreleased(database), within_seconds=_SETTLE_SECONDS)
    eventually(lambda: _cluster_agrees(world, database), within_seconds=_SETTLE_SECONDS)
    attempts = world.service.var_path / "work" / "attempts"
    eventually(lambda: not _leftovers(database, attempts), within_seconds=_SETTLE_SECONDS)
    # Ten minutes after everything: what nothing names then is nobody's any more.
    later = datetime.now(UTC) + timedelta(hours=2)
    artifacts = ArtifactStore(f"file://{world.service.var_path}/artifacts")
    findings = consistency.check(database, artifacts, now=later)
    assert [one for one in findings if one.ailment is IssueKind.MISSING] == []
    consistency.delete_orphans(database, artifacts, now=later)
    assert consistency.check(database, artifacts, now=later) == []
    assert not list((world.service.var_path / "artifacts").rglob("*#*")), "half an upload is left"


def _unreleased(database: Database) -> int:
    with database.reading() as session:
        statement = select(func.count()).where(AttemptRow.released_at.is_(None))
        return session.scalar(statement) or 0


def _cluster_agrees(world: World, database: Database) -> bool:
    """Ray runs what the table says, and each runner's ranks have their processes and no others."""
    with database.reading() as session:
        runners = session.scalars(
            select(RunnerRow).where(RunnerRow.state != RayJobState.TERMINATED)
        ).all()
    head = world.service.ray
    assert head is not None
    # The last strike may have been Ray's head's, and all jobs over before it was missed.
    world.mend()
    try:
        with RayJobs(url=head.url, token=head.token) as cluster:
            jobs = {job.submission_id for job in cluster.list_jobs() if not job.state.is_final}
    except ClusterUnavailable:
        return False
    ready = all(runner.state is RayJobState.READY for runner in runners)
    if not ready or jobs != {runner.id for runner in runners}:
        return False
    ranks = sum(runner.num_workers for runner in runners)
    drivers = world.processes("python -m workers runner")
    return len(world.processes("ray::RayTrainWorker")) == ranks and bool(drivers) == bool(runners)


def _leftovers(database: Database, attempts: Path) -> list[str]:
    """Folders of attempts that a later attempt of their job should have cleared away.

    The last attempt of a job that died with its whole node has nobody to do that; its folder
    goes after an hour.
    """
    with database.reading() as session:
        rows = session.scalars(select(AttemptRow).order_by(AttemptRow.number)).all()
    last = {attempt.job_id: attempt for attempt in rows}
    excused = {one.id for one in last.values() if one.reason is not Reason.COMPLETED}
    return [path.name for path in attempts.glob("*") if path.name not in excused]
