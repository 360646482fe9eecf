"""Sources of the URL and the token, and their order."""

from pathlib import Path

import pytest

import resnetd
from resnetd import config


def test_the_default_is_this_machine_without_a_token() -> None:
    found = config.load_connection()
    assert (found.url, found.token) == ("http://127.0.0.1:8000", None)


def test_an_argument_overrides_the_environment_and_that_the_config_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _write_config('url = "http://file:1"')
    assert config.load_connection().url == "http://file:1"
    monkeypatch.setenv("RESNETD_URL", "http://environment:1")
    assert config.load_connection().url == "http://environment:1"
    assert config.load_connection("http://argument:1/").url == "http://argument:1"


def test_a_token_is_found_in_five_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("var").mkdir()
    Path("var/token").write_text("of-make-up\n")
    assert config.load_connection().token == "of-make-up"
    (tmp_path / "configured").write_text("of-the-config-file\n")
    _write_config(f'token_file = "{tmp_path / "configured"}"')
    assert config.load_connection().token == "of-the-config-file"
    (tmp_path / "named").write_text("of-the-named-file\n")
    monkeypatch.setenv("RESNETD_TOKEN_FILE", str(tmp_path / "named"))
    assert config.load_connection().token == "of-the-named-file"
    monkeypatch.setenv("RESNETD_TOKEN", "of-the-environment")
    assert config.load_connection().token == "of-the-environment"
    assert config.load_connection(token="of-the-argument").token == "of-the-argument"


def test_a_token_is_never_shown() -> None:
    assert "secret" not in repr(config.load_connection(token="secret"))


@pytest.mark.parametrize("token", ["secret with spaces", "secret\nof two lines", "sécret", " "])
def test_a_token_with_other_characters_is_refused_without_showing_it(token: str) -> None:
    with pytest.raises(resnetd.BadConfiguration) as caught:
        config.load_connection(token=token)
    assert str(caught.value) == (
        "the token from the argument must be printable ASCII characters without spaces"
    )


def test_a_token_file_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESNETD_TOKEN_FILE", "/nowhere/token")
    with pytest.raises(resnetd.BadConfiguration, match="/nowhere/token: No such file"):
        config.load_connection()


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000",
        "ftp://host",
        "http://",
        "http://host:port",
        "http://a:b@host",
        "http://h?q",
    ],
)
def test_an_unusable_url_is_refused(url: str) -> None:
    with pytest.raises(resnetd.BadConfiguration, match="the URL must be"):
        config.load_connection(url)


def test_a_password_in_a_refused_url_is_not_shown() -> None:
    with pytest.raises(resnetd.BadConfiguration) as caught:
        config.load_connection("http://me:secret@host")
    assert "secret" not in str(caught.value)


def test_a_misspelt_setting_is_named() -> None:
    _write_config('tokenfile = "x"')
    with pytest.raises(
        resnetd.BadConfiguration,
        match="unknown field `tokenfile`; the settings are url and token_file",
    ):
        config.load_connection()


@pytest.mark.parametrize("written", ["url = ", "url = 5"])
def test_a_config_file_that_cannot_be_read_is_named(written: str) -> None:
    _write_config(written)
    with pytest.raises(resnetd.BadConfiguration, match=r"config\.toml"):
        config.load_connection()


def _write_config(text: str) -> None:
    path = config.config_file_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
