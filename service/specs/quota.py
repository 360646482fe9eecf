"""Quotas: how much of the cluster and of the queue a person, a group or a tag may have."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

QuotaKey = Annotated[
    str,
    Field(
        max_length=126,
        pattern=r"^(user|group|tag):[^\x00-\x1f\x7f-\x9f]+$",
        examples=["user:ann", "user:*", "group:cs101", "group:*", "tag:nightly", "tag:*"],
    ),
]
_Count = Annotated[int, Field(ge=0, lt=2**31)]


class Quota(BaseModel):
    """Null: no limit. What runs counts until its resources are free."""

    model_config = ConfigDict(frozen=True, extra="forbid", from_attributes=True)

    jobs: Annotated[_Count | None, Field(description="running")] = None
    workers: Annotated[_Count | None, Field(description="of running jobs")] = None
    gpus: Annotated[
        float | None, Field(ge=0, le=1e6, allow_inf_nan=False, description="of running jobs")
    ] = None
    waiting: Annotated[
        _Count | None, Field(description="jobs in the queue, held and paused ones included")
    ] = None


def find_quota(quotas: dict[str, Quota], key: str) -> Quota | None:
    """`user:ann`, or else `user:*`."""
    return quotas.get(key) or quotas.get(f"{key.partition(':')[0]}:*")


def list_keys(user: str, group: str | None, tags: tuple[str, ...]) -> list[str]:
    """Of the quotas that concern a job; `group`: of its owner."""
    groups = [] if group is None else [f"group:{group}"]
    return [f"user:{user}", *groups, *(f"tag:{tag}" for tag in tags)]
