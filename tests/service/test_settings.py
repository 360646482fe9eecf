"""Settings come from variables and secret files; an error names the variable."""

from pathlib import Path

import pytest

from service import settings
from service.errors import InvalidInput


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in settings.Settings.model_fields:
        monkeypatch.delenv(f"RESNETD_{name.upper()}", raising=False)
    monkeypatch.setattr(settings, "SECRETS_DIR", tmp_path / "secrets")


def test_everything_is_stored_under_var_dir_by_default(tmp_path: Path) -> None:
    loaded = settings.load(var_dir=tmp_path)
    assert loaded.database_url.get_secret_value() == f"sqlite:///{tmp_path}/resnetd.db"
    assert loaded.artifacts_url == f"file://{tmp_path}/artifacts"
    assert loaded.data_dir == tmp_path / "data"
    assert loaded.token_file == tmp_path / "token"
    assert loaded.work_dir == tmp_path / "work"


def test_relative_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert settings.load().var_dir == tmp_path / "var"
    assert settings.load(data_dir=Path("images")).data_dir == tmp_path / "images"


def test_a_variable_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESNETD_API_PORT", "9000")
    assert settings.load().api_url == "http://127.0.0.1:9000"


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESNETD_ARTIFACTS_URL", "")
    assert settings.load(var_dir=Path("/var")).artifacts_url == "file:///var/artifacts"


def test_a_secret_is_read_from_its_file(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "resnetd_database_url").write_text("postgresql://db/resnetd\n")
    assert settings.load().database_url.get_secret_value() == "postgresql://db/resnetd"


def test_an_invalid_variable_is_named_with_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESNETD_LEASE_SECONDS", "soon")
    with pytest.raises(InvalidInput, match=r"RESNETD_LEASE_SECONDS: .*'soon'"):
        settings.load()


def test_a_trailing_slash_of_a_url_is_removed() -> None:
    loaded = settings.load(api_url="http://api/", ray_url="http://ray:8265/")
    assert (loaded.api_url, loaded.ray_url) == ("http://api", "http://ray:8265")


def test_secrets_are_not_in_the_repr() -> None:
    shown = repr(settings.load(database_url="postgresql://me:hunter2@db/x", ray_token="hunter2"))
    assert "hunter2" not in shown
