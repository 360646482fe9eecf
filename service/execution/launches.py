"""What passes from the submission of a job to the first step of an attempt, and who does it."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from service.storage.tables import AttemptRow, JobRow


@dataclass(frozen=True)
class LaunchPhase:
    """`process`: the one that works, or that is waited for."""

    name: str
    process: str
    begins_at: datetime
    ends_at: datetime


@dataclass(frozen=True)
class Launch:
    """Of an attempt that has done its first step. The phases follow each other without gaps."""

    job_id: str
    attempt_id: str
    runner_id: str | None
    kind: str
    dataset: str
    num_workers: int
    phases: tuple[LaunchPhase, ...]


def describe_launch(job: JobRow, attempt: AttemptRow) -> Launch:
    return Launch(
        job_id=job.id,
        attempt_id=attempt.id,
        runner_id=attempt.runner_id,
        kind=job.kind,
        dataset=job.dataset,
        num_workers=attempt.num_workers,
        phases=tuple(_list_phases(job, attempt)),
    )


def _list_phases(job: JobRow, attempt: AttemptRow) -> Iterator[LaunchPhase]:
    """Times of the training are by the clock of its machine: none ends before it begins."""
    at = attempt.created_at
    if attempt.number == 1:
        # When a later attempt began to wait is not recorded in its row.
        yield LaunchPhase("wait in the queue", "dispatcher", min(job.created_at, at), at)
    for name, process, ends_at in (
        ("submit a runner", "dispatcher", attempt.submitted_at),
        ("give the attempt to its runner", "runner", attempt.assigned_at),
        ("start processes and load images", "training", attempt.data_ready_at),
        ("first step", "training", attempt.first_step_at),
    ):
        # A waiting runner needs no submission.
        if ends_at is not None and ends_at != at:
            begins_at, at = at, max(at, ends_at)
            yield LaunchPhase(name, process, begins_at, at)
