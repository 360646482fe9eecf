"""Settings of the processes in the cluster, from their environment variables."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from service.errors import InvalidInput
from service.resources import WorkerGroup
from service.specs.protocol import AttemptAssignment
from workers.reporting.api_client import AttemptClient, RunnerClient
from workers.reporting.retry import DELIVERY_SECONDS

_WORKER_GROUP = re.compile(r"(\d+)x(\d+)cpu(\d(?:\.\d+)?)gpu")


@dataclass(frozen=True)
class AttemptSettings:
    api_url: str
    attempt_id: str
    token: str
    data_dir: Path
    work_dir: Path
    delivery_seconds: float = DELIVERY_SECONDS
    log_format: str = "console"

    @property
    def attempt_path(self) -> Path:
        """The directory of this attempt on this node."""
        return self.work_dir / "attempts" / self.attempt_id

    @property
    def checkpoints_path(self) -> Path:
        """Where training writes checkpoints; the outbox uploads and deletes them."""
        return self.attempt_path / "checkpoints"

    def client(self) -> AttemptClient:
        return AttemptClient(api_url=self.api_url, attempt_id=self.attempt_id, token=self.token)


@dataclass(frozen=True)
class RunnerSettings:
    """`is_on_one_node`: the cluster has one node, so all ranks run on the driver's node."""

    api_url: str
    runner_id: str
    token: str
    worker_group: WorkerGroup
    data_dir: Path
    work_dir: Path
    is_on_one_node: bool = False
    delivery_seconds: float = DELIVERY_SECONDS
    log_format: str = "console"

    @classmethod
    def of_env(cls, env: Mapping[str, str]) -> "RunnerSettings":
        """Reads the variables of ray_jobs.runner_env."""
        try:
            match = _WORKER_GROUP.fullmatch(env["RESNETD_RUNNER_WORKER_GROUP"])
            if match is None:
                raise InvalidInput("RESNETD_RUNNER_WORKER_GROUP must look like 2x1cpu0gpu")
            num_workers, cpus, gpus = match.groups()
            return cls(
                api_url=env["RESNETD_API_URL"],
                runner_id=env["RESNETD_RUNNER_ID"],
                token=env["RESNETD_RUNNER_TOKEN"],
                worker_group=WorkerGroup(int(num_workers), int(cpus), float(gpus)),
                data_dir=Path(env["RESNETD_DATA_DIR"]),
                work_dir=Path(env["RESNETD_WORK_DIR"]),
                is_on_one_node=env.get("RESNETD_RUNNER_NODES") == "1",
                delivery_seconds=float(env.get("RESNETD_DELIVERY_SECONDS", DELIVERY_SECONDS)),
                log_format=env.get("RESNETD_LOG_FORMAT", "console"),
            )
        except KeyError as error:
            raise InvalidInput(
                f"{error.args[0]} is not set; runners are started by the dispatcher"
            ) from error

    def client(self) -> RunnerClient:
        return RunnerClient(api_url=self.api_url, runner_id=self.runner_id, token=self.token)

    def attempt_settings(self, assignment: AttemptAssignment) -> AttemptSettings:
        return AttemptSettings(
            api_url=self.api_url,
            attempt_id=assignment.config.attempt_id,
            token=assignment.token,
            data_dir=self.data_dir,
            work_dir=self.work_dir,
            delivery_seconds=self.delivery_seconds,
            log_format=self.log_format,
        )
