"""The API as a search's driver sees it: its brief, its trials, their evaluations."""

from typing import Any

from service.specs.protocol import (
    AssignedTrial,
    DriverResponse,
    FinishSearchRequest,
    HeartbeatRequest,
    NextEvaluationRequest,
    NextEvaluationResponse,
    SearchDriverConfig,
    StopTrialRequest,
    TrialProposal,
)
from workers.reporting.api_client import LongPollClient


class DriverClient(LongPollClient):
    """Unauthorized from each call: the driver is over."""

    def __init__(self, *, api_url: str, driver_id: str, token: str) -> None:
        super().__init__(f"{api_url}/v1/drivers/{driver_id}", token=token)

    def brief(self) -> SearchDriverConfig:
        """Conflict where the search is over by now, or paused."""
        return self._ask(SearchDriverConfig, "/begin")

    def take(self, tune_id: str, params: dict[str, Any]) -> AssignedTrial:
        """The trial with these parameters, new or known. Conflict where there are enough."""
        return self._ask(AssignedTrial, "/trials", TrialProposal(tune_id=tune_id, params=params))

    def next(self, question: NextEvaluationRequest) -> NextEvaluationResponse:
        """Waits as long as the question says."""
        return self._ask(
            NextEvaluationResponse, "/trials/next", question, seconds=question.wait_seconds
        )

    def stop(self, tune_id: str, *, iteration: int) -> None:
        decision = StopTrialRequest(tune_id=tune_id, iteration=iteration)
        self._ask(DriverResponse, "/trials/stop", decision)

    def is_over(self, *, wait_seconds: float) -> bool:
        """The heartbeat. Waits so long, or until the driver is to leave."""
        heartbeat = HeartbeatRequest(wait_seconds=wait_seconds)
        return self._ask(DriverResponse, "/heartbeat", heartbeat, seconds=wait_seconds).should_exit

    def finish(self, message: str) -> None:
        self._ask(DriverResponse, "/finish", FinishSearchRequest(message=message))
