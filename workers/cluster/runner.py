"""The entrypoint of one attempt, which is one Ray job: fetch the brief, fit, end.

    dispatcher ──submit──► Ray job: runner ──fit()──► TrainController ──► RayTrainWorker x N
                                │                                              │ rank 0
                                └── a failure, after what rank 0 left ──► API ◄┘ all the rest

Ray only places the ranks, connects them, and notices when one dies. It retries nothing: another
attempt is the service's to make.
"""

import logging
import os
import shutil
import time
from typing import Any

import ray
import structlog
import torch
from ray.exceptions import RayError
from ray.train import (
    FailureConfig,
    LoggingConfig,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
    WorkerGroupError,
    get_context,
)
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from service.errors import InvalidInput, Unavailable
from service.reports import AttemptBrief
from service.states import Reason
from workers.cluster.attempt import (
    AttemptFailed,
    AttemptSettings,
    Ending,
    end_in_failure,
    fetch_brief,
    remove_leftovers,
    run_rank,
)
from workers.training.loop import Place

# Of a collective: a hung one must become a failure. Torch's 30 minutes are a third of a short run.
_COLLECTIVE_SECONDS = 600

# Of several ranks' failures the first of these is the cause, the others its echo.
_CAUSES = (
    Reason.DATASET_MISSING,
    Reason.DIVERGED,
    Reason.OUT_OF_MEMORY,
    Reason.TRAINING_ERROR,
    Reason.DELIVERY_FAILED,
    Reason.INTERNAL,
    Reason.WORKER_DIED,
)

log = structlog.get_logger()


def main() -> int:
    """The exit status: 0 where the API knows how the attempt ended, or does not want to."""
    try:
        settings = AttemptSettings.of_env(os.environ)
    except InvalidInput as error:
        log.critical("no attempt", error=str(error))
        return 2
    return 0 if run(settings) is not Ending.UNDELIVERED else 1


def run(settings: AttemptSettings) -> Ending:
    with settings.client() as api:
        try:
            brief = fetch_brief(api, settings)
        except Unavailable as error:
            log.critical("no brief", attempt_id=settings.attempt_id, error=str(error))
            return Ending.UNDELIVERED
        if brief is None:
            return Ending.FENCED
        remove_leftovers(settings.work_path, now=time.time())
        try:
            return _fit(settings, brief)
        except AttemptFailed as failed:
            return end_in_failure(api, settings, failed)


def _fit(settings: AttemptSettings, brief: AttemptBrief) -> Ending:
    """AttemptFailed with the cause, where several ranks failed."""
    # Ray's bookkeeping of the run, apart from the attempt's folder: rank 0 removes that one.
    storage_path = settings.work_path / "attempts" / f"{settings.attempt_id}-ray"
    resources = {"CPU": float(brief.cpus_per_worker), "GPU": float(brief.gpus_per_worker)}
    is_on_gpus = brief.gpus_per_worker > 0
    try:
        # "auto" fails without a cluster; no address would start one and write to ~/.ray.
        ray.init(address=os.environ.get("RAY_ADDRESS", "auto"), logging_level="WARNING")
        result = TorchTrainer(
            _train,
            train_loop_config={"settings": settings, "brief": brief.model_dump_json()},
            torch_config=TorchConfig(
                backend="nccl" if is_on_gpus else "gloo", timeout_s=_COLLECTIVE_SECONDS
            ),
            scaling_config=ScalingConfig(
                num_workers=brief.num_workers, use_gpu=is_on_gpus, resources_per_worker=resources
            ),
            run_config=RunConfig(
                name=settings.attempt_id,
                storage_path=str(storage_path),
                failure_config=FailureConfig(max_failures=0),
                logging_config=LoggingConfig(log_level="WARNING"),
            ),
        ).fit()
    except TrainingFailedError as error:
        raise _cause(error) from error
    except RayError as error:
        raise AttemptFailed(Reason.WORKER_DIED, str(error)) from error
    finally:
        shutil.rmtree(storage_path, ignore_errors=True)
    return Ending(result.return_value)


def _train(config: dict[str, Any]) -> str:
    """What Ray calls on every rank."""
    # A line for each report says nothing.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    context = get_context()
    brief = AttemptBrief.model_validate_json(config["brief"])
    place = Place(
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        device=_device(brief),
        threads=brief.cpus_per_worker,
    )
    return run_rank(
        config["settings"],
        brief,
        place=place,
        local_rank=context.get_local_rank(),
        meet=_meet,
    ).value


def _meet() -> None:
    torch.distributed.barrier()


def _device(brief: AttemptBrief) -> torch.device:
    """This rank's GPU, or the CPU where the node's GPUs are such in name only."""
    if brief.gpus_per_worker == 0 or not torch.cuda.is_available():
        return torch.device("cpu")
    device: torch.device = get_device()
    torch.cuda.set_device(device)
    return device


def _cause(error: TrainingFailedError) -> AttemptFailed:
    if not isinstance(error, WorkerGroupError):
        return AttemptFailed(Reason.INTERNAL, str(error))
    failures = [_failure(rank, failure) for rank, failure in error.worker_failures.items()]
    return min(failures, key=lambda failed: _CAUSES.index(failed.reason))


def _failure(rank: int, failure: Exception) -> AttemptFailed:
    """Ray hands over a rank's exception as it was, its death as a failed health check."""
    if isinstance(failure, AttemptFailed):
        return failure
    text = str(failure)
    if "running low on memory" in text:
        return AttemptFailed(Reason.OUT_OF_MEMORY, f"rank {rank}: {text}")
    if type(failure).__name__.startswith("WorkerHealthCheck"):
        return AttemptFailed(Reason.WORKER_DIED, f"rank {rank} died: {text}")
    return AttemptFailed(Reason.INTERNAL, f"rank {rank}: {text}")
