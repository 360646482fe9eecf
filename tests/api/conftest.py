"""The API over SQLite for most tests, over both databases where SQL matters.

One API for each database serves all tests and is emptied before each: starting an API takes longer
than most tests.
"""

from collections.abc import Iterator

import pytest

from tests.support.api import Api, serving_new


@pytest.fixture(scope="session")
def _sqlite_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    path = tmp_path_factory.mktemp("api")
    with serving_new(f"sqlite:///{path / 'api.db'}", path) as served:
        yield served


@pytest.fixture(scope="session")
def _postgres_api(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Api]:
    url = request.getfixturevalue("postgres").new_database()
    with serving_new(url, tmp_path_factory.mktemp("api")) as served:
        yield served


@pytest.fixture
def api(_sqlite_api: Api) -> Api:
    _sqlite_api.empty()
    return _sqlite_api


@pytest.fixture(scope="session")
def _own_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    path = tmp_path_factory.mktemp("own")
    with serving_new(f"sqlite:///{path / 'api.db'}", path, members_see="own") as served:
        yield served


@pytest.fixture(scope="session")
def _own_postgres_api(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Api]:
    url = request.getfixturevalue("postgres").new_database()
    with serving_new(url, tmp_path_factory.mktemp("own"), members_see="own") as served:
        yield served


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.db)])
def any_own_api(request: pytest.FixtureRequest) -> Api:
    """As `own_api`, of each kind of database."""
    name = "_own_api" if request.param == "sqlite" else "_own_postgres_api"
    served: Api = request.getfixturevalue(name)
    served.empty()
    return served


@pytest.fixture
def own_api(_own_api: Api) -> Api:
    """Where members see what is theirs."""
    _own_api.empty()
    return _own_api


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.db)])
def any_api(request: pytest.FixtureRequest) -> Api:
    """Of each kind of database."""
    name = "_sqlite_api" if request.param == "sqlite" else "_postgres_api"
    served: Api = request.getfixturevalue(name)
    served.empty()
    return served
