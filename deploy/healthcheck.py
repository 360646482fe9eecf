"""Health check of a container. The exit status is 0, or 1 with the reason on standard error.

python healthcheck.py http URL [TOKEN_FILE]   the URL responds with a success
python healthcheck.py dispatcher              the dispatcher reached Ray within the last 60 s
"""

import os
import sys
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path

_TIMEOUT_SECONDS = 4.0
# The dispatcher polls each second; an agent of Ray that has just started takes five to respond.
_MAX_AGE = timedelta(minutes=1)


def main(arguments: list[str]) -> int:
    match arguments:
        case ["http", url, *token_file]:
            reason = _check_url(url, Path(token_file[0]) if token_file else None)
        case ["dispatcher"]:
            reason = _check_dispatcher()
        case _:
            reason = (__doc__ or "").strip()
    if reason is None:
        return 0
    print(reason, file=sys.stderr)
    return 1


def _check_url(url: str, token_file: Path | None) -> str | None:
    """Why the URL is unhealthy, or None."""
    request = urllib.request.Request(url)  # noqa: S310 - the compose file's own address
    if token_file is not None:
        request.add_header("Authorization", f"Bearer {token_file.read_text().strip()}")
    # Docker may set a proxy for all containers; local addresses are not behind it.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        opener.open(request, timeout=_TIMEOUT_SECONDS).close()
    except (OSError, urllib.error.URLError) as error:
        return f"{url}: {error}"
    return None


def _check_dispatcher() -> str | None:
    """Why the dispatcher is unhealthy, or None.

    Without the modules of the service: each check would import them for a second of a core.
    """
    # The image of the cluster has no database driver.
    import psycopg  # noqa: PLC0415

    try:
        with psycopg.connect(_read_database_url(), connect_timeout=4) as connection:
            cluster = connection.execute("SELECT seen_at FROM cluster").fetchone()
    except (OSError, psycopg.Error) as error:
        return str(error)
    if cluster is None:
        return "no dispatcher has reached the cluster yet"
    age = datetime.now(UTC) - cluster[0]
    if age < _MAX_AGE:
        return None
    return f"the dispatcher last reached the cluster {age.total_seconds():.0f} s ago"


def _read_database_url() -> str:
    """As the settings of the service do."""
    url = os.environ.get("RESNETD_DATABASE_URL")
    if url is not None:
        return url
    folder = os.environ.get("RESNETD_SECRETS_DIR", "/run/secrets")
    return Path(folder, "resnetd_database_url").read_text().strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
