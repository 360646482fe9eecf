"""The first lines of a runner's process. Its fork server imports torch while Ray comes up."""

import os
from contextlib import nullcontext

import structlog

from service.errors import InvalidInput
from workers.cluster import fork_client
from workers.cluster.process_settings import RunnerSettings

log = structlog.get_logger()


def main() -> int:
    """The exit status: 0 where the API knows how every attempt ended, or does not want to."""
    try:
        settings = RunnerSettings.of_env(os.environ)
    except InvalidInput as error:
        log.critical("no runner", error=str(error))
        return 2
    with (
        fork_client.run_fork_server(settings.runner_id)
        if settings.is_on_one_node
        else nullcontext()
    ):
        # Seconds of imports: ray and torch.
        from workers.cluster import runner_driver  # noqa: PLC0415

        return runner_driver.main(settings)
