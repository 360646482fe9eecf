"""One process of an attempt, on a cluster or alone: configuration, training, delivery, end.

Rank 0 itself finishes an attempt that is completed or stopped, once the API has all reports and
checkpoints. The runner (workers.cluster.runner_driver) or `run_in_process` finishes one that
failed.
"""

import errno
import shutil
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import structlog
import torch

from service import log as logs
from service.errors import CorruptArtifact, Refused, Unavailable
from service.log import ids_of_attempt
from service.specs.protocol import (
    MAX_MESSAGE_LENGTH,
    AttemptConfig,
    FinishAttemptRequest,
    TrainingResult,
)
from service.states import CheckpointPart, LogLevel, Reason
from workers.cluster.attempt_outcome import AttemptFailed, AttemptOutcome
from workers.cluster.dataset_cache import provide_dataset
from workers.cluster.process_settings import AttemptSettings
from workers.reporting.api_client import AttemptClient
from workers.reporting.checkpoint_outbox import FENCED_ERRORS
from workers.reporting.reporter import Reporter, drain
from workers.reporting.retry import DELIVERY_SECONDS, retry_until
from workers.training import trainer
from workers.training.device_context import DeviceContext
from workers.training.errors import TrainingError
from workers.training.observers import NullObserver, Observer

# How long a failing rank 0 delivers before the runner delivers the rest.
FAILURE_FLUSH_SECONDS = 10.0
# A running attempt writes to its directory every few seconds.
_LEFTOVER_SECONDS = 4 * DELIVERY_SECONDS

# Another attempt may find space, or run on another node.
_DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})

# The parts of a checkpoint that training resumes from; an analysis needs the weights only.
RESUMED_PARTS = frozenset({CheckpointPart.WEIGHTS, CheckpointPart.STATE})
ANALYSED_PARTS = frozenset({CheckpointPart.WEIGHTS})

log = structlog.get_logger()


def run_in_process(settings: AttemptSettings) -> AttemptOutcome:
    """Runs an attempt of one worker in this process, without a cluster."""
    configure_logs(settings, rank=0)
    with settings.client() as api:
        config = fetch_config(api, settings)
        if config is None:
            return AttemptOutcome.FENCED
        assert config.num_workers == 1, "one process runs one worker only"
        context = DeviceContext(
            rank=0, world_size=1, device=_device(config), threads=config.cpus_per_worker
        )
        try:
            return run_rank(settings, config, context=context, local_rank=0, barrier=lambda: None)
        except AttemptFailed as failed:
            return report_failure(api, settings, failed)


def configure_logs(settings: AttemptSettings, *, rank: int) -> None:
    """Each line of this process has the ids of its attempt."""
    ids = ids_of_attempt(settings.attempt_id)
    logs.configure(settings.log_format, rank=str(rank), **ids)


def fetch_config(api: AttemptClient, settings: AttemptSettings) -> AttemptConfig | None:
    """None if the attempt has ended."""
    try:
        return retry_until(api.fetch_config, deadline_seconds=settings.delivery_seconds)
    except FENCED_ERRORS as error:
        log.warning("attempt has ended", error=str(error), **ids_of_attempt(settings.attempt_id))
        return None


def run_rank(
    settings: AttemptSettings,
    config: AttemptConfig,
    *,
    context: DeviceContext,
    local_rank: int,
    barrier: Callable[[], None],
    on_trained: Callable[[], None] = lambda: None,
) -> AttemptOutcome:
    """Runs one rank: fetches the checkpoint to resume from, trains, delivers. AttemptFailed.

    Args:
        settings: of the attempt.
        config: the API's configuration of the attempt.
        context: the rank and its device.
        local_rank: rank on this node; rank 0 of a node fetches and deletes files.
        barrier: returns once all ranks have called it.
        on_trained: called on rank 0 when training is over and delivery begins.

    Returns the outcome of the attempt on rank 0; FINISHED or FENCED on the others.
    """
    if context.rank == 0:
        log.info("attempt started", workers=context.world_size)
    path = settings.attempt_path
    is_clean = context.rank != 0
    if local_rank == 0:
        remove_earlier_attempts(settings, config)
    try:
        resume = _resume(settings, config, is_fetching=local_rank == 0, barrier=barrier)
        if context.rank != 0:
            _train(settings, config, context, NullObserver(), resume)
            return AttemptOutcome.FINISHED
        outcome = _run_rank_zero(settings, config, context, resume, on_trained)
        is_clean = outcome is not AttemptOutcome.UNDELIVERED
    except FENCED_ERRORS:
        is_clean = True
        return AttemptOutcome.FENCED
    except Exception as error:
        raise classify_failure(error) from error
    else:
        return outcome
    finally:
        if is_clean and local_rank == 0:
            shutil.rmtree(path, ignore_errors=True)


