"""The secrets of a deployment: random, consistent, kept, and unreadable for other users."""

from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from deploy.make_secrets import SecretsError, make_secrets
from service import settings
from service.access import signing_keys, tokens


def _read(path: Path) -> dict[str, str]:
    return {file.name: file.read_text().strip() for file in path.iterdir()}


def test_the_database_url_contains_the_database_password(tmp_path: Path) -> None:
    make_secrets(tmp_path)
    made = _read(tmp_path)
    url = make_url(made["resnetd_database_url"])
    assert url.password == made["postgres_password"]
    assert (url.username, url.host, url.database) == ("resnetd", "postgres", "resnetd")


def test_two_deployments_share_no_secret(tmp_path: Path) -> None:
    for name in ("first", "second"):
        make_secrets(tmp_path / name)
    shared = set(_read(tmp_path / "first").items()) & set(_read(tmp_path / "second").items())
    assert shared == {("resnetd_smtp_url", "")}


def test_an_existing_secret_is_kept(tmp_path: Path) -> None:
    make_secrets(tmp_path)
    before = _read(tmp_path)
    (tmp_path / "resnetd_ray_token").unlink()
    assert make_secrets(tmp_path) == ["resnetd_ray_token"]
    after = _read(tmp_path)
    assert after.pop("resnetd_ray_token") != before.pop("resnetd_ray_token")
    assert after == before


def test_a_database_url_without_its_password_file_is_refused(tmp_path: Path) -> None:
    make_secrets(tmp_path)
    (tmp_path / "postgres_password").unlink()
    with pytest.raises(SecretsError, match="postgres_password does not exist"):
        make_secrets(tmp_path)


def test_other_users_cannot_enter_the_folder_and_containers_can_read_the_files(
    tmp_path: Path,
) -> None:
    path = tmp_path / "secrets"
    make_secrets(path)
    assert path.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in path.iterdir()} == {0o444}


def test_the_api_reads_the_administrators_token_unchanged(tmp_path: Path) -> None:
    make_secrets(tmp_path)
    made = _read(tmp_path)["resnetd_admin_token"]
    assert tokens.read_or_create(tmp_path / "resnetd_admin_token") == made


def test_the_api_signs_with_the_key(tmp_path: Path) -> None:
    make_secrets(tmp_path)
    path = tmp_path / "resnetd_signing_key"
    before = path.read_bytes()
    assert len(signing_keys.read_or_create(path).sign(b"card")) == 64
    assert path.read_bytes() == before


def test_there_is_no_mail_server_until_its_url_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_secrets(tmp_path)
    monkeypatch.setenv("RESNETD_SECRETS_DIR", str(tmp_path))
    assert settings.load().smtp_url is None
    path = tmp_path / "resnetd_smtp_url"
    path.unlink()
    path.write_text("smtps://user:password@smtp.example.org\n")
    assert make_secrets(tmp_path) == []
    url = settings.load().smtp_url
    assert url is not None
    assert url.get_secret_value() == "smtps://user:password@smtp.example.org"
