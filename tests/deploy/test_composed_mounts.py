"""The API of docker-compose.yml with exactly the writable paths of its container.

Without Docker: in a mount namespace of its own everything is read-only but the service's volumes,
and /tmp is as small as a container may have it.
"""

import io
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from deploy.make_secrets import make_secrets
from deploy.ray_head import free_ports
from service.states import CheckpointPart
from service.storage import schema
from service.storage.database import Database
from tests.deploy.composed import REPOSITORY, compose_file, find_mounts
from tests.support.api import Api
from tests.support.core import Clock, Core
from tests.support.fake_api import eventually

SERVICE = compose_file()["services"]["api"]
# Smaller than the archive below.
TMP_BYTES = 256 * 1024
# $1 contains the folders to mount; the rest is the command. /run has what an image would have.
_CONFINE = r"""
set -eu
parent=$1; shift
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mkdir -p /run/repository /run/venv /run/parent /run/secrets
mount --bind "$REPOSITORY" /run/repository
mount --bind "$VENV" /run/venv
mount --bind "$parent" /run/parent
mount --bind "$parent/secrets" /run/secrets
mount --bind "$parent/database" /run/parent/database
mount -t tmpfs tmpfs /var/lib
for target in $TARGETS; do
    mkdir -p "$target"
    mount --bind "$parent/volumes$target" "$target"
done
for target in $(awk '{print $2}' /proc/mounts); do
    case " $TARGETS /run/parent/database " in *" $target "*) continue;; esac
    case $target in /proc*|/dev*|/sys*) continue;; esac
    mount -o remount,bind,ro "$target" 2>/dev/null || true
done
for target in $READ_ONLY_TARGETS; do mount -o remount,bind,ro "$target"; done
for target in $TMPFS; do mount -t tmpfs -o size=$TMP_BYTES tmpfs "$target"; done
for folder in / /home /run /usr /var/lib; do
    if touch "$folder/probe" 2>/dev/null; then echo "$folder is writable"; exit 1; fi
done
cd /run/repository
exec "$@"
"""


def _can_confine() -> bool:
    return (
        os.getuid() == 0
        and shutil.which("unshare") is not None
        and subprocess.run(
            ["unshare", "--mount", "mount", "--make-rprivate", "/"],
            capture_output=True,
            check=False,
        ).returncode
        == 0
    )


@pytest.fixture
def confined_api(tmp_path: Path) -> Iterator[Api]:
    if not _can_confine():
        pytest.skip("mount namespaces need root")
    make_secrets(tmp_path / "secrets")
    mounts = find_mounts(SERVICE)
    for mount in mounts:
        (tmp_path / "volumes" / mount.target.lstrip("/")).mkdir(parents=True)
    (tmp_path / "database").mkdir()
    database_path = tmp_path / "database" / "resnetd.db"
    (port,) = free_ports(1)
    assert SERVICE["read_only"]
    with closing(Database(f"sqlite:///{database_path}")) as database:
        schema.upgrade(database)
        log = (tmp_path / "api.log").open("wb")
        process = subprocess.Popen(
            [
                *("unshare", "--mount", "sh", "-c", _CONFINE, "confine", str(tmp_path)),
                *("/run/venv/bin/python", "-m", "api"),
            ],
            env={
                "PATH": os.environ["PATH"],
                "REPOSITORY": str(REPOSITORY),
                "VENV": sys.prefix,
                "TARGETS": " ".join(mount.target for mount in mounts),
                "READ_ONLY_TARGETS": " ".join(
                    mount.target for mount in mounts if not mount.is_writable
                ),
                "TMPFS": " ".join(SERVICE["tmpfs"]),
                "TMP_BYTES": str(TMP_BYTES),
                **{
                    name: str(value)
                    for name, value in SERVICE["environment"].items()
                    if value is not None
                },
                "RESNETD_API_HOST": "127.0.0.1",
                "RESNETD_API_PORT": str(port),
                # Where the container has the network of PostgreSQL.
                "RESNETD_DATABASE_URL": "sqlite:////run/parent/database/resnetd.db",
            },
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        core = Core(database, Clock())
        api = Api(f"http://127.0.0.1:{port}", None, core)  # type: ignore[arg-type] # its own process's

        def is_healthy() -> bool:
            assert process.poll() is None, (tmp_path / "api.log").read_text()
            with suppress(httpx.TransportError):
                return api.http.get("/v1/health").is_success
            return False

        try:
            eventually(is_healthy, within_seconds=60.0, poll_seconds=0.1)
            yield api
        finally:
            api.http.close()
            process.terminate()
            process.wait(30.0)
            log.close()


def _archive() -> bytes:
    """Images of noise, which do not compress."""
    noise = np.random.default_rng(0).integers(0, 256, (8, 128, 128, 3), dtype=np.uint8)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        for number, pixels in enumerate(noise):
            image = io.BytesIO()
            Image.fromarray(pixels).save(image, "PNG")
            split, label = ("train", "test")[number // 4], ("a", "b")[number % 2]
            zipped.writestr(f"{split}/{label}/{number}.png", image.getvalue())
    return archive.getvalue()


def test_uploads_are_stored_by_the_api_of_the_compose_file(
    confined_api: Api, tmp_path: Path
) -> None:
    token = (tmp_path / "secrets" / "resnetd_admin_token").read_text().strip()
    archive = _archive()
    assert len(archive) > TMP_BYTES
    answer = confined_api.call("POST", "/v1/datasets?name=birds", token=token, content=archive)
    assert answer.status_code == 201, answer.text
    assert answer.json()["train_images"] == 4
    data_dir = tmp_path / "volumes/var/lib/resnetd/data"
    assert [path.name for path in data_dir.iterdir()] == ["birds"]

    claimed = confined_api.core.start()
    answer = confined_api.upload(claimed, 20, CheckpointPart.WEIGHTS)
    assert answer.status_code == 201, answer.text
    assert list((tmp_path / "volumes/var/lib/resnetd/artifacts").rglob("*"))
