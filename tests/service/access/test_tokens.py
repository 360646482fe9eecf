"""People's tokens: one file, made once, for its owner's eyes only."""

import stat
from pathlib import Path

import pytest

from service.access import tokens
from service.errors import InvalidInput, Unauthorized
from service.storage.tables import TokenRow
from tests.support.core import START, Core


def _ensure(core: Core, secret: str, *, name: str = "admin") -> None:
    with core.database.transaction() as session:
        tokens.set_token(session, secret, name=name, now=START)


def _owner(core: Core, secret: str) -> str:
    with core.database.reading() as session:
        return tokens.find_token(session, secret).name


def test_a_new_token_is_in_a_file_that_only_its_owner_can_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "token"
    secret = tokens.read_or_create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text() == secret + "\n"
    assert len(secret) >= tokens.MIN_LENGTH


def test_the_token_in_the_file_is_used_again(tmp_path: Path) -> None:
    assert tokens.read_or_create(tmp_path / "token") == tokens.read_or_create(tmp_path / "token")


@pytest.mark.parametrize("content", ["", "short\n", "x" * 15])
def test_a_token_that_can_be_guessed_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "token").write_text(content)
    with pytest.raises(InvalidInput, match="at least 16 are needed"):
        tokens.read_or_create(tmp_path / "token")


def test_a_known_token_is_its_owners(core: Core) -> None:
    _ensure(core, "a" * 20, name="ann")
    assert _owner(core, "a" * 20) == "ann"


def test_an_unknown_token_opens_nothing(core: Core) -> None:
    with pytest.raises(Unauthorized):
        _owner(core, "b" * 20)


def test_a_new_token_of_a_name_ends_the_old_one(core: Core) -> None:
    _ensure(core, "a" * 20)
    _ensure(core, "b" * 20)
    assert _owner(core, "b" * 20) == "admin"
    with pytest.raises(Unauthorized):
        _owner(core, "a" * 20)


def test_the_database_holds_no_secret(core: Core) -> None:
    _ensure(core, "a" * 20)
    with core.database.reading() as session:
        (row,) = session.query(TokenRow).all()
        assert row.token_sha256 == tokens.digest("a" * 20)


def test_secrets_differ() -> None:
    assert tokens.new_secret() != tokens.new_secret()
