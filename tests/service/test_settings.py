"""Settings: variables, secrets in files, one sentence for a wrong one."""

from pathlib import Path

import pytest

from service import settings
from service.errors import InvalidInput


@pytest.fixture(autouse=True)
def _nothing_of_whoever_runs_the_tests(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in settings.Settings.model_fields:
        monkeypatch.delenv(f"RESNETD_{name.upper()}", raising=False)
    monkeypatch.setattr(settings, "SECRETS_DIR", tmp_path / "secrets")


def test_everything_lies_under_var_path_by_default(tmp_path: Path) -> None:
    loaded = settings.load(var_path=tmp_path)
    assert loaded.resolved_database_url == f"sqlite:///{tmp_path}/resnetd.db"
    assert loaded.resolved_artifacts_url == f"file://{tmp_path}/artifacts"
    assert loaded.data_dir == tmp_path / "data"
    assert loaded.token_path == tmp_path / "token"
    assert loaded.work_dir == tmp_path / "work"


def test_a_variable_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESNETD_API_PORT", "9000")
    assert settings.load().resolved_api_url == "http://127.0.0.1:9000"


def test_a_secret_is_read_from_its_file(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "resnetd_database_url").write_text("postgresql://db/resnetd\n")
    assert settings.load().resolved_database_url == "postgresql://db/resnetd"


def test_a_wrong_variable_is_named_with_what_was_received(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESNETD_LEASE_SECONDS", "soon")
    with pytest.raises(InvalidInput, match=r"RESNETD_LEASE_SECONDS: .*'soon'"):
        settings.load()


def test_a_url_keeps_no_trailing_slash() -> None:
    assert (
        settings.load(api_url="http://api/", ray_url="http://ray:8265/").resolved_api_url
        == "http://api"
    )


def test_a_secret_is_not_shown() -> None:
    shown = repr(settings.load(database_url="postgresql://me:hunter2@db/x", ray_token="hunter2"))
    assert "hunter2" not in shown
