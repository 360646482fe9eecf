"""Submission of searches."""

from datetime import datetime
from pathlib import Path

from sqlalchemy.orm import Session

from service import ids
from service.access import quotas, storage_use
from service.catalog.architectures import Architecture
from service.errors import FieldError, InvalidInput
from service.jobs import dataset_use, model_versions
from service.jobs import submission as job_submission
from service.specs import search_spec
from service.specs.job_spec import JobSpec, Resources, StartFrom
from service.specs.search_spec import SearchSpec
from service.states import SearchState
from service.storage import events, idempotency
from service.storage.events import EventKind
from service.storage.idempotency import IdempotencyKey, Operation, Submission
from service.storage.tables import SearchRow


def submit(
    session: Session,
    spec: SearchSpec,
    *,
    user: str,
    data_dir: Path,
    now: datetime,
    idempotency_key: str | None = None,
) -> Submission[SearchRow]:
    """Creates the search; with a key that was used before, returns the search that it created.

    InvalidInput where a value of the space makes no valid spec, or one that the images and weights
    in `data_dir` do not permit, CannotFit where the cluster can never run a trial,
    IdempotencyMismatch for a key that was used with another spec, QuotaExceeded beyond a quota of
    storage.
    """
    # By all that the checks in the database depend on.
    trials: dict[tuple[Resources, Architecture, str, StartFrom | None], JobSpec] = {}

    def check_trial(trial: JobSpec) -> None:
        job_submission.check_data(trial, data_dir)
        trials[trial.resources, trial.architecture, trial.dataset, trial.start_from] = trial

    if "dataset" not in spec.space:
        # What is wrong with the job itself is not an error of a value of the space.
        job_submission.require_dataset(
            str(spec.job.get("dataset")), data_dir, pointer="/job/dataset"
        )
    # It may take seconds, so it comes before the first query begins the transaction.
    search_spec.check_search_spec(spec, check_trial)
    key = IdempotencyKey.of(Operation.SUBMIT_SEARCH, idempotency_key, user=user, body=[spec])

    def create() -> list[SearchRow]:
        known = quotas.read_quotas(session)
        storage_use.require_space(session, user, (), known, data_dir=data_dir)
        for trial in trials.values():
            dataset_use.keep_dataset(session, trial.dataset)
            _check_trial(session, trial, data_dir=data_dir)
        return [_create(session, _pin_model(session, spec), user=user, now=now)]

    return idempotency.submit_once(session, SearchRow, create, key=key)[0]


def _create(session: Session, spec: SearchSpec, *, user: str, now: datetime) -> SearchRow:
    search = SearchRow(
        id=ids.new_id(now),
        name=spec.name,
        spec=spec.model_dump(mode="json"),
        state=SearchState.QUEUED,
        user=user,
        created_at=now,
        active_seconds=0.0,
        event_count=0,
        driver_number=0,
        driver_failures=0,
    )
    session.add(search)
    events.append_event(session, search, EventKind.SUBMITTED, {"trials": spec.trials}, now=now)
    return search


def _pin_model(session: Session, spec: SearchSpec) -> SearchSpec:
    """All trials start from the version that a model's alias is at now."""
    start = spec.job.get("start_from")
    if not isinstance(start, dict) or start.get("model") is None:
        return spec
    version = model_versions.resolve(session, start["model"])
    pinned = start | {"model": f"{version.model.name}@{version.row.number}"}
    return spec.model_copy(update={"job": spec.job | {"start_from": pinned}})


def _check_trial(session: Session, trial: JobSpec, *, data_dir: Path) -> None:
    try:
        job_submission.check_submission(session, trial, data_dir=data_dir)
    except InvalidInput as error:
        field_errors = tuple(
            FieldError(pointer=f"/job{field.pointer}", message=field.message)
            for field in error.field_errors
        )
        raise type(error)(str(error), field_errors=field_errors) from error
