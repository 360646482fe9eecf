"""Quotas: how much of the cluster and of the queue a person, a group or a tag may have."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from service.resources import ResourceHours

QuotaKey = Annotated[
    str,
    Field(
        max_length=126,
        pattern=r"^(user|group|tag):[^\x00-\x1f\x7f-\x9f]+$",
        examples=["user:ann", "user:*", "group:cs101", "group:*", "tag:nightly", "tag:*"],
    ),
]
_Hours = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
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
    core_hours: Annotated[
        _Hours | None, Field(description="in the last seven days, with what runs")
    ] = None
    gpu_hours: Annotated[
        _Hours | None, Field(description="in the last seven days, with what runs")
    ] = None
    stored_bytes: Annotated[
        int | None, Field(ge=0, lt=2**53, description="of checkpoints and uploaded datasets")
    ] = None


def find_quota(quotas: Mapping[str, Quota], key: str) -> Quota | None:
    """`user:ann`, or else `user:*`."""
    return quotas.get(key) or quotas.get(f"{key.partition(':')[0]}:*")


def list_keys(user: str, group: str | None, tags: tuple[str, ...]) -> list[str]:
    """Of the quotas that concern a job; `group`: of its owner."""
    groups = [] if group is None else [f"group:{group}"]
    return [f"user:{user}", *groups, *(f"tag:{tag}" for tag in tags)]


@dataclass(frozen=True)
class ExceededQuota:
    """`key`: user:NAME, group:NAME or tag:NAME; `kind`: the name of a limit."""

    key: str
    kind: str
    used: float
    limit: float


def list_limited_in_hours(quotas: Mapping[str, Quota], keys: Iterable[str]) -> list[str]:
    """Those of the keys that have a quota of core-hours or GPU-hours."""
    found = ((key, find_quota(quotas, key)) for key in dict.fromkeys(keys))
    return [
        key
        for key, quota in found
        if quota is not None and (quota.core_hours is not None or quota.gpu_hours is not None)
    ]


def find_storage_limits(quotas: Mapping[str, Quota], keys: Iterable[str]) -> dict[str, int]:
    """Bytes, by those of the keys that have a quota of stored bytes."""
    found = ((key, find_quota(quotas, key)) for key in keys)
    return {
        key: quota.stored_bytes
        for key, quota in found
        if quota is not None and quota.stored_bytes is not None
    }


def find_full(
    quotas: Mapping[str, Quota], keys: Iterable[str], stored: Mapping[str, int]
) -> ExceededQuota | None:
    """The first quota of stored bytes of which nothing is left."""
    for key, limit in find_storage_limits(quotas, keys).items():
        if stored.get(key, 0) >= limit:
            return ExceededQuota(key, "stored_bytes", stored.get(key, 0), limit)
    return None


def find_used_up(
    quotas: Mapping[str, Quota],
    keys: Iterable[str],
    used: Mapping[str, ResourceHours],
    *,
    uses_gpus: bool,
) -> ExceededQuota | None:
    """The first quota of hours of which nothing is left. GPU-hours concern jobs with GPUs only."""
    for key in keys:
        quota = find_quota(quotas, key)
        if quota is None:
            continue
        spent = used.get(key, ResourceHours())
        if quota.core_hours is not None and spent.core_hours >= quota.core_hours:
            return ExceededQuota(key, "core_hours", spent.core_hours, quota.core_hours)
        if uses_gpus and quota.gpu_hours is not None and spent.gpu_hours >= quota.gpu_hours:
            return ExceededQuota(key, "gpu_hours", spent.gpu_hours, quota.gpu_hours)
    return None
