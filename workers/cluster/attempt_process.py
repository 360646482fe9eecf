"""What one process of an attempt does, on a cluster or not: brief, training, delivery, end.

Rank 0 posts `completed` and the stops itself, once the API has every report and checkpoint:
nobody else knows both, and the job is done seconds before its cluster job is. A failure is
posted by whoever outlives it: the runner (workers.cluster.runner), or `run_here`.
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

from service.errors import CorruptArtifact, Refused, Unavailable
from service.specs.protocol import (
    MAX_MESSAGE_LENGTH,
    AttemptConfig,
    FinishAttemptRequest,
    TrainingResult,
)
from service.states import CheckpointPart, Reason
from workers.cluster.attempt_outcome import AttemptFailed, AttemptOutcome
from workers.cluster.process_settings import AttemptSettings
from workers.reporting.api_client import ApiClient
from workers.reporting.checkpoint_outbox import FENCED_ERRORS
from workers.reporting.reporter import Reporter, drain
from workers.reporting.retry import DELIVERY_SECONDS, retry_until
from workers.training import trainer
from workers.training.device_context import DeviceContext
from workers.training.errors import TrainingError
from workers.training.observers import NullObserver, Observer

# Before a failing rank 0 lets go; what is left then is the runner's to deliver.
FAILURE_FLUSH_SECONDS = 10.0
# Work that was never delivered; an attempt that lives touches its folder every few seconds.
_LEFTOVER_SECONDS = 4 * DELIVERY_SECONDS

# Another attempt may find room, or another node.
_DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})

# Of a checkpoint, what training goes on from.
RESUMED_PARTS = frozenset({CheckpointPart.WEIGHTS, CheckpointPart.STATE})

log = structlog.get_logger()


def run_in_process(settings: AttemptSettings) -> AttemptOutcome:
    """The whole attempt in this process, without a cluster; for a single worker."""
    with settings.client() as api:
        brief = fetch_config(api, settings)
        if brief is None:
            return AttemptOutcome.FENCED
        assert brief.num_workers == 1, f"one process cannot be {brief.num_workers} workers"
        place = DeviceContext(
            rank=0, world_size=1, device=_device(brief), threads=brief.cpus_per_worker
        )
        try:
            return run_rank(settings, brief, place=place, local_rank=0, meet=lambda: None)
        except AttemptFailed as failed:
            return report_failure(api, settings, failed)


def fetch_config(api: ApiClient, settings: AttemptSettings) -> AttemptConfig | None:
    """None where the attempt is over before it began."""
    try:
        return retry_until(api.brief, deadline_seconds=settings.delivery_seconds)
    except FENCED_ERRORS as error:
        log.warning("attempt is over", attempt_id=settings.attempt_id, error=str(error))
        return None


def run_rank(
    settings: AttemptSettings,
    brief: AttemptConfig,
    *,
    place: DeviceContext,
    local_rank: int,
    meet: Callable[[], None],
    on_trained: Callable[[], None] = lambda: None,
) -> AttemptOutcome:
    """One rank's part, from the checkpoint to resume from to the last word. AttemptFailed.

    `meet` returns once every rank has called it. `on_trained` is called on rank 0 when training
    is over, its device is free, and delivering goes on. Only rank 0's answer means something.
    """
    path = settings.attempt_path
    is_clean = place.rank != 0
    if local_rank == 0:
        remove_earlier_attempts(settings, brief)
    try:
        resume = _resume(settings, brief, is_fetching=local_rank == 0, meet=meet)
        if place.rank != 0:
            _train(settings, brief, place, NullObserver(), resume)
            return AttemptOutcome.FINISHED
        ending = _run_rank_zero(settings, brief, place, resume, on_trained)
        is_clean = ending is not AttemptOutcome.UNDELIVERED
    except FENCED_ERRORS:
        is_clean = True
        return AttemptOutcome.FENCED
    except Exception as error:
        raise classify_failure(error) from error
    else:
        return ending
    finally:
        if is_clean and local_rank == 0:
            shutil.rmtree(path, ignore_errors=True)


def report_failure(
    api: ApiClient, settings: AttemptSettings, failed: AttemptFailed
) -> AttemptOutcome:
    """Delivers what the dead left on this node, then says why they died."""
    log.error("attempt failed", attempt_id=settings.attempt_id, reason=failed.reason)
    deadline = time.monotonic() + settings.delivery_seconds
    if settings.attempt_path.exists():
        # Where the disk itself is at fault, the reason can be told still.
        with suppress(OSError):
            drain(
                api,
                work_path=settings.attempt_path,
                deadline_seconds=settings.delivery_seconds / 2,
            )
    ending = _finish(
        api,
        FinishAttemptRequest(reason=failed.reason, message=failed.message[-MAX_MESSAGE_LENGTH:]),
        deadline_seconds=max(deadline - time.monotonic(), 1.0),
    )
    if ending is not AttemptOutcome.UNDELIVERED:
        shutil.rmtree(settings.attempt_path, ignore_errors=True)
    return ending


def classify_failure(error: Exception) -> AttemptFailed:
    """What a rank's exception means for its attempt."""
    if isinstance(error, AttemptFailed):
        return error
    if isinstance(error, TrainingError):
        return AttemptFailed(error.reason, str(error))
    told = "".join(traceback.format_exception(error))[-MAX_MESSAGE_LENGTH:]
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in told:
        return AttemptFailed(Reason.OUT_OF_MEMORY, told)
    if isinstance(error, torch.distributed.DistError) or "gloo/transport" in told:
        # What the living say when one of them is gone.
        return AttemptFailed(Reason.WORKER_DIED, told)
    is_disk_at_fault = isinstance(error, OSError) and error.errno in _DISK_ERRORS
    if is_disk_at_fault or isinstance(error, Unavailable | CorruptArtifact):
        return AttemptFailed(Reason.DELIVERY_FAILED, told)
    return AttemptFailed(Reason.TRAINING_ERROR, told)


