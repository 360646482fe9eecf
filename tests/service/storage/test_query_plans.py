"""What runs every second reads indexes, with 100,000 finished jobs in the database."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from sqlalchemy import event, insert, text

from service.jobs import retention
from service.notifications import deliveries
from service.scheduling import admission, cluster_state, leases, monitoring
from service.scheduling.estimates import Estimator, TimingProfile
from service.settings import RecordRetention
from service.states import LogLevel
from service.storage.database import Database
from service.storage.tables import AttemptRow, Base, JobRow, LogRow
from tests.support.core import LEASE_SECONDS, Core, job_id_of

_FINISHED_JOBS = 100_000
_LARGE_TABLES = ("jobs", "attempts", "log_lines")
# They have a row for each attempt that runs, or give the first row without a sort.
_SHORT_SCANS = ("ix_attempts_leased", "ix_attempts_created_at")

_Statement = tuple[str, Any]


def test_no_frequent_query_reads_a_complete_table(core: Core) -> None:
    finished = core.run()
    core.finish(finished.attempt_id)
    core.release(finished)
    _copy_finished_job(core, job_id_of(finished))
    core.clock.advance(24 * 3600.0)
    core.run()
    core.submit()
    with _recording(core.database) as statements:
        _run_frequent_queries(core)
    assert len(statements) > 20
    scans = [step for statement in statements for step in _find_scans(core.database, statement)]
    assert scans == []

    with _recording(core.database) as statements, core.database.reading() as session:
        # Like none that ran, with workers that none had.
        Estimator(session).estimate_iteration(TimingProfile("none", 1e9, 2, 1, None, None))
    plans = [_read_plan(core.database, statement) for statement in statements]
    for plan, index in zip(plans, ("ix_attempts_timing_key", "ix_attempts_workers"), strict=True):
        assert index in plan


def _copy_finished_job(core: Core, job_id: str) -> None:
    """The job, its attempt and a log line of it, with each number as an id."""
    is_sqlite = core.database.is_sqlite
    number = "printf('%016d', n)" if is_sqlite else "lpad(n::text, 16, '0')"
    numbers = (
        "WITH RECURSIVE numbers(n) AS "
        f"(SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {_FINISHED_JOBS}) "
    )
    log = {"job_id": job_id, "number": 1, "attempt": 1, "at": core.clock.now}
    with core.database.transaction() as session:
        session.execute(insert(LogRow), [log | {"level": LogLevel.INFO, "message": "done"}])
        for row_type, replaced in (
            (JobRow, {"id": number, "spec": "'{}'"}),
            (AttemptRow, {"id": f"{number} || '-a1'", "job_id": number}),
            (LogRow, {"job_id": number}),
        ):
            table = Base.metadata.tables[row_type.__tablename__]
            names = [column.name for column in table.columns]
            values = [replaced.get(name, f'"{name}"') for name in names]
            columns = ", ".join(f'"{name}"' for name in names)
            key = "id" if row_type is JobRow else "job_id"
            session.execute(
                text(
                    f"INSERT INTO {table.name} ({columns}) "
                    f"{numbers} SELECT {', '.join(values)} FROM {table.name}, numbers "
                    f"WHERE {key} = :job_id"
                ),
                {"job_id": job_id},
            )
    with core.database.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("ANALYZE"))


def _run_frequent_queries(core: Core) -> None:
    now = core.clock.now
    with core.database.transaction() as session:
        leases.renew_leases(session, owner="one", now=now, lease_seconds=LEASE_SECONDS)
        leases.take_over_expired(session, owner="two", now=now, lease_seconds=LEASE_SECONDS)
        leases.list_owned(session, owner="one")
        leases.release_leases(session, owner="two", now=now)
        cluster_state.sum_reserved(session)
        admission.is_any_eligible(session, now=now)
        admission.find_next_retry_at(session, now=now)
        deliveries.find_next_due_time(session)
        keep = RecordRetention(logs_days=30, events_days=30, metrics_days=30)
        since = now - timedelta(minutes=10)
        retention.find_expired(session, keep, since=since, now=now)
        monitoring.read_state(session, data_dir=core.data_dir, now=now)
        monitoring.list_attempts(session, since=since)
    core.reconcile_warm_pool(target=1)
    core.claim()


@contextmanager
def _recording(database: Database) -> Iterator[list[_Statement]]:
    statements: list[_Statement] = []

    def record(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith(("SELECT", "UPDATE", "DELETE", "WITH")):
            statements.append((statement, parameters))

    event.listen(database.engine, "before_cursor_execute", record)
    yield statements
    event.remove(database.engine, "before_cursor_execute", record)


def _read_plan(database: Database, statement: _Statement) -> str:
    explain = "EXPLAIN QUERY PLAN " if database.is_sqlite else "EXPLAIN "
    with database.engine.connect() as connection:
        rows = connection.exec_driver_sql(explain + statement[0], statement[1]).all()
    return "\n".join(str(row[-1]) for row in rows)


def _find_scans(database: Database, statement: _Statement) -> list[str]:
    """The steps of the statement's plan that read a large table, or a large index of it."""
    steps = _read_plan(database, statement).splitlines()
    tables = "|".join(_LARGE_TABLES)
    scan = re.compile(rf"\bSCAN ({tables})\b|Seq Scan on ({tables})\b")
    return [
        f"{step} in {statement[0]}"
        for step in steps
        if scan.search(step) and not any(name in step for name in _SHORT_SCANS)
    ]
