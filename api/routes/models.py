"""The model registry: names for weights, their versions, and the aliases that point to them."""

from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from api import problems
from api.artifact_response import ArtifactResponse
from api.dependencies import (
    Caller,
    Now,
    ReadSession,
    RedirectSeconds,
    ServicesDep,
    WriteSession,
    authorize,
)
from api.queries import AfterNumber
from api.routes.checkpoints import (
    WEIGHTS_RESPONSES,
    FormatQuery,
    WeightsFormat,
    send_weights,
)
from api.views import EventList, View
from service.access import audit
from service.errors import Conflict, NotFound
from service.jobs import model_registry, model_versions
from service.jobs.model_versions import ModelVersion
from service.specs.base import MAX_ID_LENGTH, JobId
from service.specs.labels import Note
from service.specs.model_lineage import ModelLineage
from service.specs.model_reference import MAX_VERSION, Alias, ModelName, ModelReference
from service.states import AuditKind
from service.storage import events
from service.storage.tables import ModelAliasRow, ModelRow

router = APIRouter(prefix="/v1", tags=["models"], dependencies=[Depends(authorize)])

Version = Annotated[int, Path(ge=1, le=MAX_VERSION)]
Reference = Annotated[
    ModelReference,
    Query(description="`NAME@ALIAS`, `NAME@NUMBER`, or `NAME` for the newest version"),
]


