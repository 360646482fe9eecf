"""Data sets: those known by name, and uploads of one's own."""

import tempfile
from http import HTTPStatus
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from api.dependencies import ServicesDep, authenticate_user
from service.catalog import datasets, image_folder_layout, uploads
from service.catalog.datasets import Dataset, DatasetOrigin
from service.catalog.uploads import Upload
from service.specs.protocol import Sha256

router = APIRouter(
    prefix="/v1/datasets", tags=["datasets"], dependencies=[Depends(authenticate_user)]
)

# Unpacked, an archive of pictures is hardly bigger than it was; one of zeros is.
_UNPACKED_SHARE = 4


class DatasetView(BaseModel):
    """`available`: whether the API sees its images under the data path. `sha256`: of an upload."""

    name: str
    title: str
    origin: DatasetOrigin
    classes: int | None
    height: int | None
    width: int | None
    train_images: int | None
    test_images: int | None
    default_recipe: str
    available: bool
    sha256: str | None


class DatasetList(BaseModel):
    datasets: list[DatasetView]


@router.get("")
def list_datasets(held: ServicesDep) -> DatasetList:
    """Those known by name, and the image folders under the data path."""
    data_path = held.settings.data_dir
    folders = [
        found
        for path in (sorted(data_path.iterdir()) if data_path.is_dir() else [])
        if image_folder_layout.is_image_folder(path)
        and (found := datasets.find_dataset(f"{datasets.FOLDER_PREFIX}{path.name}")) is not None
    ]
    return DatasetList(
        datasets=[_view(each, data_path) for each in [*datasets.DATASETS.values(), *folders]]
    )


@router.post("", status_code=HTTPStatus.CREATED, max_body_size=2**50)
async def upload(
    name: Annotated[str, Query(max_length=100)],
    request: Request,
    held: ServicesDep,
    x_content_sha256: Annotated[Sha256 | None, Header()] = None,
) -> DatasetView:
    """A tar or zip of class folders, looked at file by file; known as folder:NAME afterwards."""
    max_bytes = held.settings.max_upload_bytes
    data_path = held.settings.data_dir
    with tempfile.NamedTemporaryFile(prefix="resnetd-upload-") as file:
        archive = Path(file.name)
        sha256, _ = await uploads.receive_archive(request.stream(), archive, max_bytes=max_bytes)
        uploads.verify_sha256(sha256, expected=x_content_sha256)
        dataset, _ = await run_in_threadpool(
            uploads.register_dataset,
            name,
            archive,
            sha256=sha256,
            data_dir=data_path,
            max_bytes=_UNPACKED_SHARE * max_bytes,
        )
    return _view(dataset, data_path)


def _view(dataset: Dataset, data_path: Path) -> DatasetView:
    folder = data_path / dataset.name.removeprefix(datasets.FOLDER_PREFIX)
    uploaded = uploads.find_upload(folder)
    return DatasetView(
        name=dataset.name,
        title=dataset.title,
        origin=dataset.origin,
        classes=dataset.classes if uploaded is None else uploaded.classes,
        height=dataset.size,
        width=dataset.size,
        train_images=_images(dataset.train_images, uploaded, "train_images"),
        test_images=_images(dataset.test_images, uploaded, "test_images"),
        default_recipe=dataset.default_recipe,
        available=_is_available(dataset, folder),
        sha256=None if uploaded is None else uploaded.sha256,
    )


def _is_available(dataset: Dataset, folder: Path) -> bool:
    if dataset.origin is DatasetOrigin.FOLDER:
        return image_folder_layout.is_image_folder(folder)
    return dataset.origin is DatasetOrigin.BUNDLED or folder.is_dir()


def _images(known: int | None, uploaded: Upload | None, field: str) -> int | None:
    return known if uploaded is None else int(getattr(uploaded, field))
