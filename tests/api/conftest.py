"""The API over SQLite for most tests, over each kind of database where SQL matters."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from service import schema
from service.database import Database
from tests.support.api import Api, serving
from tests.support.core import Clock, Core


@pytest.fixture(autouse=True)
def _a_quick_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The listening thread looks so often whether it should end."""
    monkeypatch.setattr("api.changes._LISTEN_SECONDS", 0.05)


@pytest.fixture
def api(tmp_path: Path, clock: Clock) -> Iterator[Api]:
    url = f"sqlite:///{tmp_path / 'api.db'}"
    database = Database(url)
    schema.upgrade(database)
    with serving(Core(database, clock), url, tmp_path) as served:
        yield served
    database.close()


@pytest.fixture
def any_api(core: Core, database_url: str, tmp_path: Path) -> Iterator[Api]:
    """Of each kind of database."""
    with serving(core, database_url, tmp_path) as served:
        yield served
