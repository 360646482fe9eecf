"""Users' tokens: the administrator's file, and digests in the database."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import text

from service.access import tokens
from service.errors import InvalidInput, Unauthorized
from service.storage.tables import TokenRow
from tests.support.core import START, Core
from tests.support.fake_api import eventually


def _set(core: Core, secret: str, *, name: str = "admin") -> None:
    with core.database.transaction() as session:
        tokens.set_token(session, secret, name=name, now=START)


def _owner(core: Core, secret: str) -> str:
    with core.database.reading() as session:
        return tokens.find_token(session, secret).name


def test_a_new_token_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "new" / "token"
    secret = tokens.read_or_create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text() == secret + "\n"
    assert len(secret) >= tokens.MIN_LENGTH


def test_the_token_in_the_file_is_reused(tmp_path: Path) -> None:
    assert tokens.read_or_create(tmp_path / "token") == tokens.read_or_create(tmp_path / "token")


def test_processes_that_create_the_token_at_once_agree(tmp_path: Path) -> None:
    """The file has its content when it appears."""
    with ThreadPoolExecutor(16) as pool:
        for number in range(20):
            path = tmp_path / str(number) / "token"
            found = list(pool.map(lambda _, path=path: tokens.read_or_create(path), range(16)))
            assert len(set(found)) == 1
            assert [file.name for file in path.parent.iterdir()] == ["token"]
            assert path.stat().st_mode & 0o777 == 0o600


def test_a_token_file_that_cannot_be_created_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInput, match=r"^RESNETD_TOKEN_FILE: .*/file/token cannot be"):
        tokens.read_or_create(tmp_path / "file" / "token")


@pytest.mark.parametrize("content", ["", "short\n", "x" * 15])
def test_a_short_token_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "token").write_text(content)
    with pytest.raises(InvalidInput, match="at least 16 are needed"):
        tokens.read_or_create(tmp_path / "token")


def test_a_token_identifies_its_user(core: Core) -> None:
    _set(core, "a" * 20, name="ann")
    assert _owner(core, "a" * 20) == "ann"


def test_an_unknown_token_is_refused(core: Core) -> None:
    with pytest.raises(Unauthorized):
        _owner(core, "b" * 20)


def test_a_new_token_replaces_the_old_one_of_its_name(core: Core) -> None:
    _set(core, "a" * 20)
    _set(core, "b" * 20)
    assert _owner(core, "b" * 20) == "admin"
    with pytest.raises(Unauthorized):
        _owner(core, "a" * 20)


def test_two_processes_that_set_the_same_token_both_succeed(core: Core) -> None:
    with ThreadPoolExecutor(1) as executor:
        with core.database.transaction() as session:
            tokens.set_token(session, "a" * 20, name="admin", now=START)
            session.flush()
            second = executor.submit(_set, core, "a" * 20)

            if not core.database.is_sqlite:
                waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
                eventually(lambda: session.scalar(waiting) == 1)
        second.result()
    assert _owner(core, "a" * 20) == "admin"


def test_the_database_stores_a_digest_only(core: Core) -> None:
    _set(core, "a" * 20)
    with core.database.reading() as session:
        (row,) = session.query(TokenRow).all()
        assert row.token_sha256 == tokens.digest("a" * 20)


def test_new_secrets_differ() -> None:
    assert tokens.new_secret() != tokens.new_secret()
