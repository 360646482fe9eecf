"""The entrypoint of a runner: imports torch for its processes while Ray starts."""

import os
from contextlib import nullcontext

import structlog

from service import log as logs
from service.errors import InvalidInput
from workers.cluster.process_launcher import ProcessLauncher
from workers.cluster.process_settings import RunnerSettings

log = structlog.get_logger()


def main() -> int:
    """Exit status: 0 if the API knows how all attempts ended, or rejects the runner."""
    logs.configure()
    try:
        settings = RunnerSettings.of_env(os.environ)
    except InvalidInput as error:
        log.critical("runner cannot start", error=str(error))
        return 2
    logs.configure(settings.log_format, runner_id=settings.runner_id)
    with ProcessLauncher.of(settings) if settings.is_on_one_node else nullcontext():
        # Importing ray and torch takes seconds.
        from workers.cluster import runner_driver  # noqa: PLC0415

        return runner_driver.main(settings)
