"""One rank of a runner, in the process that Ray made for it: hands attempts to its forks.

The ranks talk over the process group that Ray formed for them. Rank 0 asks the API what is next
and tells the others; the fork of each rank trains, in a process group of the attempt's own.
"""

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import ray
import structlog
import torch
from ray.train import get_context
from ray.train.torch import get_device

from service.errors import Unavailable
from service.reports import Order, Question
from workers.cluster.endings import AttemptFailed
from workers.cluster.forks import Fork, ForkServer, Seat
from workers.cluster.settings import RunnerSettings
from workers.reporting.backoff import insist
from workers.reporting.client import RunnerClient
from workers.reporting.outbox import FENCES

# Shorter than what proxies cut.
_WAIT_SECONDS = 25.0
# Of a stack's questions: how long the next fork may have to wait for the answer to the last one.
_JOIN_WAIT_SECONDS = 5.0
_BETWEEN_JOINS_SECONDS = 0.01

T = TypeVar("T")

log = structlog.get_logger()


def serve(config: dict[str, Any]) -> None:
    """What Ray calls on every rank: one attempt after another, until the runner is dismissed."""
    # A line for each report says nothing.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    settings: RunnerSettings = config["settings"]
    context = get_context()
    seat = Seat(
        rank=context.get_world_rank(),
        local_rank=context.get_local_rank(),
        world_size=context.get_world_size(),
        device=_device(settings),
        host=ray.util.get_node_ip_address(),
        visible_devices=os.environ.get("CUDA_VISIBLE_DEVICES"),
    )
    forks = ForkServer(
        settings.runner_id,
        is_first=seat.local_rank == 0,
        delivery_seconds=settings.delivery_seconds,
    )
    with forks, settings.client() as api:
        trained: str | None = None
        while True:
            with forks.fork(seat) as fork:
                fork.meet(_from_rank_0(fork.meeting_place()))
                torch.distributed.barrier()
                asked = _next_order(api, settings, trained) if seat.rank == 0 else None
                order = _from_rank_0(asked)
                if order is None:
                    return
                fork.begin(settings.attempt(order), order.brief)
                trained = order.brief.attempt_id
                is_joined = order.brief.is_stacked
                with _joining(api, settings, fork, trained) if is_joined else nullcontext():
                    fork.wait()


@contextmanager
def _joining(api: RunnerClient, settings: RunnerSettings, fork: Fork, first: str) -> Iterator[None]:
    """Meanwhile, hands over what joins a stack. Returns once the API knows the end of all."""
    is_over = threading.Event()
    thread = threading.Thread(
        target=_hand_over, args=(api, settings, fork, first, is_over), name="join", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        is_over.set()
    # Before the runner asks for its next orders: two questions at a time would get one answer.
    thread.join()


def _hand_over(
    api: RunnerClient,
    settings: RunnerSettings,
    fork: Fork,
    first: str,
    is_over: threading.Event,
) -> None:
    running = [first]
    while not is_over.wait(_BETWEEN_JOINS_SECONDS):
        try:
            orders = api.next(Question(running=running, wait_seconds=_JOIN_WAIT_SECONDS))
        except Unavailable:
            is_over.wait(_JOIN_WAIT_SECONDS)
            continue
        except FENCES:
            return
        if orders.order is not None:
            try:
                fork.join(settings.attempt(orders.order), orders.order.brief)
            except AttemptFailed:
                return  # it trains no more; the order is given again
            running.append(orders.order.brief.attempt_id)
        elif orders.is_dismissed:
            return


def _next_order(api: RunnerClient, settings: RunnerSettings, trained: str | None) -> Order | None:
    """Waits until there is one; None where the runner is to leave."""
    question = Question(trained=trained, wait_seconds=_WAIT_SECONDS)
    try:
        while True:
            orders = insist(lambda: api.next(question), deadline_seconds=settings.delivery_seconds)
            if orders.order is not None or orders.is_dismissed:
                return orders.order
    except (Unavailable, *FENCES) as error:
        log.warning("nobody has work for this runner", error=str(error))
        return None


def _from_rank_0(value: T) -> T:
    """Rank 0's value, on every rank."""
    box = [value]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]


def _device(settings: RunnerSettings) -> str:
    """This rank's GPU, or the CPU where the node's GPUs are such in name only."""
    if settings.shape.gpus_per_worker == 0 or not torch.cuda.is_available():
        return "cpu"
    return str(get_device())