def report_failure(
    api: AttemptClient, settings: AttemptSettings, failed: AttemptFailed
) -> AttemptOutcome:
    """Delivers what the failed ranks left on this node, then finishes the attempt."""
    log.error("attempt failed", reason=failed.reason, **ids_of_attempt(settings.attempt_id))
    deadline = time.monotonic() + settings.delivery_seconds
    if settings.attempt_path.exists():
        # If the disk fails, the reason of the failure is still reported.
        with suppress(OSError):
            drain(
                api,
                work_dir=settings.attempt_path,
                deadline_seconds=settings.delivery_seconds / 2,
            )
    outcome = _finish(
        api,
        FinishAttemptRequest(reason=failed.reason, message=_cut(failed.message)),
        deadline_seconds=max(deadline - time.monotonic(), 1.0),
    )
    if outcome is not AttemptOutcome.UNDELIVERED:
        shutil.rmtree(settings.attempt_path, ignore_errors=True)
    return outcome


def classify_failure(error: Exception) -> AttemptFailed:
    """The failure of the attempt that a rank's exception means."""
    if isinstance(error, AttemptFailed):
        return error
    if isinstance(error, TrainingError):
        return AttemptFailed(error.reason, str(error))
    text = _describe(error)
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in text:
        return AttemptFailed(Reason.OUT_OF_MEMORY, text)
    if isinstance(error, torch.distributed.DistError) or "gloo/transport" in text:
        # Raised in the other ranks when one dies.
        return AttemptFailed(Reason.WORKER_DIED, text)
    is_disk_error = isinstance(error, OSError) and error.errno in _DISK_ERRORS
    if is_disk_error or isinstance(error, Unavailable | CorruptArtifact):
        return AttemptFailed(Reason.DELIVERY_FAILED, text)
    return AttemptFailed(Reason.TRAINING_ERROR, text)


def _describe(error: Exception) -> str:
    """The cause in a line, and below it the traceback."""
    cause = (str(error).strip().splitlines() or [""])[0]
    first = f"{type(error).__name__}: {cause}" if cause else type(error).__name__
    return f"{first}\n\n{''.join(traceback.format_exception(error))}"


