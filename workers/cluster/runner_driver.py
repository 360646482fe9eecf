"""One runner, which is one Ray job: runs the ranks with Ray Train, reports failed attempts.

    dispatcher ──submit──► Ray job: runner ──fit()──► TrainController ──► RayTrainWorker x N
                                │                                              │ processes
                                └── failures, after what rank 0 left ────► API ◄┘ all other reports

Ray places and connects the ranks and detects a rank that dies. It retries nothing: the service
retries an attempt on another runner.
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
from service.text import count_of
from workers.cluster import rank_loop
from workers.cluster.attempt_outcome import AttemptFailed, AttemptOutcome
from workers.cluster.attempt_process import remove_leftovers, report_failure
from workers.cluster.oom_kills import read_oom_kills
from workers.cluster.process_settings import RunnerSettings
from workers.reporting.checkpoint_outbox import FENCED_ERRORS
from workers.reporting.retry import retry_until

# The ranks of a warm runner may be idle for days; the death of a rank closes its connections.
_IDLE_TIMEOUT_SECONDS = 30 * 24 * 3600

# If several ranks fail, the first of these is the cause of the others.
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
    """Exit status: 0 if the API knows how all attempts ended, or rejects the runner."""
    return 0 if run(settings) is not AttemptOutcome.UNDELIVERED else 1


def run(settings: RunnerSettings) -> AttemptOutcome:
    """Returns when the service dismisses the runner or an attempt fails."""
    remove_leftovers(settings.work_dir, now=time.time())
    try:
        _fit(settings)
    except AttemptFailed as failed:
        return _report_failure(settings, failed)
    return AttemptOutcome.FINISHED


def _fit(settings: RunnerSettings) -> None:
    """Raises AttemptFailed with the cause, if several ranks fail."""
    storage_path = settings.work_dir / "runners" / settings.runner_id
    group = settings.worker_group
    resources = {"CPU": float(group.cpus_per_worker), "GPU": group.gpus_per_worker}
    oom_kills = read_oom_kills()
    try:
        # "auto" fails without a cluster; no address would start one and write to ~/.ray.
        ray.init(address=os.environ.get("RAY_ADDRESS", "auto"), logging_level="WARNING")
        TorchTrainer(
            rank_loop.run_rank_loop,
            train_loop_config={"settings": settings},
            # For messages between attempts; an attempt forms its own group, with NCCL on GPUs.
            torch_config=TorchConfig(backend="gloo", timeout_s=_IDLE_TIMEOUT_SECONDS),
            scaling_config=ScalingConfig(
                num_workers=group.num_workers,
                use_gpu=group.gpus_per_worker > 0,
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
        raise _add_oom_kills(_find_cause(error), read_oom_kills() - oom_kills) from error
    except RayError as error:
        died = AttemptFailed(Reason.WORKER_DIED, str(error))
        raise _add_oom_kills(died, read_oom_kills() - oom_kills) from error
    finally:
        shutil.rmtree(storage_path, ignore_errors=True)


def _report_failure(settings: RunnerSettings, failed: AttemptFailed) -> AttemptOutcome:
    """Finishes the attempt that was running, if any, in place of its processes."""
    log.error("runner failed", reason=failed.reason)
    request = NextAttemptRequest(is_exiting=True)
    with settings.client() as api:
        while True:
            try:
                response = retry_until(
                    lambda: api.next_attempt(request), deadline_seconds=settings.delivery_seconds
                )
            except FENCED_ERRORS:
                return AttemptOutcome.FENCED
            except Unavailable as error:
                log.critical("finish not delivered", error=str(error))
                return AttemptOutcome.UNDELIVERED
            if response.assignment is None:
                return AttemptOutcome.FINISHED
            attempt = settings.attempt_settings(response.assignment)
            with attempt.client() as attempt_api:
                outcome = report_failure(attempt_api, attempt, failed)
            if outcome is not AttemptOutcome.FINISHED:
                return outcome


def _find_cause(error: TrainingFailedError) -> AttemptFailed:
    if not isinstance(error, WorkerGroupError):
        return AttemptFailed(Reason.INTERNAL, str(error))
    failures = [_classify(rank, failure) for rank, failure in error.worker_failures.items()]
    return min(failures, key=lambda failed: _CAUSES.index(failed.reason))


def _classify(rank: int, failure: Exception) -> AttemptFailed:
    """Ray passes on a rank's exception; the death of a rank is a failed health check."""
    if isinstance(failure, AttemptFailed):
        return failure
    text = str(failure)
    if "running low on memory" in text:
        return AttemptFailed(Reason.OUT_OF_MEMORY, f"rank {rank}: {text}")
    if type(failure).__name__.startswith("WorkerHealthCheck"):
        return AttemptFailed(Reason.WORKER_DIED, f"rank {rank} died: {text}")
    return AttemptFailed(Reason.INTERNAL, f"rank {rank}: {text}")


def _add_oom_kills(failed: AttemptFailed, oom_kills: int) -> AttemptFailed:
    """The kernel names no process: another one may have been killed, so the reason stays."""
    if failed.reason is not Reason.WORKER_DIED or oom_kills == 0:
        return failed
    message = (
        f"{failed.message}; since the runner started, the kernel has killed "
        f"{count_of(oom_kills, 'process')} on its node because memory was used up"
    )
    return AttemptFailed(failed.reason, message)
