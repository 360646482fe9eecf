"""What the processes in the cluster are told by their environment."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from service.errors import InvalidInput
from service.pools import Shape
from service.reports import Order
from workers.cluster.attempt import AttemptSettings
from workers.reporting.backoff import DELIVERY_SECONDS
from workers.reporting.client import RunnerClient

_SHAPE = re.compile(r"(\d+)x(\d+)cpu(\d+)gpu")


@dataclass(frozen=True)
class RunnerSettings:
    api_url: str
    runner_id: str
    token: str
    shape: Shape
    data_path: Path
    work_path: Path
    delivery_seconds: float = DELIVERY_SECONDS

    @classmethod
    def of_env(cls, env: Mapping[str, str]) -> "RunnerSettings":
        """From what ray_jobs.runner_env wrote."""
        try:
            shape = _SHAPE.fullmatch(env["RESNETD_RUNNER_SHAPE"])
            if shape is None:
                raise InvalidInput("RESNETD_RUNNER_SHAPE is not like 2x1cpu0gpu")
            return cls(
                api_url=env["RESNETD_API_URL"],
                runner_id=env["RESNETD_RUNNER_ID"],
                token=env["RESNETD_RUNNER_TOKEN"],
                shape=Shape(*(int(number) for number in shape.groups())),
                data_path=Path(env["RESNETD_DATA_PATH"]),
                work_path=Path(env["RESNETD_WORK_PATH"]),
                delivery_seconds=float(env.get("RESNETD_DELIVERY_SECONDS", DELIVERY_SECONDS)),
            )
        except KeyError as error:
            raise InvalidInput(f"{error.args[0]} is not set: this is no runner") from error

    def client(self) -> RunnerClient:
        return RunnerClient(api_url=self.api_url, runner_id=self.runner_id, token=self.token)

    def attempt(self, order: Order) -> AttemptSettings:
        return AttemptSettings(
            api_url=self.api_url,
            attempt_id=order.brief.attempt_id,
            token=order.token,
            data_path=self.data_path,
            work_path=self.work_path,
            delivery_seconds=self.delivery_seconds,
        )
