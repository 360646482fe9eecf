"""Users' tokens: the administrator's file, and digests in the database."""

import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import event, text

from service.access import people, tokens
from service.access.policy import Principal, Subject
from service.errors import InvalidInput, Unauthorized
from service.states import Role, TokenScope
from service.storage.tables import TokenRow
from tests.support.core import START, Core
from tests.support.fake_api import eventually


def _set(core: Core, secret: str) -> None:
    with core.database.transaction() as session:
        tokens.set_admin_token(session, secret, now=START)


def _authenticate(core: Core, secret: str) -> Principal:
    with core.database.reading() as session:
        found, _, _ = tokens.authenticate(session, secret, is_sign_in=False, now=core.clock.now)
        return found


def _owner(core: Core, secret: str) -> str:
    return _authenticate(core, secret).user


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
    secret = core.add_person("ann", Role.VIEWER, scope=TokenScope.READ, tag="nightly")
    found = _authenticate(core, secret)
    assert (found.user, found.role) == ("ann", Role.VIEWER)
    assert (found.scope, found.tag) == (TokenScope.READ, "nightly")


def test_an_unknown_token_is_refused(core: Core) -> None:
    with pytest.raises(Unauthorized):
        _owner(core, "b" * 20)


def test_a_new_file_replaces_the_token_of_the_old_one_and_no_other(core: Core) -> None:
    other = core.add_person("bob")
    _set(core, "a" * 20)
    own = core.add_person("admin")
    _set(core, "b" * 20)
    assert [_owner(core, secret) for secret in (other, own, "b" * 20)] == ["bob", "admin", "admin"]


def test_the_file_makes_the_admin_an_admin_again(core: Core) -> None:
    _set(core, "a" * 20)
    core.add_person("ann", Role.ADMIN)
    with core.database.transaction() as session:
        people.set_role(session, "admin", Role.VIEWER)
    _set(core, "a" * 20)
    assert _authenticate(core, "a" * 20).role is Role.ADMIN


def test_a_token_ends_when_it_expires(core: Core) -> None:
    core.add_person("ann")
    expires_at = core.clock.now + timedelta(days=1)
    with core.database.transaction() as session:
        _, secret = tokens.create_token(
            session,
            user="ann",
            label="a day",
            scope=TokenScope.FULL,
            tag=None,
            expires_at=expires_at,
            now=core.clock.now,
        )
    assert _owner(core, secret) == "ann"
    core.clock.now = expires_at
    with pytest.raises(Unauthorized, match="expired at 2026-11-22 12:00 UTC"):
        _owner(core, secret)


def test_authentication_is_one_query_whatever_the_subject(core: Core) -> None:
    secret, job_id = core.add_person("ann"), core.submit(user="bob")
    statements: list[str] = []
    with core.database.reading() as session:
        session.connection()
        event.listen(
            core.database.engine, "before_cursor_execute", lambda *call: statements.append(call[2])
        )
        _, owner, _ = tokens.authenticate(
            session,
            secret,
            is_sign_in=False,
            now=core.clock.now,
            subject=Subject.JOB,
            subject_id=job_id,
        )
    assert owner == "bob"
    assert len(statements) == 1


def test_a_new_token_file_replaces_the_old_token(core: Core) -> None:
    _set(core, "a" * 20)
    _set(core, "b" * 20)
    assert _owner(core, "b" * 20) == "admin"
    with pytest.raises(Unauthorized):
        _owner(core, "a" * 20)


def test_two_processes_that_set_the_same_token_both_succeed(core: Core) -> None:
    with ThreadPoolExecutor(1) as executor:
        with core.database.transaction() as session:
            tokens.set_admin_token(session, "a" * 20, now=START)
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
