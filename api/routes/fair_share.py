"""Fair share: its settings, and who has used how much."""

from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field

from api.dependencies import Caller, Now, ReadSession, ServicesDep, WriteSession, authorize
from service.access import audit, people, usage
from service.access.policy import make_visibility
from service.jobs import queue_order
from service.resources import ResourceBundle
from service.scheduling import cluster_state, fair_share
from service.specs.fair_share import FairShare
from service.states import AuditKind

router = APIRouter(prefix="/v1/fair-share", tags=["people"], dependencies=[Depends(authorize)])


class UsageView(BaseModel):
    """Of a person or group; hours decay with the half-life, and include what runs."""

    key: Annotated[str, Field(description="`user:NAME` or `group:NAME`")]
    core_hours: float
    gpu_hours: float
    relative: Annotated[
        float, Field(description="to the most of any person, or group, from 0 to 1")
    ]
    points: Annotated[
        int | None, Field(description="of priority that the person's jobs lose; null for groups")
    ]


class FairShareView(FairShare):
    usage: Annotated[list[UsageView], Field(description="what the caller may see, most first")]


@router.get("")
def get_fair_share(
    session: ReadSession, caller: Caller, services: ServicesDep, now: Now
) -> FairShareView:
    """The settings, and what people and groups have used."""
    cluster = cluster_state.find_cluster(session)
    capacity = cluster.capacity if cluster is not None else ResourceBundle(cpus=0, gpus=0)
    uses = fair_share.read_use(session, capacity, now=now)
    points = {f"user:{user}": found for user, found in queue_order.read_points(session).items()}
    seen = make_visibility(caller, services.settings.members_see).user
    if seen is not None:
        own = {f"user:{seen}", f"group:{people.find_group(session, seen)}"}
        uses = {key: use for key, use in uses.items() if key in own}
    return FairShareView(
        **usage.read_fair_share(session).model_dump(),
        usage=[
            UsageView(
                key=key,
                core_hours=found.used.core_hours,
                gpu_hours=found.used.gpu_hours,
                relative=found.relative,
                points=points.get(key, 0) if key.startswith("user:") else None,
            )
            for key, found in sorted(uses.items(), key=lambda item: (-item[1].relative, item[0]))
        ],
    )


@router.put("")
def set_fair_share(settings: FairShare, session: WriteSession, now: Now) -> FairShare:
    """Changes the settings, and the order of the queue at once."""
    fair_share.set_fair_share(session, settings, now=now)
    audit.record(session, AuditKind.FAIR_SHARE_SET, "fair-share", now=now, **settings.model_dump())
    return settings
