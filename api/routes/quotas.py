"""Quotas of people, groups and tags."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Path
from pydantic import BaseModel

from api import problems
from api.dependencies import Caller, Now, ReadSession, ServicesDep, WriteSession, authorize
from service.access import audit, people, quotas
from service.access.policy import make_visibility
from service.errors import NotFound
from service.specs.quota import Quota, QuotaKey
from service.states import AuditKind

router = APIRouter(prefix="/v1/quotas", tags=["people"], dependencies=[Depends(authorize)])

Key = Annotated[
    QuotaKey,
    Path(
        description="`user:NAME`, `group:NAME` or `tag:TAG`; `user:*`, `group:*`, `tag:*`: "
        "each that has no own"
    ),
]


class QuotaView(Quota):
    key: str


class QuotaList(BaseModel):
    quotas: list[QuotaView]


@router.get("")
def list_quotas(session: ReadSession, caller: Caller, services: ServicesDep) -> QuotaList:
    """Quotas by key; for members who see only what is theirs, without those of other people."""
    found = quotas.read_quotas(session)
    seen = make_visibility(caller, services.settings.members_see).user
    if seen is not None:
        named = {f"user:{seen}", f"group:{people.find_group(session, seen)}"}
        found = {key: quota for key, quota in found.items() if _is_general(key) or key in named}
    return QuotaList(
        quotas=[QuotaView(key=key, **quota.model_dump()) for key, quota in found.items()]
    )


@router.put("/{key}")
def set_quota(key: Key, quota: Quota, session: WriteSession, now: Now) -> QuotaView:
    """Sets all limits of a quota, from the next submission and the next claim on."""
    quotas.set_quota(session, key, quota)
    audit.record(session, AuditKind.QUOTA_SET, key[:120], now=now, **quota.model_dump())
    return QuotaView(key=key, **quota.model_dump())


@router.delete("/{key}", status_code=HTTPStatus.NO_CONTENT, responses=problems.responses(NotFound))
def delete_quota(key: Key, session: WriteSession, now: Now) -> None:
    """Removes the limits."""
    quotas.delete_quota(session, key)
    audit.record(session, AuditKind.QUOTA_DELETED, key[:120], now=now)


def _is_general(key: str) -> bool:
    """Of tags, or of each person or group that has no own."""
    return key.startswith("tag:") or key.endswith(":*")
