"""Settings come from variables and secret files; an error names the variable."""

import traceback
from pathlib import Path

import pytest

from service import settings
from service.errors import InvalidInput


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in settings.Settings.model_fields:
        monkeypatch.delenv(f"RESNETD_{name.upper()}", raising=False)
    (tmp_path / "secrets").mkdir()
    monkeypatch.setenv("RESNETD_SECRETS_DIR", str(tmp_path / "secrets"))


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
    (tmp_path / "secrets" / "resnetd_database_url").write_text("postgresql://db/resnetd\n")
    assert settings.load().database_url.get_secret_value() == "postgresql://db/resnetd"


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("VAR_DIR", " ", "must be a path"),
        ("DATA_DIR", " ", "must be a path"),
        ("ARTIFACTS_URL", "artifacts", "must look like file:///PATH"),
        ("API_PORT", "70000", "less than or equal to 65535"),
        ("API_URL", "localhost:8000", "must look like http://HOST:PORT"),
        ("API_URL", "http://::1:8000", "an IPv6 address in brackets"),
        ("RAY_URL", "http://ray:none", "must look like http://HOST:PORT"),
        ("RAY_URL", "http://", "must look like http://HOST:PORT"),
        ("MAX_CPUS", "-1", "greater than or equal to 0"),
        ("LEASE_SECONDS", "soon", "should be a valid number"),
        ("LEASE_SECONDS", "inf", "finite number"),
        ("LEASE_SECONDS", "nan", "finite number"),
        ("LEASE_SECONDS", "1e300", "less than or equal to 31622400"),
        ("RECORD_RETENTION", "{x", "must be JSON (Expecting property name"),
        ("RECORD_RETENTION", "7", "should be a valid dictionary"),
        ("RECORD_RETENTION", "[", "must be JSON"),
        ("RECORD_RETENTION", '{"days": 3}', "Extra inputs are not permitted"),
        ("WEBHOOK_NETWORKS", "10.0.0.0/8", "must be JSON"),
        ("WEBHOOK_NETWORKS", '["10.0.0.1/8"]', "not a valid IPv4 or IPv6 network"),
        ("SCALABLE_NODES", '[{"cpus": 0, "count": 1}]', "greater than or equal to 1"),
        ("LOG_FORMAT", "xml", "should be 'console' or 'json'"),
        ("SECRETS_DIR", "/no/such/folder", "must be a directory"),
    ],
)
def test_an_invalid_variable_is_named_with_its_value_and_what_is_right(
    variable: str, value: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"RESNETD_{variable}", value)
    with pytest.raises(InvalidInput) as raised:
        settings.load()
    message = str(raised.value)
    assert message.startswith(f"RESNETD_{variable}")
    assert expected in message
    assert "; received " in message
    assert "\n" not in message


def test_the_place_in_a_json_value_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESNETD_RECORD_RETENTION", '{"logs_days": -1}')
    expected = "^RESNETD_RECORD_RETENTION at logs_days: .*; received -1$"
    with pytest.raises(InvalidInput, match=expected):
        settings.load()


def test_json_is_read_from_variables_and_secret_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RESNETD_WEBHOOK_NETWORKS", '["10.0.0.0/8", "fd00::/8"]')
    retention = '{"logs_days": 4}'
    (tmp_path / "secrets" / "resnetd_record_retention").write_text(retention)
    loaded = settings.load()
    assert [str(network) for network in loaded.webhook_networks] == ["10.0.0.0/8", "fd00::/8"]
    assert loaded.record_retention.logs_days == 4


def test_a_secret_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secrets" / "resnetd_ray_token").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidInput, match=r"a secret in .*secrets cannot be read"):
        settings.load()


@pytest.mark.parametrize("variable", ["SECRETS_DIR", "DATA_DIR", "RECORD_RETENTION", "RAY_TOKEN"])
def test_an_empty_variable_is_the_default(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = settings.load(var_dir=Path("/var"))
    monkeypatch.setenv(f"RESNETD_{variable}", "")
    assert settings.load(var_dir=Path("/var")) == expected


@pytest.mark.parametrize("name", ["data_dir", "ray_token", "database_url"])
def test_an_empty_secret_file_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "secrets" / f"resnetd_{name}").write_text("\n")
    with pytest.raises(InvalidInput, match=f"RESNETD_{name.upper()}: "):
        settings.load()


def test_an_ipv6_address_is_in_brackets_in_a_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESNETD_API_HOST", "::1")
    assert settings.load().api_url == "http://[::1]:8000"


def test_a_trailing_slash_of_a_url_is_removed() -> None:
    loaded = settings.load(api_url="http://api/", ray_url="http://ray:8265/")
    assert (loaded.api_url, loaded.ray_url) == ("http://api", "http://ray:8265")


def test_secrets_are_not_in_the_repr() -> None:
    shown = repr(settings.load(database_url="postgresql://me:hunter2@db/x", ray_token="hunter2"))
    assert "hunter2" not in shown


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mlflow_url", "ftp://ann:hunter2@mlflow"),
        ("smtp_url", "http://ann:hunter2@mail"),
        ("smtp_url", "smtp://ann:hunter2@mail:port"),
    ],
)
def test_a_secret_that_is_wrong_is_not_shown(name: str, value: str) -> None:
    with pytest.raises(InvalidInput, match=f"RESNETD_{name.upper()}: must ") as caught:
        settings.load(**{name: value})
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))
