"""Datasets: built-in ones, image folders, and uploads."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Depends, Header, Query, Request
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from api import problems
from api.artifact_response import BYTES
from api.dependencies import (
    Caller,
    Now,
    ReadSession,
    Services,
    ServicesDep,
    User,
    WriteSession,
    authorize,
)
from service.access import audit, quotas, storage_use
from service.access.policy import require_owned
from service.catalog import dataset_folders, datasets, uploads
from service.catalog.datasets import Dataset, DatasetOrigin
from service.errors import Conflict, CorruptArtifact, NotFound, QuotaExceeded
from service.jobs import dataset_use
from service.specs.protocol import Sha256
from service.states import AuditKind

router = APIRouter(prefix="/v1/datasets", tags=["datasets"], dependencies=[Depends(authorize)])

# Images hardly compress; this bounds archives that expand, such as zip bombs.
_MAX_EXPANSION = 4


class DatasetView(BaseModel):
    """`available`: whether the API has its images in the data directory.

    `class_names` in the order of their labels. `jobs`: the number of those that name it, of all
    that the caller sees. Of an upload, `user` owns it, `stored_bytes` is the size of its images,
    `sha256` is the archive's and `skipped` counts the files that are not part of the dataset, by
    what they are.
    """

    name: str
    title: str
    origin: DatasetOrigin
    classes: int | None
    class_names: list[str] | None
    height: int | None
    width: int | None
    train_images: int | None
    test_images: int | None
    default_recipe: str
    available: bool
    jobs: int
    user: str | None
    stored_bytes: int | None
    sha256: str | None
    skipped: dict[str, int] | None


class DatasetList(BaseModel):
    datasets: list[DatasetView]


@router.get("")
def list_datasets(services: ServicesDep, session: ReadSession) -> DatasetList:
    """Built-in datasets, then the image folders in the data directory."""
    data_dir = services.settings.data_dir
    known = [*datasets.DATASETS.values(), *dataset_folders.list_folders(data_dir)]
    jobs = dataset_use.count_jobs(session)
    return DatasetList(
        datasets=[_make_view(dataset, data_dir, jobs.get(dataset.name, 0)) for dataset in known]
    )


@router.post(
    "",
    status_code=HTTPStatus.CREATED,
    max_body_size=2**50,
    responses=problems.responses(Conflict, CorruptArtifact, QuotaExceeded),
    openapi_extra={"requestBody": {"required": True, "content": BYTES}},
)
async def upload_dataset(
    name: Annotated[str, Query(max_length=100)],
    request: Request,
    services: ServicesDep,
    user: User,
    x_content_sha256: Annotated[Sha256 | None, Header()] = None,
) -> DatasetView:
    """Stores a tar or zip archive of class folders as dataset `folder:NAME`."""
    max_bytes = services.settings.max_upload_bytes
    data_dir = services.settings.data_dir
    # Before it is received.
    await run_in_threadpool(_require_any_space, services, user)
    with uploads.spool_archive(data_dir) as archive:
        sha256, _ = await uploads.receive_archive(request.stream(), archive, max_bytes=max_bytes)
        uploads.verify_sha256(sha256, expected=x_content_sha256)
        dataset, _ = await run_in_threadpool(
            uploads.register_dataset,
            name,
            archive,
            user=user,
            sha256=sha256,
            data_dir=data_dir,
            max_bytes=_MAX_EXPANSION * max_bytes,
            admit=partial(_admit, services, user),
        )
    return _make_view(dataset, data_dir, 0)


@router.delete(
    "/{dataset}",
    status_code=HTTPStatus.NO_CONTENT,
    responses=problems.responses(NotFound, Conflict),
)
def delete_dataset(
    dataset: str,
    session: WriteSession,
    services: ServicesDep,
    caller: Caller,
    now: Now,
    background: BackgroundTasks,
) -> None:
    """Deletes an upload of the caller or, for admins, of anybody, unless something needs it."""
    data_dir = services.settings.data_dir
    upload = dict(uploads.list_uploads(data_dir)).get(dataset)
    if upload is None:
        raise NotFound(f"no uploaded dataset {dataset!r}")
    require_owned(caller, f"dataset {dataset}", owner=upload.user)
    dataset_use.require_unused(session, dataset)
    audit.record(session, AuditKind.DATASET_DELETED, dataset, now=now, owner=upload.user)
    session.flush()
    # The last step: nothing can name it from here on.
    background.add_task(shutil.rmtree, uploads.remove_dataset(dataset, data_dir))


@contextmanager
def _admit(services: Services, user: str, added_bytes: int) -> Iterator[None]:
    """QuotaExceeded where the person may not store as many bytes. Other uploads wait for it."""
    with services.database.transaction() as session:
        storage_use.require_space(
            session,
            user,
            (),
            quotas.read_quotas(session),
            data_dir=services.settings.data_dir,
            added_bytes=added_bytes,
        )
        yield


def _require_any_space(services: Services, user: str) -> None:
    with _admit(services, user, 1):
        pass


def _make_view(dataset: Dataset, data_dir: Path, jobs: int) -> DatasetView:
    folder = uploads.folder_of(dataset.name, data_dir)
    dataset = uploads.describe_dataset(dataset.name, data_dir)
    upload = uploads.find_upload(folder)
    return DatasetView(
        name=dataset.name,
        title=dataset.title,
        origin=dataset.origin,
        classes=dataset.classes,
        class_names=None if dataset.class_names is None else list(dataset.class_names),
        height=dataset.size,
        width=dataset.size,
        train_images=dataset.train_images,
        test_images=dataset.test_images,
        default_recipe=dataset.default_recipe,
        available=dataset_folders.is_available(dataset, data_dir),
        jobs=jobs,
        user=None if upload is None else upload.user,
        stored_bytes=None if upload is None else upload.stored_bytes,
        sha256=None if upload is None else upload.sha256,
        skipped=None if upload is None else upload.skipped,
    )
