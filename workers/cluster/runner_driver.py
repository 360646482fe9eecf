"""What one runner does, which is one Ray job: fit, and say how an attempt died.

    dispatcher ──submit──► Ray job: runner ──fit()──► TrainController ──► RayTrainWorker x N
                                │                                              │ forks
                                └── a failure, after what rank 0 left ──► API ◄┘ all the rest

Ray only places the ranks, connects them, and notices when one dies. It retries nothing: another
attempt is the service's to make, on another runner.
"""

import os
import shutil
import time

import ray
import structlog
from ray.exceptions import RayError
from ray.train import (
    FailureConfig,
    LoggingConfig,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
    WorkerGroupError,
)
from ray.train.torch import TorchConfig, TorchTrainer

from service.errors import Unavailable
from service.specs.protocol import NextAttemptRequest
from service.states import Reason
from workers.cluster import rank_loop
from workers.cluster.attempt_outcome import AttemptFailed, AttemptOutcome
from workers.cluster.attempt_process import remove_leftovers, report_failure
from workers.cluster.process_settings import RunnerSettings
from workers.reporting.checkpoint_outbox import FENCED_ERRORS
from workers.reporting.retry import retry_until

# Between the ranks of a standby nothing is said for days; the death of one breaks its connection.
_IDLE_TIMEOUT_SECONDS = 30 * 24 * 3600

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


def main(settings: RunnerSettings) -> int:
    """The exit status: 0 where the API knows how every attempt ended, or does not want to."""
    return 0 if run(settings) is not AttemptOutcome.UNDELIVERED else 1


def run(settings: RunnerSettings) -> AttemptOutcome:
    """Until the service dismisses the runner, or an attempt takes it down."""
    remove_leftovers(settings.work_path, now=time.time())
    try:
        _fit(settings)
    except AttemptFailed as failed:
        return _report_failure(settings, failed)
    return AttemptOutcome.FINISHED


def _fit(settings: RunnerSettings) -> None:
    """AttemptFailed with the cause, where several ranks failed."""
    storage_path = settings.work_path / "runners" / settings.runner_id
    shape = settings.shape
    resources = {"CPU": float(shape.cpus_per_worker), "GPU": shape.gpus_per_worker}
    try:
        # "auto" fails without a cluster; no address would start one and write to ~/.ray.
        ray.init(address=os.environ.get("RAY_ADDRESS", "auto"), logging_level="WARNING")
        TorchTrainer(
            rank_loop.run_rank_loop,
            train_loop_config={"settings": settings},
            # What the ranks tell each other between attempts; NCCL is the attempts' own.
            torch_config=TorchConfig(backend="gloo", timeout_s=_IDLE_TIMEOUT_SECONDS),
            scaling_config=ScalingConfig(
                num_workers=shape.num_workers,
                use_gpu=shape.gpus_per_worker > 0,
                resources_per_worker=resources,
            ),
            run_config=RunConfig(
                name=settings.runner_id,
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


def _report_failure(settings: RunnerSettings, failed: AttemptFailed) -> AttemptOutcome:
    """Ends what was under way, for its processes: an attempt, or none."""
    log.error("runner failed", runner_id=settings.runner_id, reason=failed.reason)
    question = NextAttemptRequest(is_exiting=True)
    with settings.client() as api:
        while True:
            try:
                response = retry_until(
                    lambda: api.next(question), deadline_seconds=settings.delivery_seconds
                )
            except FENCED_ERRORS:
                return AttemptOutcome.FENCED
            except Unavailable as error:
                log.critical("end not delivered", error=str(error))
                return AttemptOutcome.UNDELIVERED
            if response.assignment is None:
                return AttemptOutcome.FINISHED
            attempt = settings.attempt(response.assignment)
            with attempt.client() as its_api:
                ending = report_failure(its_api, attempt, failed)
            if ending is not AttemptOutcome.FINISHED:
                return ending


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
