"""The whole service for end-to-end tests, on a Ray head that they share."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.local import LocalService
from deploy.ray_head import RayHead
from tests.support.fake_api import eventually
from workers.cluster.ray_jobs import RayJobs

# A dispatcher that dies is replaced within seconds here, not within a quarter of a minute.
IMPATIENT = {"RESNETD_LEASE_SECONDS": "3", "RESNETD_POLL_SECONDS": "0.3"}


@contextmanager
def running_service(head: RayHead, path: Path, **settings: str) -> Iterator[LocalService]:
    """The whole service as its own processes; its runners leave the shared head with it."""
    try:
        with LocalService(
            path / "var", settings=IMPATIENT | settings, logs_path=path / "logs", ray=head
        ) as running:
            yield running
    finally:
        with RayJobs(url=head.url, token=head.token) as jobs:
            for job in jobs.list_jobs():
                jobs.stop(job.submission_id)
            eventually(
                lambda: all(job.state.is_final for job in jobs.list_jobs()), within_seconds=60.0
            )
