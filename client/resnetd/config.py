"""The URL of the service and the token. The first that is set is used.

    url     argument, RESNETD_URL, `url` of the config file, http://127.0.0.1:8000
    token   argument, RESNETD_TOKEN, the file RESNETD_TOKEN_FILE, `token_file` of the config
            file, ./var/token (where `make up` writes it)

The config file is ~/.config/resnetd/config.toml, or below XDG_CONFIG_HOME.
"""

import os
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from resnetd.errors import BadConfiguration

DEFAULT_URL = "http://127.0.0.1:8000"
LOCAL_TOKEN_FILE = Path("var/token")


@dataclass(frozen=True)
class Connection:
    """`token` is None where none was found. `token_source` may be shown, the token never."""

    url: str
    token: str | None = field(repr=False)
    token_source: str


class _ConfigFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    url: str | None = None
    token_file: str | None = None


def load_connection(url: str | None = None, token: str | None = None) -> Connection:
    """BadConfiguration where a setting cannot be used."""
    configured = _read_config_file()
    found_token, source = _find_token(token, configured.token_file)
    return Connection(
        url=_check_url(url or os.environ.get("RESNETD_URL") or configured.url or DEFAULT_URL),
        token=_check_token(found_token, source) if found_token is not None else None,
        token_source=source,
    )


def config_file_path() -> Path:
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) / "resnetd" / "config.toml"


def _read_config_file() -> _ConfigFile:
    path = config_file_path()
    try:
        return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), _ConfigFile)
    except FileNotFoundError:
        return _ConfigFile()
    except msgspec.ValidationError as error:
        raise BadConfiguration(f"{path}: {error}; the settings are url and token_file") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadConfiguration(f"cannot read {path}: {error}") from error


def _find_token(token: str | None, configured_file: str | None) -> tuple[str | None, str]:
    """The token and where it comes from."""
    if token is not None:
        return token, "the argument"
    if from_environment := os.environ.get("RESNETD_TOKEN"):
        return from_environment, "RESNETD_TOKEN"
    if named := os.environ.get("RESNETD_TOKEN_FILE") or configured_file:
        path = Path(named).expanduser()
        return _read_token(path), str(path)
    if LOCAL_TOKEN_FILE.is_file():
        return _read_token(LOCAL_TOKEN_FILE), str(LOCAL_TOKEN_FILE)
    return None, "nowhere"


def _read_token(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise BadConfiguration(f"cannot read the token file {path}: {reason}") from error


def _check_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in {"http", "https"} and bool(parts.hostname)
        is_usable = is_usable and (parts.port is None or parts.port > 0)
        # A password in the URL would replace the token in the request.
        is_usable = is_usable and parts.username is None and not parts.query
    except ValueError:
        is_usable = False
    if not is_usable:
        shown = url.rpartition("@")[2]
        raise BadConfiguration(
            f"the URL must be http://HOST:PORT or https://HOST, received {shown!r}"
        )
    return url.rstrip("/")


def _check_token(token: str, source: str) -> str:
    # The message has no token, not even a wrong one.
    stripped = token.strip()
    if not stripped or not stripped.isascii() or not stripped.isprintable() or " " in stripped:
        raise BadConfiguration(
            f"the token from {source} must be printable ASCII characters without spaces"
        )
    return stripped
