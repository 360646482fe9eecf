"""Health, the cluster, its runners, the queue, and the list of recipes."""

import inspect
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field

from api.client_versions import API_VERSION, VERSION
from api.dependencies import Now, ReadSession, ServicesDep, authorize
from api.views import QueueStatusView, QueueView, RunnerList, RunnerView, WaitingJobView
from service.catalog import recipes
from service.catalog.architectures import Family
from service.execution import runners
from service.scheduling import cluster_state
from service.scheduling.queue_status import QueueStatus, list_waiting_jobs

router = APIRouter(prefix="/v1", tags=["system"])
authenticated_router = APIRouter(prefix="/v1", tags=["system"], dependencies=[Depends(authorize)])


class Health(BaseModel):
    status: str
    version: Annotated[str, Field(description="of the server")]
    api_version: Annotated[str, Field(description="of the routes below /v1")]


class RecipeView(BaseModel):
    name: str
    source: str
    fields: dict[str, Any]


class RecipeList(BaseModel):
    recipes: list[RecipeView]


class NodeView(BaseModel):
    cpus: int
    gpus: int


class ClusterView(BaseModel):
    """CPUs and GPUs in total, and what attempts occupy; null until a dispatcher saw it.

    `nodes`: the smallest first, also where the settings allow less than they have in total.
    """

    cpus: int | None
    gpus: int | None
    reserved_cpus: int
    reserved_gpus: float
    nodes: list[NodeView]
    seen_at: datetime | None


@router.get("/health")
def check_health(services: ServicesDep) -> Health:
    """503 where the database does not answer or is read-only, and while this process stops.

    The only route without a token.
    """
    services.changes.require_open()
    services.database.check()
    return Health(status="ok", version=VERSION, api_version=API_VERSION)


@authenticated_router.get("/recipes")
def list_recipes() -> RecipeList:
    """All recipes, with the fields that they have for ResNet-20."""
    return RecipeList(
        recipes=[
            RecipeView(
                name=name,
                source=inspect.cleandoc(recipe.__doc__ or ""),
                fields=recipes.build_recipe(name, family=Family.CIFAR, depth=20).model_dump(),
            )
            for name, recipe in recipes.RECIPES.items()
        ]
    )


@authenticated_router.get("/cluster")
def get_cluster(session: ReadSession) -> ClusterView:
    """CPUs and GPUs of the cluster, in total, by node and reserved."""
    found = cluster_state.find_cluster(session)
    reserved = cluster_state.sum_reserved(session)
    return ClusterView(
        cpus=found.capacity.cpus if found is not None else None,
        gpus=int(found.capacity.gpus) if found is not None else None,
        reserved_cpus=reserved.cpus,
        reserved_gpus=reserved.gpus,
        nodes=[
            NodeView(cpus=node.cpus, gpus=int(node.gpus))
            for node in (found.nodes if found is not None else ())
        ],
        seen_at=found.seen_at if found is not None else None,
    )


@authenticated_router.get("/runners")
def list_runners(session: ReadSession) -> RunnerList:
    """All runners that have not terminated, oldest first."""
    rows = runners.list_runners(session)
    visible = runners.find_visible_attempts(session, rows)
    return RunnerList(runners=[RunnerView.of(row, visible=visible) for row in rows])


@authenticated_router.get("/queue")
def get_queue(
    session: ReadSession,
    services: ServicesDep,
    now: Now,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> QueueView:
    """Waiting jobs: queued ones in their order, then blocked, held and paused ones."""
    queue_status = QueueStatus(session, data_dir=services.settings.data_dir, now=now)
    found = [(job, queue_status.explain(job)) for job in list_waiting_jobs(session, limit=limit)]
    return QueueView(
        jobs=[
            WaitingJobView(
                job_id=job.id,
                name=job.name,
                state=job.state,
                priority=job.priority,
                waiting=QueueStatusView.model_validate(status),
            )
            for job, status in found
        ]
    )
