"""A trial for Ray Tune: an actor that trains nothing and follows one job after another.

It reserves no CPU. Its job waits in the queue as any other and starts when the service has free
resources, so that a search never waits for resources that it holds itself.
"""

import os
from typing import Any

from ray import tune

from service.errors import InvalidInput
from service.specs.protocol import NextEvaluationRequest, TrialEvaluation
from workers.reporting.driver_client import DriverClient
from workers.reporting.retry import DELIVERY_SECONDS, retry_until

# Proxies close a connection that is silent for longer, usually after 60 s.
_WAIT_SECONDS = 25.0
# The time axis by which schedulers compare trials.
TIME_ATTR = "iteration"


class TrialEnded(Exception):
    """The job ended without a result, or the search is over."""


class TrialActor(tune.Trainable):  # type: ignore[misc] # Ray has no types for mypy
    """A step is one evaluation of the job. Actors are reused for later trials."""

    def setup(self, config: dict[str, Any]) -> None:
        self._api = client_from_env()
        self._start_trial(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._start_trial(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Waits for the job's next evaluation. Raises TrialEnded if there is none."""
        evaluation = self._wait_for_evaluation()
        self._last_iteration = evaluation.iteration
        values = {tune_name(metric): value for metric, value in evaluation.values.items()}
        return values | {TIME_ATTR: evaluation.iteration, "done": evaluation.is_last}

    def cleanup(self) -> None:
        self._api.close()

    def _start_trial(self, params: dict[str, Any]) -> None:
        self._last_iteration = 0
        retry_until(
            lambda: self._api.propose_trial(self.trial_id, params),
            deadline_seconds=DELIVERY_SECONDS,
        )

    def _wait_for_evaluation(self) -> TrialEvaluation:
        request = NextEvaluationRequest(
            tune_id=self.trial_id, after_iteration=self._last_iteration, wait_seconds=_WAIT_SECONDS
        )
        while True:
            response = retry_until(
                lambda: self._api.next_evaluation(request), deadline_seconds=DELIVERY_SECONDS
            )
            if response.should_exit:
                raise TrialEnded("the search is over")
            if response.failure is not None:
                raise TrialEnded(response.failure)
            if response.evaluation is not None:
                return response.evaluation


def client_from_env() -> DriverClient:
    """Reads the variables of ray_jobs.driver_env; actors inherit them from the driver."""
    try:
        return DriverClient(
            api_url=os.environ["RESNETD_API_URL"],
            driver_id=os.environ["RESNETD_DRIVER_ID"],
            token=os.environ["RESNETD_DRIVER_TOKEN"],
        )
    except KeyError as error:
        raise InvalidInput(
            f"{error.args[0]} is not set; drivers are started by the dispatcher"
        ) from error


def tune_name(metric: str) -> str:
    """Ray Tune reads a slash as the path into a nested dictionary."""
    return metric.replace("/", "_")
