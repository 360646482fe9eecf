"""Responses about deliveries of webhooks and alerts."""

from datetime import datetime
from typing import Any

from api.views import View
from service.states import DeliveryState


class DeliveryView(View):
    """`status`: of the last response, by HTTP or SMTP; `error`: why there was none."""

    id: str
    payload: dict[str, Any]
    state: DeliveryState
    tries: int
    next_try_at: datetime
    status: int | None
    error: str | None
    created_at: datetime
    delivered_at: datetime | None


class DeliveryList(View):
    deliveries: list[DeliveryView]