class NewModelVersion(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: ModelName
    job: JobId
    checkpoint: Annotated[
        str,
        Field(
            min_length=1,
            max_length=MAX_ID_LENGTH,
            description="`newest`, `best`, or an id; only the last of a training has its exports",
        ),
    ] = "newest"
    note: Note = ""


class AliasUpdate(BaseModel):
    model_config = ConfigDict(extra="forbid")

    version: Annotated[int, Field(strict=True, ge=1, le=MAX_VERSION)]
    note: Annotated[Note, Field(description="why it is moved there")] = ""


class ModelAliasView(View):
    alias: str
    version: int
    user: Annotated[str, Field(description="who moved it there")]
    note: str
    moved_at: datetime


class ModelView(View):
    id: str
    name: str
    user: Annotated[str, Field(description="the person who owns it")]
    created_at: datetime
    newest_version: int
    aliases: list[ModelAliasView]

    @classmethod
    def of(cls, row: ModelRow, aliases: list[ModelAliasRow], *, newest_version: int) -> "ModelView":
        return cls(
            id=row.id,
            name=row.name,
            user=row.user,
            created_at=row.created_at,
            newest_version=newest_version,
            aliases=[ModelAliasView.model_validate(alias) for alias in aliases],
        )


class ModelPage(View):
    models: list[ModelView]
    next_page_token: str | None


class ModelVersionView(View):
    model_id: str
    name: Annotated[str, Field(description="of the model")]
    version: int
    aliases: list[str]
    job_id: str
    checkpoint_id: str
    user: Annotated[str, Field(description="who registered it")]
    note: str
    created_at: datetime
    lineage: ModelLineage

    @classmethod
    def of(cls, version: ModelVersion) -> "ModelVersionView":
        row = version.row
        return cls(
            model_id=version.model.id,
            name=version.model.name,
            version=row.number,
            aliases=list(version.aliases),
            job_id=row.job_id,
            checkpoint_id=row.checkpoint_id,
            user=row.user,
            note=row.note,
            created_at=row.created_at,
            lineage=model_versions.lineage_of(row),
        )


class ModelVersionList(View):
    versions: list[ModelVersionView]


@router.post(
    "/models", status_code=HTTPStatus.CREATED, responses=problems.responses(NotFound, Conflict)
)
def register_model(
    new: NewModelVersion, session: WriteSession, now: Now, caller: Caller
) -> ModelVersionView:
    """Makes a checkpoint of the caller's job the next version of the caller's model.

    The first version creates the model. As long as the version exists, retention keeps the
    checkpoint, and its job cannot be deleted.
    """
    version = model_registry.register(
        session,
        caller,
        name=new.name,
        job_id=new.job,
        checkpoint=new.checkpoint,
        note=new.note,
        now=now,
    )
    return ModelVersionView.of(version)


@router.get("/models")
def list_models(
    session: ReadSession,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
    page_token: Annotated[str | None, Query(description="`next_page_token` of a page")] = None,
) -> ModelPage:
    """Models with their aliases, newest first."""
    page = model_versions.list_page(session, limit=limit, token=page_token)
    ids = [row.id for row in page.rows]
    aliases = model_versions.list_aliases(session, ids)
    newest = model_versions.find_newest_numbers(session, ids)
    views = [ModelView.of(row, aliases[row.id], newest_version=newest[row.id]) for row in page.rows]
    return ModelPage(models=views, next_page_token=page.next_token)


@router.get("/models:resolve", responses=problems.responses(NotFound))
def resolve_model(ref: Reference, session: ReadSession) -> ModelVersionView:
    """The version that a reference names now."""
    return ModelVersionView.of(model_versions.resolve(session, ref))


@router.get(
    "/models:download",
    response_class=StreamingResponse,
    responses=WEIGHTS_RESPONSES,
)
def download_model(
    ref: Reference,
    session: ReadSession,
    services: ServicesDep,
    redirect_seconds: RedirectSeconds,
    format: FormatQuery = WeightsFormat.SAFETENSORS,  # noqa: A002 - the query's name
) -> ArtifactResponse:
    """The weights of the version; `Range` with `If-Range` continues a download that broke."""
    version = model_versions.resolve(session, ref)
    checkpoint = model_versions.find_checkpoint(session, version)
    stem = f"{version.model.name}-v{version.row.number}"
    return send_weights(
        session, services, checkpoint, format, stem=stem, redirect_seconds=redirect_seconds
    )


@router.get("/models/{model_id}", responses=problems.responses(NotFound))
def get_model(model_id: str, session: ReadSession) -> ModelView:
    """A model with its aliases."""
    row = model_versions.find_model(session, model_id)
    newest = model_versions.find_newest_numbers(session, [row.id])
    aliases = model_versions.list_aliases(session, [row.id])
    return ModelView.of(row, aliases[row.id], newest_version=newest[row.id])


@router.delete(
    "/models/{model_id}",
    status_code=HTTPStatus.NO_CONTENT,
    responses=problems.responses(NotFound, Conflict),
)
def delete_model(model_id: str, session: WriteSession, now: Now) -> None:
    """Deletes a model without aliases, with its versions; their jobs and checkpoints stay."""
    model = model_registry.delete_model(session, model_id)
    audit.record(session, AuditKind.MODEL_DELETED, model.name, now=now, owner=model.user)


@router.get("/models/{model_id}/versions", responses=problems.responses(NotFound))
def list_model_versions(model_id: str, session: ReadSession) -> ModelVersionList:
    """The versions of a model with their lineage, newest first."""
    found = model_versions.list_versions(session, model_versions.find_model(session, model_id))
    return ModelVersionList(versions=[ModelVersionView.of(version) for version in found])


@router.delete(
    "/models/{model_id}/versions/{version}",
    status_code=HTTPStatus.NO_CONTENT,
    responses=problems.responses(NotFound, Conflict),
)
def delete_model_version(model_id: str, version: Version, session: WriteSession, now: Now) -> None:
    """Deletes a version without an alias; its job and checkpoint stay, and are kept no longer."""
    model = model_registry.delete_version(session, model_id, version, now=now)
    kind = AuditKind.MODEL_VERSION_DELETED
    audit.record(session, kind, model.name, now=now, owner=model.user, version=version)


@router.put("/models/{model_id}/aliases/{alias}", responses=problems.responses(NotFound))
def move_model_alias(
    model_id: str, alias: Alias, update: AliasUpdate, session: WriteSession, now: Now
) -> ModelAliasView:
    """Points the alias to a version: promotes it, or rolls back to an earlier one."""
    model, row, before = model_registry.move_alias(
        session, model_id, alias, version=update.version, note=update.note, now=now
    )
    if before != row.version:
        data: dict[str, Any] = {
            "alias": alias,
            "from": before,
            "to": row.version,
            "note": row.note,
        }
        audit.record(session, AuditKind.MODEL_PROMOTED, model.name, now=now, **data)
    return ModelAliasView.model_validate(row)


@router.delete(
    "/models/{model_id}/aliases/{alias}",
    status_code=HTTPStatus.NO_CONTENT,
    responses=problems.responses(NotFound),
)
def remove_model_alias(model_id: str, alias: Alias, session: WriteSession, now: Now) -> None:
    """Removes the alias; its version stays."""
    model, before = model_registry.remove_alias(session, model_id, alias, now=now)
    data: dict[str, Any] = {"alias": alias, "from": before}
    audit.record(session, AuditKind.MODEL_ALIAS_REMOVED, model.name, now=now, **data)


@router.get("/models/{model_id}/events", responses=problems.responses(NotFound))
def list_model_events(
    model_id: str,
    session: ReadSession,
    after: AfterNumber = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
) -> EventList:
    """Registrations, promotions with their notes, and deletions of versions, oldest first."""
    model = model_versions.find_model(session, model_id)
    found = events.list_events_after(session, model, after, limit=limit)
    return EventList.of(found, after=after)
