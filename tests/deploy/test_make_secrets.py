"""The secrets of a deployment: random, fitting, kept, and out of everybody's reach."""

from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from deploy.make_secrets import CannotMake, make_secrets
from service.access import tokens


def _read(path: Path) -> dict[str, str]:
    return {file.name: file.read_text().strip() for file in path.iterdir()}


def test_the_database_url_holds_the_password_of_the_database(tmp_path: Path) -> None:
    make_secrets(tmp_path)
    made = _read(tmp_path)
    url = make_url(made["resnetd_database_url"])
    assert url.password == made["postgres_password"]
    assert (url.username, url.host, url.database) == ("resnetd", "postgres", "resnetd")


def test_two_deployments_have_no_secret_in_common(tmp_path: Path) -> None:
    for name in ("one", "other"):
        make_secrets(tmp_path / name)
    assert not set(_read(tmp_path / "one").values()) & set(_read(tmp_path / "other").values())


def test_a_secret_that_is_there_stays(tmp_path: Path) -> None:
    make_secrets(tmp_path)
    before = _read(tmp_path)
    (tmp_path / "resnetd_ray_token").unlink()
    assert make_secrets(tmp_path) == ["resnetd_ray_token"]
    after = _read(tmp_path)
    assert after.pop("resnetd_ray_token") != before.pop("resnetd_ray_token")
    assert after == before


def test_a_url_without_its_password_is_refused(tmp_path: Path) -> None:
    make_secrets(tmp_path)
    (tmp_path / "postgres_password").unlink()
    with pytest.raises(CannotMake, match="postgres_password is gone"):
        make_secrets(tmp_path)


def test_nobody_else_gets_into_the_folder_and_containers_read_the_files(tmp_path: Path) -> None:
    path = tmp_path / "secrets"
    make_secrets(path)
    assert path.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in path.iterdir()} == {0o444}


def test_the_api_takes_the_administrators_token_as_it_is(tmp_path: Path) -> None:
    make_secrets(tmp_path)
    made = _read(tmp_path)["resnetd_admin_token"]
    assert tokens.read_or_create(tmp_path / "resnetd_admin_token") == made
