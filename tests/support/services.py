"""The service for end-to-end tests, on a Ray head that they share."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from deploy.local import LocalService
from deploy.ray_head import RayHead
from tests.support.fake_api import eventually
from tests.support.ray import processes_of
from workers.cluster.ray_jobs import RayJobClient

# A dispatcher that dies is replaced within 3 seconds, not 15. The shared head has more CPUs than
# the machine, so each service is limited to the CPUs of two jobs of two workers.
FAST_RECOVERY = {
    "RESNETD_LEASE_SECONDS": "3",
    "RESNETD_POLL_INTERVAL_SECONDS": "0.5",
    "RESNETD_MAX_CPUS": "4",
    "RESNETD_MAX_GPUS": "0",
}


@contextmanager
def running_service(head: RayHead, path: Path, **settings: str) -> Iterator[LocalService]:
    """The service as its own processes. Its Ray jobs end with it, the head continues."""
    service = LocalService(
        path / "var", settings=FAST_RECOVERY | settings, logs_path=path / "logs", ray=head
    )
    try:
        with service:
            yield service
    finally:
        for process in processes_of(head, "-m workers"):
            with suppress(psutil.Error):
                if process.environ().get("RESNETD_API_URL") == service.url:
                    process.kill()
        with RayJobClient(url=head.url, token=head.token) as ray_jobs:

            def have_ended() -> bool:
                return all(
                    job.state.is_final
                    for job in ray_jobs.list_jobs()
                    if job.metadata.get("api") == service.url
                )

            eventually(have_ended, within_seconds=60.0, poll_seconds=0.2)
