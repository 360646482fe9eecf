"""A container's health check: exit status 0, or 1 and the reason.

python healthcheck.py http URL [TOKEN_FILE]   whether the URL answers
python healthcheck.py dispatcher              whether a dispatcher saw the cluster within 60 s
"""

import sys
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path

from service.scheduling import cluster_state

_TIMEOUT_SECONDS = 4.0
# Looks are a second apart, a cold agent of Ray's takes five.
_STALE = timedelta(minutes=1)


def main(arguments: list[str]) -> int:
    match arguments:
        case ["http", url, *token_file]:
            reason = _why_silent(url, Path(token_file[0]) if token_file else None)
        case ["dispatcher"]:
            reason = _why_idle()
        case _:
            reason = (__doc__ or "").strip()
    if reason is None:
        return 0
    print(reason, file=sys.stderr)
    return 1


def _why_silent(url: str, token_file: Path | None) -> str | None:
    request = urllib.request.Request(url)  # noqa: S310 - the compose file's own address
    if token_file is not None:
        request.add_header("Authorization", f"Bearer {token_file.read_text().strip()}")
    # Docker may hand a proxy to every container; nothing here is behind one.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        opener.open(request, timeout=_TIMEOUT_SECONDS).close()
    except (OSError, urllib.error.URLError) as error:
        return f"{url}: {error}"
    return None


def _why_idle() -> str | None:
    # Cost half a second, and the images of the cluster check without them.
    from service import settings  # noqa: PLC0415
    from service.errors import ResnetdError  # noqa: PLC0415
    from service.storage.database import Database  # noqa: PLC0415

    try:
        database = Database(settings.load().database_url.get_secret_value())
        with database.reading() as session:
            cluster = cluster_state.find_cluster(session)
        database.close()
    except ResnetdError as error:
        return str(error)
    if cluster is None:
        return "no dispatcher has seen the cluster yet"
    age = datetime.now(UTC) - cluster.seen_at
    return None if age < _STALE else f"the cluster was last seen {age.total_seconds():.0f} s ago"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
