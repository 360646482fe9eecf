"""The whole service for end-to-end tests, on a Ray head that they share."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from deploy.local import LocalService
from deploy.ray_head import RayHead
from tests.support.fake_api import eventually
from tests.support.ray import processes_of
from workers.cluster.ray_jobs import ClusterJob, RayJobs

# A dispatcher that dies is replaced within seconds here, not within a quarter of a minute. The
# head has room for several services, each of which believes that it has two pairs of workers.
IMPATIENT = {
    "RESNETD_LEASE_SECONDS": "3",
    "RESNETD_POLL_INTERVAL_SECONDS": "0.3",
    "RESNETD_MAX_CPUS": "4",
    "RESNETD_MAX_GPUS": "0",
}


@contextmanager
def running_service(head: RayHead, path: Path, **settings: str) -> Iterator[LocalService]:
    """The whole service as its own processes; its runners leave the shared head with it."""
    service = LocalService(
        path / "var", settings=IMPATIENT | settings, logs_path=path / "logs", ray=head
    )
    try:
        with service:
            yield service
    finally:
        for process in processes_of(head, "-m workers"):
            with suppress(psutil.Error):
                if process.environ().get("RESNETD_API_URL") == service.url:
                    process.kill()
        with RayJobs(url=head.url, token=head.token) as jobs:

            def own() -> list[ClusterJob]:
                return [job for job in jobs.list_jobs() if job.metadata.get("api") == service.url]

            eventually(lambda: all(job.state.is_final for job in own()), within_seconds=60.0)
