"""Where the service is and which token opens it; the first that is set counts.

    url     argument, RESNETD_URL, `url` of the config file, http://127.0.0.1:8000
    token   argument, RESNETD_TOKEN, the file RESNETD_TOKEN_FILE, `token_file` of the config
            file, ./var/token (where `make up` leaves it)

The config file is ~/.config/resnetd/config.toml, or below XDG_CONFIG_HOME.
"""

import os
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from resnetd.errors import BadConfiguration

DEFAULT_URL = "http://127.0.0.1:8000"
LOCAL_TOKEN_FILE = Path("var/token")


@dataclass(frozen=True)
class Connection:
    """`token` None: none was found, and requests go without. `token_source` may be shown."""

    url: str
    token: str | None = field(repr=False)
    token_source: str


def connection(url: str | None = None, token: str | None = None) -> Connection:
    """BadConfiguration where something that was given cannot be used."""
    written = _read_config_file()
    found_url = url or os.environ.get("RESNETD_URL") or written.get("url") or DEFAULT_URL
    found_token, source = _find_token(token, written.get("token_file"))
    return Connection(
        url=_checked_url(found_url),
        token=_checked_token(found_token, source) if found_token is not None else None,
        token_source=source,
    )


def config_file() -> Path:
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) / "resnetd" / "config.toml"


def _read_config_file() -> dict[str, str]:
    path = config_file()
    try:
        written = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadConfiguration(f"cannot read {path}: {error}") from error
    for key, value in written.items():
        if key not in {"url", "token_file"}:
            raise BadConfiguration(f"{path}: no setting {key!r}; there are url and token_file")
        if not isinstance(value, str):
            raise BadConfiguration(f"{path}: {key} must be text, received {value!r}")
    return written


def _find_token(token: str | None, configured_file: str | None) -> tuple[str | None, str]:
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


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in {"http", "https"} and bool(parts.hostname)
        is_usable = is_usable and (parts.port is None or parts.port > 0)
        # A password in the url would take the token's place in the request.
        is_usable = is_usable and parts.username is None and not parts.query
    except ValueError:
        is_usable = False
    if not is_usable:
        shown = url.rpartition("@")[2]
        raise BadConfiguration(
            f"the url must be http://HOST:PORT or https://HOST, received {shown!r}"
        )
    return url.rstrip("/")


def _checked_token(token: str, source: str) -> str:
    # It goes into a header; and it is never shown, not even a wrong one.
    stripped = token.strip()
    if not stripped or not stripped.isascii() or not stripped.isprintable() or " " in stripped:
        raise BadConfiguration(f"the token from {source} is not one word of plain letters")
    return stripped
