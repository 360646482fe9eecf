"""The API for the driver of a search: configuration, trials, evaluations, end."""

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
    """Each call raises Unauthorized if the driver has ended, otherwise as AttemptClient does."""

    def __init__(self, *, api_url: str, driver_id: str, token: str) -> None:
        super().__init__(f"{api_url}/v1/drivers/{driver_id}", token=token)

    def fetch_config(self) -> SearchDriverConfig:
        """Raises Conflict if the search is over or paused."""
        return self._post(SearchDriverConfig, "/begin")

    def propose_trial(self, tune_id: str, params: dict[str, Any]) -> AssignedTrial:
        """The trial with these parameters, new or known. Conflict if the budget is used up."""
        return self._post(AssignedTrial, "/trials", TrialProposal(tune_id=tune_id, params=params))

    def next_evaluation(self, request: NextEvaluationRequest) -> NextEvaluationResponse:
        """Waits up to `request.wait_seconds`."""
        return self._post(
            NextEvaluationResponse, "/trials/next", request, seconds=request.wait_seconds
        )

    def stop_trial(self, tune_id: str, *, iteration: int) -> None:
        self._post(
            DriverResponse, "/trials/stop", StopTrialRequest(tune_id=tune_id, iteration=iteration)
        )

    def send_heartbeat(self, *, wait_seconds: float) -> bool:
        """Whether the driver must exit. Waits up to `wait_seconds` for that."""
        request = HeartbeatRequest(wait_seconds=wait_seconds)
        response = self._post(DriverResponse, "/heartbeat", request, seconds=wait_seconds)
        return response.should_exit

    def finish(self, message: str) -> None:
        self._post(DriverResponse, "/finish", FinishSearchRequest(message=message))
