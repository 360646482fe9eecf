"""What is stored for a person, and what of it takes most."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import Field

from api import problems
from api.dependencies import Caller, ReadSession, ServicesDep, authorize
from api.views import View
from service.access import storage_use
from service.errors import NotFound
from service.specs.base import MAX_NAME_LENGTH, Line

router = APIRouter(prefix="/v1/storage", tags=["people"], dependencies=[Depends(authorize)])


class StoredJobView(View):
    id: str
    name: str
    stored_bytes: int


class StorageView(View):
    user: str
    checkpoint_bytes: Annotated[int, Field(description="of the person's jobs, with exports")]
    dataset_bytes: Annotated[int, Field(description="images of the person's uploads")]
    limit_bytes: Annotated[int | None, Field(description="of the person's quota; null: none")]
    largest_jobs: list[StoredJobView]


@router.get("", responses=problems.responses(NotFound))
def get_storage(
    session: ReadSession,
    services: ServicesDep,
    caller: Caller,
    user: Annotated[
        Line | None,
        Query(max_length=MAX_NAME_LENGTH, description="default: the caller; for admins, anybody"),
    ] = None,
) -> StorageView:
    """The bytes that are stored for a person, and the ten jobs that store most."""
    found = storage_use.read_use(session, user or caller.user, services.settings.data_dir)
    return StorageView.model_validate(found)
