"""When two jobs compute the same: equal specs but for what changes no step, code and images."""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import case, select
from sqlalchemy.orm import Session

from service.catalog import code_version, uploads
from service.specs.job_spec import JobSpec
from service.states import JobState
from service.storage.tables import JobRow
from service.storage.visibility import VISIBLE_ROWS

# A job in another state may never have a result.
_REUSED = (
    JobState.SUCCEEDED,
    JobState.RUNNING,
    JobState.STARTING,
    JobState.QUEUED,
    JobState.BLOCKED,
)

# Fields of the spec itself that do not change what is trained.
UNTRAINED_FIELDS = (
    "after",
    "hold",
    "max_restarts",
    "name",
    "preemptible",
    "priority",
    "retention",
    "tags",
    "time_limit_minutes",
)


def training_key(spec: JobSpec, data_dir: Path) -> str:
    """Equal for jobs whose result is equal, on the same hardware with the same packages.

    Images are identified by the checksum of their upload, other image folders by name only.
    """
    return _make_key(spec, data_dir, UNTRAINED_FIELDS)


def replicate_key(spec: JobSpec, data_dir: Path) -> str:
    """Equal for jobs that differ only in their seed: their training keys are equal without it."""
    return _make_key(spec, data_dir, (*UNTRAINED_FIELDS, "seed"))


def _make_key(spec: JobSpec, data_dir: Path, excluded: Sequence[str]) -> str:
    trained = flatten_spec(spec.model_dump(mode="json", exclude=set(excluded)))
    images = uploads.find_sha256(spec.dataset, data_dir)
    parts = [trained, code_version.training_code_sha256(), images]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def find_equal_jobs(
    session: Session, keys: Iterable[str], *, users: Collection[str] | None = None
) -> dict[str, str]:
    """The id of a job for each key: a finished one rather than a running one, the oldest of all.

    `users`: only jobs of these people.
    """
    rank = case({state: number for number, state in enumerate(_REUSED)}, value=JobRow.state)
    statement = (
        select(JobRow.training_key, JobRow.id)
        .where(JobRow.training_key.in_(set(keys)), JobRow.state.in_(_REUSED))
        .order_by(rank, JobRow.id)
    )
    if users is not None:
        statement = statement.where(JobRow.user.in_(users))
    rows = session.execute(statement.execution_options(**VISIBLE_ROWS))
    found: dict[str, str] = {}
    for key, job_id in rows:
        found.setdefault(key, job_id)
    return found


def flatten_spec(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values that are not objects, by dotted path."""
    found: dict[str, Any] = {}
    for name, value in document.items():
        path = f"{prefix}{name}"
        found |= flatten_spec(value, f"{path}.") if isinstance(value, dict) else {path: value}
    return found
