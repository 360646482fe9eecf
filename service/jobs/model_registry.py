"""Changes of the model registry: checkpoints get names, and aliases move.

Versions never change; aliases do, and the events of the model say who moved them, from where, and
why.
"""

from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from service import ids
from service.access.policy import Principal, require_owned
from service.errors import Conflict, NotFound
from service.jobs import checkpoints, lifecycle, model_versions, records
from service.jobs.model_versions import ModelVersion
from service.specs.model_lineage import ModelLineage, ModelSource
from service.states import CheckpointPart
from service.storage import events
from service.storage.actors import actor_of
from service.storage.database import Lock, serialize
from service.storage.events import EventKind
from service.storage.tables import (
    CheckpointRow,
    JobRow,
    ModelAliasRow,
    ModelRow,
    ModelVersionRow,
)
from service.storage.visibility import find_visible


def register(
    session: Session,
    caller: Principal,
    *,
    name: str,
    job_id: str,
    checkpoint: str,
    note: str,
    now: datetime,
) -> ModelVersion:
    """Makes a checkpoint the next version of the model; the first version creates the model.

    `checkpoint`: as in `checkpoints.find_checkpoint`. NotFound; Forbidden where the job or the
    model belongs to others; Conflict where the model has the checkpoint already.
    """
    # Locked before the models are: retention and the deletion of a job begin with it, too.
    job = lifecycle.lock_job(session, job_id)
    require_owned(caller, f"job {job.id}", owner=job.user)
    found = checkpoints.find_checkpoint(session, job.id, checkpoint)
    _serialize_changes(session)
    model = _find_or_create(session, caller, name, now=now)
    is_known = (
        ModelVersionRow.model_id == model.id,
        ModelVersionRow.checkpoint_id == found.id,
    )
    known = session.scalar(select(ModelVersionRow.number).where(*is_known))
    if known is not None:
        raise Conflict(f"checkpoint {found.id} is version {known} of {name}")
    model.version_count += 1
    row = ModelVersionRow(
        model_id=model.id,
        number=model.version_count,
        job_id=job.id,
        checkpoint_id=found.id,
        user=caller.user,
        note=note,
        lineage=describe_lineage(job, found).model_dump(mode="json"),
        created_at=now,
    )
    session.add(row)
    data = {"version": row.number, "job": job.id, "checkpoint": found.id, "note": note}
    events.append_event(session, model, EventKind.REGISTERED, data, now=now)
    session.flush()
    return ModelVersion(model, row, aliases=())


def describe_lineage(job: JobRow, checkpoint: CheckpointRow) -> ModelLineage:
    environment = records.environment_of(job)
    versions = {} if environment is None else environment.versions
    start, source = job.spec["start_from"], None
    if start is not None:
        source = ModelSource(
            job=job.source_job_id,
            checkpoint=job.source_checkpoint_id,
            iteration=job.source_iteration,
            weights=start["weights"],
            mode=start["mode"],
        )
    return ModelLineage(
        network=records.architecture_of(job).label,
        dataset=job.dataset,
        dataset_checksum=None if environment is None else environment.data_checksum,
        seed=job.spec["seed"],
        iteration=checkpoint.iteration,
        test_error=checkpoint.test_error,
        weights_sha256=checkpoints.files_of(checkpoint)[CheckpointPart.WEIGHTS].sha256,
        source=source,
        training_key=job.training_key,
        code_version=versions.get("resnetd"),
        code_commit=versions.get("commit"),
        training_code_sha256=versions.get("training_code_sha256"),
    )


def move_alias(
    session: Session, model_id: str, alias: str, *, version: int, note: str, now: datetime
) -> tuple[ModelRow, ModelAliasRow, int | None]:
    """Points the alias to the version; returns the number of the version that it was at before.

    An alias that is there already stays as it is. NotFound where there is no such version.
    """
    _serialize_changes(session)
    model = model_versions.find_model(session, model_id)
    model_versions.find_version(session, model, version)
    row = session.get(ModelAliasRow, (model.id, alias))
    before = None if row is None else row.version
    if row is not None and before == version:
        return model, row, before
    if row is None:
        row = ModelAliasRow(model_id=model.id, alias=alias)
        session.add(row)
    row.version, row.note, row.moved_at = version, note, now
    row.user = actor_of(session).user or model.user
    data = {"alias": alias, "from": before, "to": version, "note": note}
    events.append_event(session, model, EventKind.PROMOTED, data, now=now)
    session.flush()
    return model, row, before


def remove_alias(
    session: Session, model_id: str, alias: str, *, now: datetime
) -> tuple[ModelRow, int]:
    """Returns the number of the version that it was at."""
    _serialize_changes(session)
    model = model_versions.find_model(session, model_id)
    row = session.get(ModelAliasRow, (model.id, alias))
    if row is None:
        raise NotFound(f"{model.name} has no alias {alias!r}")
    before = row.version
    session.delete(row)
    data = {"alias": alias, "from": before}
    events.append_event(session, model, EventKind.ALIAS_REMOVED, data, now=now)
    return model, before


def delete_version(session: Session, model_id: str, number: int, *, now: datetime) -> ModelRow:
    """Its number is not used again. Conflict while it has an alias, or is the only version."""
    _serialize_changes(session)
    model = model_versions.find_model(session, model_id)
    version = model_versions.find_version(session, model, number)
    if version.aliases:
        raise Conflict(
            f"version {number} of {model.name} is {' and '.join(version.aliases)}; move or remove "
            "that alias first"
        )
    if len(model_versions.list_versions(session, model)) == 1:
        raise Conflict(f"version {number} is the only one of {model.name}; delete the model")
    session.delete(version.row)
    events.append_event(session, model, EventKind.VERSION_DELETED, {"version": number}, now=now)
    return model


def delete_model(session: Session, model_id: str) -> ModelRow:
    """Deletes it with its versions and events. Conflict while it has an alias."""
    _serialize_changes(session)
    model = model_versions.find_model(session, model_id)
    if aliases := model_versions.list_aliases(session, [model.id])[model.id]:
        named = " and ".join(f"{row.alias} (version {row.version})" for row in aliases)
        raise Conflict(f"{model.name} is in use as {named}; remove the alias first")
    session.execute(delete(ModelRow).where(ModelRow.id == model.id))
    return model


def _serialize_changes(session: Session) -> None:
    """One change of the registry at a time: numbers of versions and events have no gaps."""
    serialize(session.connection(), Lock.CHANGE_MODELS)


def _find_or_create(session: Session, caller: Principal, name: str, *, now: datetime) -> ModelRow:
    model = session.scalar(select(ModelRow).where(ModelRow.name == name))
    if model is None:
        model = ModelRow(
            id=ids.new_id(now),
            name=name,
            user=caller.user,
            created_at=now,
            version_count=0,
            event_count=0,
        )
        session.add(model)
        session.flush()
        return model
    if not find_visible(session, ModelRow, [model.id]):
        raise Conflict(f"the name {name!r} is taken")
    require_owned(caller, f"model {name}", owner=model.user)
    return model
