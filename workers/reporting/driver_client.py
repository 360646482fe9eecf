"""The API as a search's driver sees it: its brief, its trials, their evaluations."""

from typing import Any

from service.search_reports import (
    Dismissal,
    Draft,
    FollowedTrial,
    Heartbeat,
    SearchBrief,
    SearchFinish,
    TrialAnswer,
    TrialQuestion,
    TrialStop,
)
from workers.reporting.client import Asking


class DriverClient(Asking):
    """Unauthorized from each call: the driver is over."""

    def __init__(self, *, api_url: str, driver_id: str, token: str) -> None:
        super().__init__(f"{api_url}/v1/drivers/{driver_id}", token=token)

    def brief(self) -> SearchBrief:
        """Conflict where the search is over by now, or paused."""
        return self._ask(SearchBrief, "/begin")

    def take(self, tune_id: str, params: dict[str, Any]) -> FollowedTrial:
        """The trial with these parameters, new or known. Conflict where there are enough."""
        return self._ask(FollowedTrial, "/trials", Draft(tune_id=tune_id, params=params))

    def next(self, question: TrialQuestion) -> TrialAnswer:
        """Waits as long as the question says."""
        return self._ask(TrialAnswer, "/trials/next", question, seconds=question.wait_seconds)

    def stop(self, tune_id: str, *, iteration: int) -> None:
        decision = TrialStop(tune_id=tune_id, iteration=iteration)
        self._ask(Dismissal, "/trials/stop", decision)

    def is_over(self, *, wait_seconds: float) -> bool:
        """The heartbeat. Waits so long, or until the driver is to leave."""
        heartbeat = Heartbeat(wait_seconds=wait_seconds)
        return self._ask(Dismissal, "/heartbeat", heartbeat, seconds=wait_seconds).is_over

    def finish(self, message: str) -> None:
        self._ask(Dismissal, "/finish", SearchFinish(message=message))
