"""searches"""

import re

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_REASONS = (("jobs", "reason"), ("attempts", "reason"))
# A column's CHECK has its type's name.
_CHECKS = {"reason": "reason", "stop_requested": "stopreason"}


def upgrade() -> None:
    op.create_table(
        "searches",
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("spec", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "queued",
                "running",
                "paused",
                "succeeded",
                "failed",
                "cancelled",
                name="searchstate",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column("user", sa.String(length=120), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("active_seconds", sa.Double(), nullable=False),
        sa.Column("active_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "end",
            sa.Enum(
                "trials",
                "target-error",
                "iterations",
                "wall-seconds",
                "cancelled",
                "no-trial-succeeded",
                "driver-failed",
                name="searchend",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=True,
        ),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column("events", sa.Integer(), nullable=False),
        sa.Column("driver", sa.Integer(), nullable=False),
        sa.Column("driver_token_sha256", sa.String(length=64), nullable=False),
        sa.Column("driver_failures", sa.Integer(), nullable=False),
        sa.Column("driver_not_before", sa.DateTime(timezone=True), nullable=True),
        sa.Column("driver_began_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("driver_submitted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("driver_heard_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("driver_dismissed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("driver_gone_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("idempotency_key", sa.String(length=200), nullable=True),
        sa.Column("spec_sha256", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_searches")),
        sa.UniqueConstraint("idempotency_key", name=op.f("uq_searches_idempotency_key")),
    )
    op.create_index("ix_searches_state", "searches", ["state"])

    op.create_table(
        "search_events",
        sa.Column("search_id", sa.String(length=16), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("data", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=False),
        sa.ForeignKeyConstraint(
            ["search_id"],
            ["searches.id"],
            name=op.f("fk_search_events_search_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("search_id", "number", name=op.f("pk_search_events")),
    )
    op.create_table(
        "trials",
        sa.Column("search_id", sa.String(length=16), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("job_id", sa.String(length=16), nullable=False),
        sa.Column(
            "params", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=False
        ),
        sa.Column("follower", sa.String(length=80), nullable=False),
        sa.Column("why", sa.Text(), nullable=True),
        sa.Column("is_paused", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name=op.f("fk_trials_job_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["search_id"], ["searches.id"], name=op.f("fk_trials_search_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("search_id", "number", name=op.f("pk_trials")),
        sa.UniqueConstraint("job_id", name=op.f("uq_trials_job_id")),
    )
    op.create_index("ix_trials_search_id_follower", "trials", ["search_id", "follower"])
    for table, column in _REASONS:
        _change_values(table, column, add="early-stopped")
    _change_values("jobs", "stop_requested", add="early-stop")


def downgrade() -> None:
    op.drop_table("trials")
    op.drop_table("search_events")
    op.drop_table("searches")
    for table, column in _REASONS:
        op.execute(f"UPDATE {table} SET {column}='cancelled' WHERE {column}='early-stopped'")  # noqa: S608
        _change_values(table, column, remove="early-stopped")
    op.execute("UPDATE jobs SET stop_requested='cancel' WHERE stop_requested='early-stop'")
    _change_values("jobs", "stop_requested", remove="early-stop")


def _change_values(
    table: str, column: str, *, add: str | None = None, remove: str | None = None
) -> None:
    """Another list of values in the column's CHECK, whatever else the list holds by now."""
    name = f"ck_{table}_{_CHECKS[column]}"
    connection = op.get_bind()
    if connection.dialect.name == "sqlite":
        _change_in_sqlite(connection, table, name, add=add, remove=remove)
        return
    definition = connection.scalar(
        sa.text("SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = :name"),
        {"name": name},
    )
    op.drop_constraint(name, table)
    values = _values(definition, add=add, remove=remove)
    op.execute(f"ALTER TABLE {table} ADD CONSTRAINT {name} CHECK ({column} IN ({values}))")


def _change_in_sqlite(
    connection: sa.Connection, table: str, name: str, *, add: str | None, remove: str | None
) -> None:
    """The table made anew, as SQLite's documentation has it; its foreign keys are off by now."""
    rows = connection.execute(
        sa.text("SELECT type, sql FROM sqlite_master WHERE tbl_name = :table AND sql IS NOT NULL"),
        {"table": table},
    ).all()
    (made,) = (sql for kind, sql in rows if kind == "table")
    check = re.search(rf"{name} CHECK \(\w+ IN \(([^)]*)\)", made)
    assert check is not None
    values = _values(check.group(1), add=add, remove=remove)
    new = made[: check.start(1)] + values + made[check.end(1) :]
    head = re.compile(rf'CREATE TABLE "?{table}"?')
    connection.exec_driver_sql(head.sub(f"CREATE TABLE {table}_new", new, count=1))
    connection.exec_driver_sql(f"INSERT INTO {table}_new SELECT * FROM {table}")  # noqa: S608
    connection.exec_driver_sql(f"DROP TABLE {table}")
    connection.exec_driver_sql(f"ALTER TABLE {table}_new RENAME TO {table}")
    for kind, sql in rows:
        if kind == "index":
            connection.exec_driver_sql(sql)


def _values(quoted: str, *, add: str | None, remove: str | None) -> str:
    found = [value for value in re.findall(r"'([^']*)'", quoted) if value not in {add, remove}]
    return ", ".join(f"'{value}'" for value in [*found, *([add] if add else [])])
