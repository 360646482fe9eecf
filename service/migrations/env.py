"""How alembic reaches the database: with the engine of service.database."""

from typing import Any, Literal

from alembic import context

from service import settings
from service.database import Database
from service.tables import Base, UtcDateTime


def render_item(kind: str, item: Any, _context: Any) -> str | Literal[False]:
    """A migration must not change with the code, so it names none of our types."""
    if kind == "type" and isinstance(item, UtcDateTime):
        return "sa.DateTime(timezone=True)"
    return False


def run() -> None:
    database = context.config.attributes.get("database") or Database(settings.load().database)
    with database.engine.connect() as connection:
        context.configure(
            connection=connection,
            target_metadata=Base.metadata,
            render_as_batch=database.is_sqlite,
            transaction_per_migration=True,
            compare_type=False,
            render_item=render_item,
        )
        with context.begin_transaction():
            context.run_migrations()


run()
