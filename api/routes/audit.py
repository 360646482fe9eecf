"""The audit log, for admins."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query

from api.dependencies import ReadSession, authorize
from api.queries import FilterText
from api.views import View
from service.access import audit
from service.states import AuditKind

router = APIRouter(prefix="/v1/audit", tags=["people"], dependencies=[Depends(authorize)])


class AuditEntryView(View):
    """`user` did it; null: no person. `subject`: the name of a person, or the id of the rest."""

    id: str
    at: datetime
    kind: AuditKind
    user: str | None
    subject: str
    data: dict[str, Any]


class AuditPage(View):
    entries: list[AuditEntryView]
    next_page_token: str | None


@router.get("")
def list_audit_entries(
    session: ReadSession,
    kind: Annotated[list[AuditKind] | None, Query()] = None,
    user: Annotated[FilterText | None, Query(description="who did it")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
    page_token: Annotated[str | None, Query(description="`next_page_token` of a page")] = None,
) -> AuditPage:
    """Sign-ins, also failed ones, changes of people and tokens, and deletions; newest first."""
    page = audit.list_page(session, kinds=kind or (), user=user, limit=limit, token=page_token)
    return AuditPage(
        entries=[AuditEntryView.model_validate(row) for row in page.rows],
        next_page_token=page.next_token,
    )
