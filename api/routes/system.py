"""Health, the cluster, and what can be asked for: data sets and recipes."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel

from api.dependencies import Held, Now, Reading, person
from api.views import QueueView, StandingView, WaitingJobView
from service import datasets, queue, recipes
from service.datasets import Dataset, Origin
from service.networks import Family
from service.outlook import Outlook, waiting_jobs

router = APIRouter(prefix="/v1", tags=["system"])
for_people = APIRouter(prefix="/v1", tags=["system"], dependencies=[Depends(person)])


class Health(BaseModel):
    status: str


class DatasetView(BaseModel):
    """`is_here`: whether the API sees its images under the data path."""

    name: str
    title: str
    origin: Origin
    classes: int | None
    height: int | None
    width: int | None
    train_images: int | None
    test_images: int | None
    default_recipe: str
    is_here: bool


class DatasetList(BaseModel):
    datasets: list[DatasetView]


class RecipeView(BaseModel):
    name: str
    source: str
    fields: dict[str, Any]


class RecipeList(BaseModel):
    recipes: list[RecipeView]


class ClusterView(BaseModel):
    """CPUs and GPUs; null until a dispatcher has seen the cluster."""

    cpus: int | None
    gpus: int | None
    reserved_cpus: int
    reserved_gpus: int
    seen_at: datetime | None


@router.get("/health")
def health(held: Held) -> Health:
    """503 where the database does not answer. The only route without a token."""
    held.database.check()
    return Health(status="ok")


@for_people.get("/datasets")
def list_datasets(held: Held) -> DatasetList:
    """Those known by name, and the image folders under the data path."""
    data_path = held.settings.data
    folders = [
        found
        for path in (sorted(data_path.iterdir()) if data_path.is_dir() else [])
        if (path / "train").is_dir()
        and (found := datasets.find(f"{datasets.FOLDER_PREFIX}{path.name}")) is not None
    ]
    return DatasetList(
        datasets=[
            DatasetView(is_here=_is_here(dataset, held), **_facts(dataset))
            for dataset in [*datasets.DATASETS.values(), *folders]
        ]
    )


@for_people.get("/recipes")
def list_recipes() -> RecipeList:
    """The recipes, with the fields that they have for ResNet-20."""
    return RecipeList(
        recipes=[
            RecipeView(
                name=name,
                source=(recipe.__doc__ or "").strip(),
                fields=recipes.resolve(name, family=Family.CIFAR, depth=20),
            )
            for name, recipe in recipes.RECIPES.items()
        ]
    )


@for_people.get("/cluster")
def cluster(session: Reading) -> ClusterView:
    seen = queue.cluster(session)
    reserved = queue.reserved(session)
    return ClusterView(
        cpus=seen[0].cpus if seen is not None else None,
        gpus=seen[0].gpus if seen is not None else None,
        reserved_cpus=reserved.cpus,
        reserved_gpus=reserved.gpus,
        seen_at=seen[1] if seen is not None else None,
    )


@for_people.get("/queue")
def waiting(
    session: Reading, held: Held, now: Now, limit: Annotated[int, Query(ge=1, le=500)] = 50
) -> QueueView:
    """What waits: jobs that may start in their order, then those that may not yet."""
    outlook = Outlook(session, limits=held.settings.limits, now=now)
    found = [(job, outlook.of(job)) for job in waiting_jobs(session, limit=limit)]
    return QueueView(
        jobs=[
            WaitingJobView(
                job_id=job.id,
                name=job.name,
                state=job.state,
                priority=job.priority,
                waiting=StandingView.model_validate(standing),
            )
            for job, standing in found
        ]
    )


def _facts(dataset: Dataset) -> dict[str, Any]:
    return {name: getattr(dataset, name) for name in DatasetView.model_fields if name != "is_here"}


def _is_here(dataset: Dataset, held: Held) -> bool:
    if dataset.origin is Origin.BUNDLED:
        return True
    folder = dataset.name.removeprefix(datasets.FOLDER_PREFIX)
    return (held.settings.data / folder).is_dir()
