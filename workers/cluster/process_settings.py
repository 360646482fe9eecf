"""What the processes in the cluster are told by their environment."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from service.errors import InvalidInput
from service.resources import WorkerGroup
from service.specs.protocol import AttemptAssignment
from workers.reporting.api_client import ApiClient, RunnerClient
from workers.reporting.retry import DELIVERY_SECONDS

_SHAPE = re.compile(r"(\d+)x(\d+)cpu(\d(?:\.\d+)?)gpu")


@dataclass(frozen=True)
class AttemptSettings:
    api_url: str
    attempt_id: str
    token: str
    data_path: Path
    work_path: Path
    delivery_seconds: float = DELIVERY_SECONDS

    @classmethod
    def of_json(cls, fields: dict[str, Any]) -> "AttemptSettings":
        paths = {name: Path(fields[name]) for name in ("data_path", "work_path")}
        return cls(**fields | paths)

    def to_json(self) -> dict[str, Any]:
        paths = {"data_path": str(self.data_path), "work_path": str(self.work_path)}
        return asdict(self) | paths

    @property
    def attempt_path(self) -> Path:
        """This attempt's own folder on this node."""
        return self.work_path / "attempts" / self.attempt_id

    @property
    def checkpoints_path(self) -> Path:
        """Where its checkpoints are written; they are moved on from there."""
        return self.attempt_path / "checkpoints"

    def client(self) -> ApiClient:
        return ApiClient(api_url=self.api_url, attempt_id=self.attempt_id, token=self.token)


@dataclass(frozen=True)
class RunnerSettings:
    """`is_on_one_node`: the cluster has no other than the one where the runner's driver is."""

    api_url: str
    runner_id: str
    token: str
    shape: WorkerGroup
    data_path: Path
    work_path: Path
    is_on_one_node: bool = False
    delivery_seconds: float = DELIVERY_SECONDS

    @classmethod
    def of_env(cls, env: Mapping[str, str]) -> "RunnerSettings":
        """From what ray_jobs.runner_env wrote."""
        try:
            shape = _SHAPE.fullmatch(env["RESNETD_RUNNER_SHAPE"])
            if shape is None:
                raise InvalidInput("RESNETD_RUNNER_SHAPE is not like 2x1cpu0gpu")
            num_workers, cpus, gpus = shape.groups()
            return cls(
                api_url=env["RESNETD_API_URL"],
                runner_id=env["RESNETD_RUNNER_ID"],
                token=env["RESNETD_RUNNER_TOKEN"],
                shape=WorkerGroup(int(num_workers), int(cpus), float(gpus)),
                data_path=Path(env["RESNETD_DATA_DIR"]),
                work_path=Path(env["RESNETD_WORK_DIR"]),
                is_on_one_node=env.get("RESNETD_RUNNER_NODES") == "1",
                delivery_seconds=float(env.get("RESNETD_DELIVERY_SECONDS", DELIVERY_SECONDS)),
            )
        except KeyError as error:
            raise InvalidInput(f"{error.args[0]} is not set: this is no runner") from error

    def client(self) -> RunnerClient:
        return RunnerClient(api_url=self.api_url, runner_id=self.runner_id, token=self.token)

    def attempt(self, order: AttemptAssignment) -> AttemptSettings:
        return AttemptSettings(
            api_url=self.api_url,
            attempt_id=order.config.attempt_id,
            token=order.token,
            data_path=self.data_path,
            work_path=self.work_path,
            delivery_seconds=self.delivery_seconds,
        )