def remove_leftovers(work_path: Path, *, now: float) -> None:
    """Folders of attempts that nobody has touched for an hour. `now` in seconds since 1970."""
    for path in (work_path / "attempts").glob("*"):
        try:
            touched = max(entry.stat().st_mtime for entry in (path, *path.iterdir()))
        except OSError:
            continue  # its own attempt is removing it this moment
        if now - touched > _LEFTOVER_SECONDS:
            shutil.rmtree(path, ignore_errors=True)


def remove_earlier_attempts(settings: AttemptSettings, brief: AttemptConfig) -> None:
    """What attempts of the job have left here that died with all their processes.

    None of them lives, or there would be no later one: what they have not delivered is refused.
    """
    for path in (settings.work_path / "attempts").glob(f"{brief.job_id}-a*"):
        if path != settings.attempt_path:
            shutil.rmtree(path, ignore_errors=True)


def _run_rank_zero(
    settings: AttemptSettings,
    brief: AttemptConfig,
    place: DeviceContext,
    resume: dict[CheckpointPart, Path] | None,
    on_trained: Callable[[], None],
) -> AttemptOutcome:
    """Rank 0's part. Whatever training raised, after its last words were delivered."""
    with settings.client() as api:
        reporter = Reporter(api, work_path=settings.attempt_path, last_sequence=brief.last_sequence)
        reporter.start()
        try:
            outcome = _train(settings, brief, place, reporter, resume)
        except BaseException:
            reporter.close(deadline_seconds=FAILURE_FLUSH_SECONDS)
            if reporter.is_fenced:
                return AttemptOutcome.FENCED
            raise
        on_trained()
        return deliver_outcome(api, settings, reporter, outcome)


def deliver_outcome(
    api: ApiClient, settings: AttemptSettings, reporter: Reporter, outcome: trainer.Outcome
) -> AttemptOutcome:
    """What a training that is over has left to say."""
    is_delivered = reporter.close(deadline_seconds=settings.delivery_seconds)
    if reporter.is_fenced:
        return AttemptOutcome.FENCED
    if not is_delivered:
        finish = FinishAttemptRequest(
            reason=Reason.DELIVERY_FAILED,
            message=f"the end of the training was not delivered: {reporter.last_error}",
        )
        _finish(api, finish, deadline_seconds=FAILURE_FLUSH_SECONDS)
        return AttemptOutcome.UNDELIVERED
    finish = FinishAttemptRequest(
        reason=outcome.stopped.reason if outcome.stopped else Reason.COMPLETED,
        result=TrainingResult(
            train_error=outcome.train_error,
            test_error=outcome.test_error,
            training_seconds=outcome.training_seconds,
        ),
    )
    return _finish(api, finish, deadline_seconds=settings.delivery_seconds)


def _train(
    settings: AttemptSettings,
    brief: AttemptConfig,
    place: DeviceContext,
    observer: Observer,
    resume: dict[CheckpointPart, Path] | None,
) -> trainer.Outcome:
    return trainer.train(
        brief.spec,
        context=place,
        data_path=settings.data_path,
        work_path=settings.checkpoints_path,
        observer=observer,
        resume=resume,
        start_mode=brief.resume.mode if brief.resume is not None else None,
    )


def _resume(
    settings: AttemptSettings,
    brief: AttemptConfig,
    *,
    is_fetching: bool,
    meet: Callable[[], None],
) -> dict[CheckpointPart, Path] | None:
    """The files to resume from, fetched once for each node: by the first rank on it."""
    if brief.resume is None:
        return None
    folder = settings.attempt_path / "resume"
    if is_fetching:
        folder.mkdir(parents=True, exist_ok=True)
        with settings.client() as api:
            for digest in brief.resume.parts:
                if digest.part not in RESUMED_PARTS:
                    continue  # people's copies of the network
                retry_until(
                    partial(api.download, digest, folder / digest.part),
                    deadline_seconds=settings.delivery_seconds,
                )
    meet()
    return {d.part: folder / d.part for d in brief.resume.parts if d.part in RESUMED_PARTS}


def _finish(
    api: ApiClient, finish: FinishAttemptRequest, *, deadline_seconds: float
) -> AttemptOutcome:
    try:
        job_state = retry_until(lambda: api.finish(finish), deadline_seconds=deadline_seconds)
    except Refused as error:
        log.warning("attempt is over", reason=finish.reason, error=str(error))
        return AttemptOutcome.FENCED
    except Unavailable as error:
        log.warning("end not delivered", reason=finish.reason, error=str(error))
        return AttemptOutcome.UNDELIVERED
    log.info("attempt finished", reason=finish.reason, job_state=job_state)
    return AttemptOutcome.FINISHED


def _device(brief: AttemptConfig) -> torch.device:
    is_wanted = brief.gpus_per_worker > 0 and torch.cuda.is_available()
    return torch.device("cuda" if is_wanted else "cpu")
