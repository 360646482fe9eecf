"""Health, the cluster, and the recipes that can be asked for."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel

from api.dependencies import Now, ReadSession, ServicesDep, authenticate_user
from api.views import QueueStatusView, QueueView, RunnerList, RunnerView, WaitingJobView
from service.catalog import recipes
from service.catalog.architectures import Family
from service.execution import runners
from service.scheduling import cluster_state
from service.scheduling.queue_status import QueueStatus, list_waiting_jobs

router = APIRouter(prefix="/v1", tags=["system"])
authenticated_router = APIRouter(
    prefix="/v1", tags=["system"], dependencies=[Depends(authenticate_user)]
)


class Health(BaseModel):
    status: str


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
    reserved_gpus: float
    seen_at: datetime | None


@router.get("/health")
def health(held: ServicesDep) -> Health:
    """503 where the database does not answer. The only route without a token."""
    held.database.check()
    return Health(status="ok")


@authenticated_router.get("/recipes")
def list_recipes() -> RecipeList:
    """The recipes, with the fields that they have for ResNet-20."""
    return RecipeList(
        recipes=[
            RecipeView(
                name=name,
                source=(recipe.__doc__ or "").strip(),
                fields=recipes.full_recipe(name, family=Family.CIFAR, depth=20),
            )
            for name, recipe in recipes.RECIPES.items()
        ]
    )


@authenticated_router.get("/cluster")
def cluster(session: ReadSession) -> ClusterView:
    seen = cluster_state.read_cluster(session)
    reserved = cluster_state.sum_reserved(session)
    return ClusterView(
        cpus=seen[0].cpus if seen is not None else None,
        gpus=seen[0].gpus if seen is not None else None,
        reserved_cpus=reserved.cpus,
        reserved_gpus=reserved.gpus,
        seen_at=seen[1] if seen is not None else None,
    )


@authenticated_router.get("/runners")
def list_runners(session: ReadSession) -> RunnerList:
    """What is up in the cluster or about to be, oldest first."""
    return RunnerList(runners=[RunnerView.of(one) for one in runners.list_all(session)])


@authenticated_router.get("/queue")
def waiting(
    session: ReadSession,
    held: ServicesDep,
    now: Now,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> QueueView:
    """What waits: jobs that may start in their order, then those that may not yet."""
    outlook = QueueStatus(session, limits=held.settings.concurrency_limits, now=now)
    found = [(job, outlook.of(job)) for job in list_waiting_jobs(session, limit=limit)]
    return QueueView(
        jobs=[
            WaitingJobView(
                job_id=job.id,
                name=job.name,
                state=job.state,
                priority=job.priority,
                waiting=QueueStatusView.model_validate(standing),
            )
            for job, standing in found
        ]
    )
