"""A trial as Ray Tune runs it: an actor that trains nothing and follows one job after another.

It holds no CPU. The job that it follows stands in the queue like any other, and is placed when
the service has room for it: so a search never waits for resources that it holds itself.
"""

import os
from typing import Any

from ray import tune

from service.errors import InvalidInput
from service.specs.protocol import NextEvaluationRequest, TrialEvaluation
from workers.reporting.driver_client import DriverClient
from workers.reporting.retry import DELIVERY_SECONDS, retry_until

# Shorter than what proxies cut.
_WAIT_SECONDS = 25.0
# What Ray Tune compares trials by beside the metrics.
TIME_ATTR = "iteration"


class TrialEnded(Exception):
    """The job ended without a measurement, or the search is over."""


class TrialActor(tune.Trainable):  # type: ignore[misc] # Ray has no types for mypy
    """A step is one evaluation of the job. Actors are used again for the next trial."""

    def setup(self, config: dict[str, Any]) -> None:
        self._api = client_from_env()
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Waits for the job's next evaluation. TrialEnded where there will be none."""
        evaluation = self._next()
        self._after = evaluation.iteration
        values = {tune_name(metric): value for metric, value in evaluation.values.items()}
        return values | {TIME_ATTR: evaluation.iteration, "done": evaluation.is_last}

    def cleanup(self) -> None:
        self._api.close()

    def _begin(self, params: dict[str, Any]) -> None:
        self._after = 0
        retry_until(
            lambda: self._api.take(self.trial_id, params), deadline_seconds=DELIVERY_SECONDS
        )

    def _next(self) -> TrialEvaluation:
        question = NextEvaluationRequest(
            tune_id=self.trial_id, after_iteration=self._after, wait_seconds=_WAIT_SECONDS
        )
        while True:
            answer = retry_until(
                lambda: self._api.next(question), deadline_seconds=DELIVERY_SECONDS
            )
            if answer.should_exit:
                raise TrialEnded("the search is over")
            if answer.failure is not None:
                raise TrialEnded(answer.failure)
            if answer.evaluation is not None:
                return answer.evaluation


def client_from_env() -> DriverClient:
    """From what ray_jobs.driver_env wrote; Ray gives a driver's environment to its actors."""
    try:
        return DriverClient(
            api_url=os.environ["RESNETD_API_URL"],
            driver_id=os.environ["RESNETD_DRIVER_ID"],
            token=os.environ["RESNETD_DRIVER_TOKEN"],
        )
    except KeyError as error:
        raise InvalidInput(f"{error.args[0]} is not set: this is no driver") from error


def tune_name(metric: str) -> str:
    """Ray Tune takes a slash for a step into a dictionary."""
    return metric.replace("/", "_")