def _cut(message: str) -> str:
    """The first line and the end, which say the most."""
    first, separator, rest = message.partition("\n")
    first = first[: MAX_MESSAGE_LENGTH // 2]
    left = MAX_MESSAGE_LENGTH - len(first) - len(separator)
    return f"{first}{separator}{rest[-left:]}"


def remove_leftovers(work_dir: Path, *, now: float) -> None:
    """Deletes directories of attempts unchanged for an hour. `now` in seconds since 1970."""
    for path in (work_dir / "attempts").glob("*"):
        try:
            touched = max(entry.stat().st_mtime for entry in (path, *path.iterdir()))
        except OSError:
            continue  # its attempt deletes it at this moment
        if now - touched > _LEFTOVER_SECONDS:
            shutil.rmtree(path, ignore_errors=True)


def remove_earlier_attempts(settings: AttemptSettings, config: AttemptConfig) -> None:
    """Deletes what earlier attempts of the job left here; the API rejects their reports."""
    for path in (settings.work_dir / "attempts").glob(f"{config.job_id}-a*"):
        if path != settings.attempt_path:
            shutil.rmtree(path, ignore_errors=True)


def _run_rank_zero(
    settings: AttemptSettings,
    config: AttemptConfig,
    context: DeviceContext,
    resume: dict[CheckpointPart, Path] | None,
    on_trained: Callable[[], None],
) -> AttemptOutcome:
    """Trains and delivers. Raises what training raised, after delivering its last reports."""
    with settings.client() as api:
        reporter = Reporter(api, work_dir=settings.attempt_path, last_sequence=config.last_sequence)
        reporter.start()
        if config.lost_iteration is not None:
            reporter.on_log(
                LogLevel.WARNING,
                f"the checkpoint of iteration {config.lost_iteration} no longer exists; "
                "training begins anew",
            )
        try:
            if config.spec.analysis is None:
                finish = _describe_training(_train(settings, config, context, reporter, resume))
            else:
                finish = _analyse(settings, config, context, reporter, resume)
        except BaseException:
            reporter.close(deadline_seconds=FAILURE_FLUSH_SECONDS)
            if reporter.is_fenced:
                return AttemptOutcome.FENCED
            raise
        on_trained()
        return _deliver(api, settings, reporter, finish)


def _deliver(
    api: AttemptClient, settings: AttemptSettings, reporter: Reporter, finish: FinishAttemptRequest
) -> AttemptOutcome:
    """Delivers what remains, then finishes the attempt."""
    is_delivered = reporter.close(deadline_seconds=settings.delivery_seconds)
    if reporter.is_fenced:
        return AttemptOutcome.FENCED
    if not is_delivered:
        failed = FinishAttemptRequest(
            reason=Reason.DELIVERY_FAILED,
            message=f"results were not delivered: {reporter.last_error}",
        )
        _finish(api, failed, deadline_seconds=FAILURE_FLUSH_SECONDS)
        return AttemptOutcome.UNDELIVERED
    return _finish(api, finish, deadline_seconds=settings.delivery_seconds)


def _describe_training(outcome: trainer.Outcome) -> FinishAttemptRequest:
    reason = Reason.COMPLETED if outcome.budget_end is None else Reason.BUDGET_REACHED
    return FinishAttemptRequest(
        reason=outcome.stopped.reason if outcome.stopped else reason,
        message="" if outcome.stopped else outcome.budget_end or "",
        result=TrainingResult(
            train_error=outcome.train_error,
            test_error=outcome.test_error,
            test_top5_error=outcome.test_top5_error,
            validation_error=outcome.validation_error,
            training_seconds=outcome.training_seconds,
            step_seconds=outcome.step_seconds,
        ),
    )


def _analyse(
    settings: AttemptSettings,
    config: AttemptConfig,
    context: DeviceContext,
    observer: Observer,
    resume: dict[CheckpointPart, Path] | None,
) -> FinishAttemptRequest:
    # torchvision and others that an analysis may need are not preloaded.
    from workers.training.analyses import run  # noqa: PLC0415

    assert resume is not None, "an analysis is of a checkpoint"
    with provide_dataset(config.spec.dataset, settings, log=observer.on_log) as data_dir:
        outcome = run.run(
            config.spec,
            context=context,
            data_dir=data_dir,
            observer=observer,
            weights=[resume[CheckpointPart.WEIGHTS], *_fetch_others(settings, config)],
        )
    return FinishAttemptRequest(
        reason=outcome.stopped.reason if outcome.stopped else Reason.COMPLETED,
        analysis=outcome.result,
    )


def _train(
    settings: AttemptSettings,
    config: AttemptConfig,
    context: DeviceContext,
    observer: Observer,
    resume: dict[CheckpointPart, Path] | None,
) -> trainer.Outcome:
    with provide_dataset(config.spec.dataset, settings, log=observer.on_log) as data_dir:
        return trainer.train(
            config.spec,
            context=context,
            data_dir=data_dir,
            work_dir=settings.checkpoints_path,
            observer=observer,
            resume=resume,
            start_mode=config.resume.mode if config.resume is not None else None,
        )


def _resume(
    settings: AttemptSettings,
    config: AttemptConfig,
    *,
    is_fetching: bool,
    barrier: Callable[[], None],
) -> dict[CheckpointPart, Path] | None:
    """The files to resume from, fetched by the first rank of each node."""
    if config.resume is None:
        return None
    directory = settings.attempt_path / "resume"
    needed = RESUMED_PARTS if config.spec.analysis is None else ANALYSED_PARTS
    if is_fetching:
        directory.mkdir(parents=True, exist_ok=True)
        with settings.client() as api:
            for digest in config.resume.parts:
                if digest.part not in needed:
                    continue  # for download only
                retry_until(
                    partial(api.download, digest, directory / digest.part),
                    deadline_seconds=settings.delivery_seconds,
                )
    barrier()
    return {d.part: directory / d.part for d in config.resume.parts if d.part in needed}


def _fetch_others(settings: AttemptSettings, config: AttemptConfig) -> list[Path]:
    """The weights of the other checkpoints that an analysis uses, in their order."""
    paths = []
    with settings.client() as api:
        for position, checkpoint in enumerate(config.others):
            (digest,) = (d for d in checkpoint.parts if d.part is CheckpointPart.WEIGHTS)
            path = settings.attempt_path / "resume" / f"other-{position}"
            retry_until(
                partial(api.download, digest, path, position=position),
                deadline_seconds=settings.delivery_seconds,
            )
            paths.append(path)
    return paths


def _finish(
    api: AttemptClient, finish: FinishAttemptRequest, *, deadline_seconds: float
) -> AttemptOutcome:
    try:
        job_state = retry_until(lambda: api.finish(finish), deadline_seconds=deadline_seconds)
    except Refused as error:
        log.warning("attempt has ended", reason=finish.reason, error=str(error))
        return AttemptOutcome.FENCED
    except Unavailable as error:
        log.warning("finish not delivered", reason=finish.reason, error=str(error))
        return AttemptOutcome.UNDELIVERED
    log.info("attempt finished", reason=finish.reason, job_state=job_state)
    return AttemptOutcome.FINISHED


def _device(config: AttemptConfig) -> torch.device:
    has_gpu = config.gpus_per_worker > 0 and torch.cuda.is_available()
    return torch.device("cuda" if has_gpu else "cpu")
