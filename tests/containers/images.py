"""The images that docker-compose.yml and deploy/Dockerfile pull, made of Debian's packages.

They are kept in the engine's store between runs. What differs from the images of the same names:
Python is Debian 12's 3.11, PostgreSQL is Debian 13's 17 behind an entry point of our own, which
knows the variables that the compose file sets.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.containers.engine import CACHE, Engine
from tests.deploy.composed import REPOSITORY, compose_file

_SOURCES = (Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list"))
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
# Where pip and npm of this machine find their packages, if not where they do by default.
_PACKAGE_VARIABLES = re.compile(r"(PIP|NPM_CONFIG|npm_config)_\w+|NODE_EXTRA_CA_CERTS")
_PACKAGE_FILES = (Path("/etc/pip.conf"), Path.home() / ".npmrc")
_DEBOOTSTRAP_SECONDS = 600.0

# Each is started by the image's user, on a volume that the image's folder gave its owner.
_POSTGRES_ENTRYPOINT = """#!/bin/sh
set -eu
PATH=/usr/lib/postgresql/17/bin:$PATH
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    # shellcheck disable=SC2086
    initdb --username="$POSTGRES_USER" --pwfile="$POSTGRES_PASSWORD_FILE" $POSTGRES_INITDB_ARGS
    echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
    pg_ctl --wait --options="-c listen_addresses=" start
    createdb --username="$POSTGRES_USER" --maintenance-db=postgres "$POSTGRES_DB"
    pg_ctl --wait stop
fi
exec postgres -c listen_addresses='*'
"""


def make_base_images(engine: Engine) -> None:
    """Those that are not in the store yet."""
    python = re.findall(
        r"^ARG PYTHON_IMAGE=(\S+)$",
        (REPOSITORY / "deploy" / "Dockerfile").read_text(),
        re.MULTILINE,
    )[0]
    postgres = compose_file()["services"]["postgres"]["image"]
    if not engine.has_image(python):
        _make_image(
            engine,
            python,
            "bookworm",
            "python3,python3-venv,python3-pip,ca-certificates",
            _finish_python,
            [
                'CMD ["python3"]',
                *(
                    f"ENV {name}={value}"
                    for name, value in os.environ.items()
                    if _PACKAGE_VARIABLES.fullmatch(name)
                ),
            ],
        )
    if not engine.has_image(postgres):
        _make_image(
            engine,
            postgres,
            "trixie",
            "postgresql-17",
            _finish_postgres,
            [
                'ENTRYPOINT ["/entrypoint.sh"]',
                "STOPSIGNAL SIGINT",
                # initdb takes the encoding of the database from it.
                "ENV LANG=C.UTF-8",
                "ENV PGDATA=/var/lib/postgresql/data",
                "VOLUME /var/lib/postgresql/data",
            ],
        )


def _make_image(
    engine: Engine,
    name: str,
    suite: str,
    packages: str,
    finish: Callable[[Path], None],
    changes: list[str],
) -> None:
    root = CACHE / f"root-{suite}"
    if root.exists():
        shutil.rmtree(root)
    made = subprocess.run(
        ["debootstrap", "--variant=minbase", f"--include={packages}", suite, root, _mirror()],
        capture_output=True,
        text=True,
        timeout=_DEBOOTSTRAP_SECONDS,
        check=False,
    )
    assert made.returncode == 0, made.stdout[-4000:]
    finish(root)
    archive = root.with_suffix(".tar")
    subprocess.run(["tar", "-C", root, "-cf", archive, "."], check=True)
    shutil.rmtree(root)
    options = [option for change in changes for option in ("--change", change)]
    engine.docker("import", *options, str(archive), name, timeout_seconds=_DEBOOTSTRAP_SECONDS)
    archive.unlink()


def _mirror() -> str:
    """Of this machine's packages."""
    for path in _SOURCES:
        if path.exists():
            found = re.search(r"^(?:URIs:|deb(?: \[.*\])?) (\S+)", path.read_text(), re.MULTILINE)
            if found is not None:
                return found[1]
    raise AssertionError(f"no mirror of Debian in {_SOURCES}")


def _finish_python(root: Path) -> None:
    (root / "usr" / "bin" / "python").symlink_to("python3")
    for marker in root.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
        marker.unlink()
    shutil.copy(_CERTIFICATES, root / str(_CERTIFICATES).lstrip("/"))
    for path in _PACKAGE_FILES:
        if path.exists():
            shutil.copy(path, root / ("root/.npmrc" if path.name == ".npmrc" else "etc/pip.conf"))


def _finish_postgres(root: Path) -> None:
    shutil.rmtree(root / "var" / "lib" / "postgresql")
    subprocess.run(
        [
            *("chroot", root, "install", "--directory", "--owner=postgres", "--group=postgres"),
            *("/var/lib/postgresql", "/var/lib/postgresql/data", "/run/postgresql"),
        ],
        check=True,
    )
    entrypoint = root / "entrypoint.sh"
    entrypoint.write_text(_POSTGRES_ENTRYPOINT)
    entrypoint.chmod(0o755)
