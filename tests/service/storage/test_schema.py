"""Migrations create the tables of the code, keep the rows, and are required at start-up."""

import os
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import psycopg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import MetaData, inspect

from service.access import audit, sign_ins
from service.access.policy import Principal
from service.errors import DatabaseUnavailable
from service.jobs import mlflow_runs, model_registry
from service.notifications import alerts, webhooks
from service.notifications.alerts import Firing, Notice
from service.scheduling import dispatchers, fair_share
from service.specs.fair_share import FairShare
from service.specs.protocol import LogLine
from service.states import AlertCondition, AuditKind, LogLevel, Role, TokenScope
from service.storage import schema
from service.storage.database import Database
from service.storage.tables import Base, OtherCheckpointRow, StudyAnalysisRow
from tests.support.alerts import add_alert
from tests.support.analyses import RESPONSES
from tests.support.core import Clock, Core, job_id_of, make_point, note
from tests.support.fake_api import eventually
from tests.support.postgres import PostgresServer
from tests.support.searching import Searching
from tests.support.studies import submit_study


def _tables(database: Database) -> set[str]:
    return set(inspect(database.engine).get_table_names()) - {"alembic_version"}


def test_migrations_create_exactly_the_tables_of_the_code(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_migrations_go_up_down_and_up_again(database: Database) -> None:
    schema.downgrade(database, revision="base")
    assert _tables(database) == set()
    schema.upgrade(database)
    assert _tables(database) == set(Base.metadata.tables)


def test_rows_survive_each_downgrade_and_upgrade(database: Database, core: Core) -> None:
    """Columns that two schemas share keep their values."""
    _fill(core)
    before = lower = _content(database)
    for revision in _revisions():
        schema.downgrade(database, revision=revision)
        lower = _content(database)
        assert _common(lower, before) == _common(before, lower), f"down to {revision}"
    unused = set() if database.is_sqlite else {"changes"}
    assert {name for name, rows in lower.items() if not rows} == unused, "tables without a row"
    schema.upgrade(database)
    after = _content(database)
    assert _common(after, lower) == _common(before, lower)


Content = dict[str, list[dict[str, object]]]


def _revisions() -> list[str]:
    """Newest first."""
    script = ScriptDirectory(str(Path(schema.__file__).parent / "migrations"))
    return [revision.revision for revision in script.walk_revisions()]


def _content(database: Database) -> Content:
    """The rows of all existing tables."""
    metadata = MetaData()
    metadata.reflect(database.engine)
    with database.reading() as session:
        return {
            name: [dict(row) for row in session.execute(table.select()).mappings()]
            for name, table in metadata.tables.items()
            if name != "alembic_version"
        }


def _common(content: Content, other: Content) -> dict[str, list[str]]:
    """The rows of shared tables, reduced to shared columns; 1.0 equals 1."""
    return {
        name: sorted(
            repr({column: _plain(row[column]) for column in sorted(row.keys() & other[name][0])})
            for row in content[name]
        )
        for name in content.keys() & other.keys()
        if other[name]
    }


def _plain(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _fill(core: Core) -> None:
    """A row in each table."""
    token = core.add_person("ann")
    core.set_quota("user:ann", jobs=8)
    with core.database.transaction() as session:
        fair_share.set_fair_share(session, FairShare(), now=core.clock.now)
        dispatchers.record_heartbeat(session, "one", round_at=None, now=core.clock.now)
    with core.database.transaction() as session:
        sign_ins.sign_in(session, token, now=core.clock.now)
        audit.record(session, AuditKind.SIGN_IN, "ann", now=core.clock.now)
        webhooks.add_webhook(session, "https://example.org/", (), user="ann", now=core.clock.now)
    alert_id = add_alert(core, AlertCondition.QUEUE_STUCK)
    with core.database.transaction() as session:
        firing = Firing(alert_id, AlertCondition.QUEUE_STUCK, "queue")
        alerts.begin(session, firing, Notice("title", "", "/", {}), now=core.clock.now)
    claimed = core.run(tags=["nightly"])
    with core.database.transaction() as session:
        mlflow_runs.add(session, [job_id_of(claimed)], now=core.clock.now)
    # More than are kept without buckets.
    points = [make_point("train/loss", iteration, 1.5) for iteration in range(300)]
    line = LogLine(at=core.clock.now, level=LogLevel.INFO, message="a line")
    core.report(claimed.attempt_id, 2, metrics=points, logs=[line], checkpoints=[note(20)])
    core.submit(after=[job_id_of(claimed)], key="once")
    core.finish(claimed.attempt_id, analysis=RESPONSES)
    core.release(claimed)
    with core.database.transaction() as session:
        other = OtherCheckpointRow(job_id=job_id_of(claimed), position=0, checkpoint_id="0" * 16)
        session.add(other)
    _register(core, job_id_of(claimed))
    study_id = submit_study(core)
    place = {"study_id": study_id, "label": "plain-8", "seed": 0, "name": "views"}
    with core.database.transaction() as session:
        session.add(StudyAnalysisRow(**place, job_id=None, problem="no checkpoint"))
    searching = Searching(core)
    searching.assign_trial(searching.run(), "a")


def _register(core: Core, job_id: str) -> None:
    caller = Principal("ann", Role.MEMBER, None, TokenScope.FULL, None, "", None)
    with core.database.transaction() as session:
        version = model_registry.register(
            session,
            caller,
            name="resnet-8/course",
            job_id=job_id,
            checkpoint="newest",
            note="",
            now=core.clock.now,
        )
        model_registry.move_alias(
            session, version.model.id, "production", version=1, note="", now=core.clock.now
        )


def test_a_repeated_upgrade_changes_nothing(database: Database) -> None:
    schema.upgrade(database)
    schema.require_current(database)


@pytest.mark.db
def test_migrations_that_start_together_all_succeed(postgres: PostgresServer) -> None:
    """As processes: two hosts of a deployment are upgraded at once."""
    url = postgres.new_database()
    migrate = [sys.executable, "-m", "service", "migrate"]
    env = os.environ | {"RESNETD_DATABASE_URL": url}
    with psycopg.connect(url) as blocking, psycopg.connect(postgres.url) as watching:
        # Both wait for this transaction, then continue at the same moment.
        blocking.execute("CREATE TABLE alembic_version (version_num varchar(32))")
        processes = [
            subprocess.Popen(migrate, env=env, stderr=subprocess.PIPE, text=True) for _ in range(2)
        ]

        def are_waiting() -> bool:
            found = watching.execute(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = %s AND wait_event_type = 'Lock'",
                [url.rpartition("/")[2]],
            ).fetchone()
            watching.rollback()
            return found == (2,)

        eventually(are_waiting, within_seconds=60.0)
        blocking.rollback()
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors


def test_an_empty_database_is_refused_with_the_command_to_run(empty_database_url: str) -> None:
    database = Database(empty_database_url)
    with pytest.raises(DatabaseUnavailable, match=r"is empty, .* run `resnetd-server migrate`"):
        schema.require_current(database)
    database.close()


def test_the_directory_of_a_sqlite_file_is_created(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/new/folder/resnetd.db")
    schema.upgrade(database)
    schema.require_current(database)
    database.close()


_EXPANSION = """    with op.batch_alter_table("jobs") as table:
        table.add_column(sa.Column("color", sa.String(20), server_default="red", nullable=False))
    op.create_table("colors", sa.Column("name", sa.String(20), primary_key=True))
"""


def _add_migration(folder: Path, *, name: str | None = None) -> None:
    """As `make migration` does, in a copy of the migrations."""
    shutil.copytree(schema._MIGRATIONS, folder)
    newest = schema.newest_revision()
    named = name or schema.name_next_revision(newest)
    (folder / "versions" / f"{named}_colors.py").write_text(
        f"import sqlalchemy as sa\nfrom alembic import op\n\nrevision = {named!r}\n"
        f"down_revision = {newest!r}\n\n\ndef upgrade() -> None:\n{_EXPANSION}"
    )


def test_code_runs_beside_a_newer_schema_that_was_made_for_it(
    own_database: Database, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all tables in use, as those of the last release are during an upgrade."""
    core = Core(own_database, clock)
    first = core.run()
    _add_migration(tmp_path / "newer")
    with monkeypatch.context() as newer:
        newer.setattr(schema, "_MIGRATIONS", tmp_path / "newer")
        schema.upgrade(own_database)
        schema.require_current(own_database)
    # From here on, this is the older version.
    schema.require_compatible(own_database)
    schema.upgrade(own_database)
    assert "colors" in _tables(own_database)
    core.report(first.attempt_id, 2, metrics=[make_point("train/loss", 1, 1.5)])
    core.finish(first.attempt_id)
    _fill(core)
    with pytest.raises(DatabaseUnavailable, match="use the version that upgraded the database"):
        schema.require_current(own_database)


def test_code_refuses_a_newer_schema_that_was_not_made_for_it(
    own_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = schema._number(schema.newest_revision()) + 1
    _add_migration(tmp_path / "newer", name=f"{number:04}_for_{number:04}")
    with monkeypatch.context() as newer:
        newer.setattr(schema, "_MIGRATIONS", tmp_path / "newer")
        schema.upgrade(own_database)
    for call in (schema.require_compatible, schema.require_current, schema.upgrade):
        with pytest.raises(DatabaseUnavailable, match="install the version that upgraded"):
            call(own_database)


def test_a_new_migration_is_named_for_the_code_before_it(
    own_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "newer"
    shutil.copytree(schema._MIGRATIONS, folder)
    monkeypatch.setattr(schema, "_MIGRATIONS", folder)
    config = schema._config()
    config.attributes["database"] = own_database
    command.revision(config, message="add colors", autogenerate=True)
    assert schema.newest_revision() == "0002_for_0001"
    assert (folder / "versions" / "0002_for_0001_add_colors.py").is_file()


def test_each_migration_is_made_for_the_code_before_it() -> None:
    """Expand, then contract: a migration removes only what the code before it no longer uses."""
    newest_first = _revisions()
    for revision, before in pairwise(newest_first):
        assert schema._number(revision) == schema._number(before) + 1
        assert schema._oldest_code(revision) <= schema._number(before), revision
