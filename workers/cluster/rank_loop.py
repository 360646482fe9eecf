"""One rank of a runner, in the process that Ray started: gives each attempt to a new process.

The ranks exchange messages over the process group that Ray formed. Rank 0 asks the API for the
next attempt and broadcasts it; a process for each rank trains, in a process group per attempt.
"""

import os
from contextlib import nullcontext
from typing import Any, TypeVar

import ray
import structlog
import torch
from ray.train import get_context
from ray.train.torch import get_device

from service import log as logs
from service.errors import Unavailable
from service.specs.protocol import AttemptAssignment, NextAttemptRequest
from workers.cluster.process_launcher import ProcessLauncher, RankPlacement, RankProcess
from workers.cluster.process_settings import RunnerSettings
from workers.reporting.api_client import RunnerClient
from workers.reporting.checkpoint_outbox import FENCED_ERRORS
from workers.reporting.retry import retry_until

# Proxies close a connection that is silent for longer, usually after 60 s.
_WAIT_SECONDS = 25.0

T = TypeVar("T")

log = structlog.get_logger()


def run_rank_loop(config: dict[str, Any]) -> None:
    """Runs one attempt after another until the API dismisses the runner; called by Ray."""
    settings: RunnerSettings = config["settings"]
    logs.configure(settings.log_format, runner_id=settings.runner_id)
    context = get_context()
    placement = RankPlacement(
        rank=context.get_world_rank(),
        local_rank=context.get_local_rank(),
        world_size=context.get_world_size(),
        device=_device(settings),
        host=ray.util.get_node_ip_address(),
        visible_devices=os.environ.get("CUDA_VISIBLE_DEVICES"),
    )
    needs_launcher = placement.local_rank == 0 and not settings.is_on_one_node
    launcher = ProcessLauncher.of(settings) if needs_launcher else nullcontext()
    with launcher, settings.client() as api:
        trained_attempt_id: str | None = None
        while True:
            with RankProcess(settings.runner_id, placement, key=settings.token) as process:
                process.join_group(_broadcast_from_rank_0(process.rendezvous()))
                torch.distributed.barrier()
                is_rank_0 = placement.rank == 0
                assignment = _broadcast_from_rank_0(
                    _next_assignment(api, settings, trained_attempt_id) if is_rank_0 else None
                )
                if assignment is None:
                    return
                process.begin_training(settings.attempt_settings(assignment), assignment.config)
                process.wait_until_trained()
                trained_attempt_id = assignment.config.attempt_id


def _next_assignment(
    api: RunnerClient, settings: RunnerSettings, trained_attempt_id: str | None
) -> AttemptAssignment | None:
    """Waits for the next attempt; None if the runner must exit."""
    request = NextAttemptRequest(trained_attempt_id=trained_attempt_id, wait_seconds=_WAIT_SECONDS)
    try:
        while True:
            response = retry_until(
                lambda: api.next_attempt(request), deadline_seconds=settings.delivery_seconds
            )
            if response.assignment is not None or response.should_exit:
                return response.assignment
    except (Unavailable, *FENCED_ERRORS) as error:
        log.warning("runner has no further attempts", error=str(error))
        return None


def _broadcast_from_rank_0(value: T) -> T:
    """Rank 0's value, on all ranks."""
    values = [value]
    torch.distributed.broadcast_object_list(values, src=0)
    return values[0]


def _device(settings: RunnerSettings) -> str:
    """This rank's GPU; the CPU if Ray's GPUs are only declared, as in tests."""
    if settings.worker_group.gpus_per_worker == 0 or not torch.cuda.is_available():
        return "cpu"
    return str(get_device())
