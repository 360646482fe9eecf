"""Stacks: jobs of one kind that one process trains at once, on what one of them occupies.

The first of them is given a runner as any job is; while it trains, others of its kind join it as
soon as it is their turn in the queue. They occupy nothing: the eldest holds the room for all.
"""

import hashlib
import json

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.spec import JobSpec
from service.states import AttemptState, RunnerState
from service.tables import AttemptRow, JobRow, RunnerRow

# What may differ between the jobs of a stack: all that changes neither the network's shape, nor
# the batch, nor what it is computed in.
_OWN = frozenset(
    {
        "seed",
        "priority",
        "preemptible",
        "hold",
        "after",
        "retention",
        "max_restarts",
        "time_limit_minutes",
        "name",
        "tags",
    }
)
_OWN_IN_RECIPE = frozenset(
    {
        "name",
        "iterations",
        "learning_rate",
        "schedule",
        "milestones",
        "decay",
        "patience",
        "warmup_learning_rate",
        "warmup_until_error",
        "warmup_iterations",
        "momentum",
        "momentum_form",
        "nesterov",
        "weight_decay",
        "decayed",
        "bias_learning_rate_scale",
        "label_smoothing",
        "statistics",
        "views",
        "evaluate_every",
        "checkpoint_every",
        "exports",
    }
)


def key_of(spec: JobSpec, *, user: str) -> str | None:
    """The same for all jobs that may train in one stack; None for one that trains alone."""
    if spec.resources.stack == 1:
        return None
    kind = spec.model_dump(mode="json", exclude={*_OWN, "recipe"})
    kind["recipe"] = spec.recipe.model_dump(mode="json", exclude=set(_OWN_IN_RECIPE))
    text = json.dumps([user, kind], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def runner_to_join(session: Session, job: JobRow) -> RunnerRow | None:
    """One whose stack has a place for the job, which has not begun yet."""
    if job.stack_key is None or job.attempts > 0:
        return None
    return session.scalar(
        select(RunnerRow)
        .join(AttemptRow, AttemptRow.runner_id == RunnerRow.id)
        .join(JobRow, JobRow.id == AttemptRow.job_id)
        .where(
            RunnerRow.state.in_((RunnerState.STARTING, RunnerState.READY)),
            RunnerRow.attempts_left > 0,
            AttemptRow.released_at.is_(None),
            AttemptRow.state != AttemptState.ENDED,
            AttemptRow.number == 1,
            JobRow.stack_key == job.stack_key,
        )
        .group_by(RunnerRow.id)
        .having(func.count() < job.spec["resources"]["stack"])
        .order_by(RunnerRow.id)
        .limit(1)
    )


def together_with(session: Session, job_id: str) -> list[str]:
    """The jobs that train in one process with the job, itself among them."""
    is_living = AttemptRow.state != AttemptState.ENDED
    its_runner = select(AttemptRow.runner_id).where(AttemptRow.job_id == job_id, is_living)
    statement = select(AttemptRow.job_id).where(AttemptRow.runner_id.in_(its_runner), is_living)
    return list(session.scalars(statement))
