"""What Prometheus scrapes."""

from typing import Any

from fastapi import APIRouter, Depends, Response

from api import monitoring
from api.dependencies import Now, ReadSession, ServicesDep, authorize

router = APIRouter(tags=["system"], dependencies=[Depends(authorize)])

_TEXT: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {}}}}


@router.get("/metrics", response_class=Response, responses=_TEXT)
def scrape(session: ReadSession, services: ServicesDep, now: Now) -> Response:
    """The state of the service and of this process in Prometheus' text format."""
    body = services.monitor.render(session, now=now)
    return Response(body, media_type=monitoring.MEDIA_TYPE)
