"""A client of Ray's job API over plain HTTP: the dispatcher does not import Ray.

    POST   /api/jobs/            DELETE /api/jobs/{id}        GET /api/jobs/{id}/logs
    GET    /api/jobs/{id}        POST   /api/jobs/{id}/stop   GET /api/v0/nodes

The driver of a Ray job runs on the head node and reserves no CPU (entrypoint_num_cpus 0), so a
head with `--num-cpus=0` runs drivers and no training. Stopping a pending Ray job leaves no
placement group behind; killing a run that waits for resources in an actor does.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

import httpx

from service.errors import ClusterUnavailable
from service.resources import WorkerGroup
from service.settings import Settings

# The first request makes Ray's job agent connect to the cluster: 4 s on two cores.
_TIMEOUT = httpx.Timeout(30.0, connect=5.0)
_MAX_LOG_BYTES = 16 * 2**20
# From when a node is cut off until the attempts on it have failed.
LOST_NODE_SECONDS = 15.0

_RAY_ENV = {
    # On SIGINT, Train and Tune shut their workers down, in 2 s; SIGTERM ends the driver only.
    "RAY_JOB_STOP_SIGNAL": "SIGINT",
    "RAY_JOB_STOP_WAIT_TIME_S": "10",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


class ClusterJobState(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    STOPPED = "stopped"
    SUCCEEDED = "succeeded"
    FAILED = "failed"

    @property
    def is_final(self) -> bool:
        return self not in (ClusterJobState.PENDING, ClusterJobState.RUNNING)


@dataclass(frozen=True)
class ClusterJob:
    """`message`: Ray's own; of a failed job, why, with the end of its log."""

    submission_id: str
    state: ClusterJobState
    message: str
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class NodeResources:
    node_id: str
    num_cpus: int
    num_gpus: int


@dataclass(frozen=True)
class ClusterResources:
    """What the living nodes have in total, reserved or not."""

    nodes: tuple[NodeResources, ...]

    @property
    def num_cpus(self) -> int:
        return sum(node.num_cpus for node in self.nodes)

    @property
    def num_gpus(self) -> int:
        return sum(node.num_gpus for node in self.nodes)


def runner_env(
    *,
    api_url: str,
    runner_id: str,
    worker_group: WorkerGroup,
    token: str,
    data_dir: Path,
    work_dir: Path,
    num_nodes: int,
    log_format: str,
) -> dict[str, str]:
    """The environment of a runner's Ray job: what RunnerSettings reads, and variables of Ray.

    Everyone who may list the cluster's jobs can read it: the token is valid for this runner only.
    """
    return _RAY_ENV | {
        "RESNETD_API_URL": api_url,
        "RESNETD_RUNNER_ID": runner_id,
        "RESNETD_RUNNER_TOKEN": token,
        "RESNETD_RUNNER_WORKER_GROUP": (
            f"{worker_group.num_workers}x{worker_group.cpus_per_worker}cpu"
            f"{worker_group.gpus_per_worker:g}gpu"
        ),
        "RESNETD_DATA_DIR": str(data_dir),
        "RESNETD_WORK_DIR": str(work_dir),
        "RESNETD_RUNNER_NODES": str(num_nodes),
        "RESNETD_LOG_FORMAT": log_format,
        # How soon the end of a worker is noticed; the default is 2 s. A check takes 3 ms of CPU.
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
        # How long a rank's Ray process may not answer: its machine is cut off. Ray itself takes a
        # minute to notice that, and the other ranks wait in gloo for ten.
        "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": f"{LOST_NODE_SECONDS:g}",
        # Of the group that has lost a rank: it waits for that one in vain.
        "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "5",
        # Saves a process per runner: an attempt on a preempted node is retried by the service.
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
        "RAY_TRAIN_METRICS_ENABLED": "0",
        # With it, every line of a rank's log is printed twice.
        "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    }


def driver_env(
    *, api_url: str, driver_id: str, token: str, work_dir: Path, log_format: str
) -> dict[str, str]:
    """The environment of a driver's Ray job: what search_driver reads, and variables of Ray."""
    return _RAY_ENV | {
        "RESNETD_API_URL": api_url,
        "RESNETD_DRIVER_ID": driver_id,
        "RESNETD_DRIVER_TOKEN": token,
        "RESNETD_WORK_DIR": str(work_dir),
        "RESNETD_LOG_FORMAT": log_format,
        # The API stores what trials report; Ray Tune need not write it to files as well.
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "RAY_AIR_NEW_OUTPUT": "0",
    }


def doctor_env(*, api_url: str, data_dir: Path, work_dir: Path) -> dict[str, str]:
    """The environment of the Ray job that checks each node; it has no token of the service."""
    return _RAY_ENV | {
        "RESNETD_API_URL": api_url,
        "RESNETD_DATA_DIR": str(data_dir),
        "RESNETD_WORK_DIR": str(work_dir),
    }


def node_request_env(demand: str) -> dict[str, str]:
    """The environment of the Ray job that requests nodes; it has no token of the service.

    `demand`: JSON, [CPUs, GPUs, number] for each kind of worker.
    """
    return _RAY_ENV | {"RESNETD_DEMAND": demand}


class RayJobClient:
    """Every call raises ClusterUnavailable without a response, or with an unexpected one."""

    def __init__(self, *, url: str, token: str | None) -> None:
        """`token` None: the cluster was started without one."""
        self._http = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {token}"} if token is not None else {},
            timeout=_TIMEOUT,
            trust_env=False,
        )

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Of the cluster that the settings name."""
        secret = settings.ray_token
        token = secret.get_secret_value().strip() if secret else None
        return cls(url=settings.ray_url, token=token)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def submit(
        self,
        submission_id: str,
        *,
        entrypoint: str,
        env_vars: Mapping[str, str],
        metadata: Mapping[str, str],
    ) -> None:
        """Starts a job; no change where Ray has a job with this submission id.

        `entrypoint` is a shell command: no part of it may come from a user.
        """
        response = self._send(
            "POST",
            "/api/jobs/",
            json={
                "submission_id": submission_id,
                "entrypoint": entrypoint,
                "runtime_env": {"env_vars": dict(env_vars)},
                "metadata": dict(metadata),
            },
        )
        # Ray 2.60 responds to a repeated submission with 500 and a traceback, as to any error: the
        # head wraps its agent's 400 (job_head.py, submit_job). Its list says what happened.
        if not response.is_success and self.find_job(submission_id) is None:
            raise _unexpected_response(response)

    def find_job(self, submission_id: str) -> ClusterJob | None:
        """None where Ray has no such job; a restarted head has none of the earlier ones."""
        response = self._send("GET", f"/api/jobs/{submission_id}")
        if response.status_code == httpx.codes.NOT_FOUND:
            return None
        return _parse_job(_read_json(response))

    def stop(self, submission_id: str) -> bool:
        """Asks the job to exit and returns at once; False where no such job runs."""
        response = self._send("POST", f"/api/jobs/{submission_id}/stop")
        if response.status_code == httpx.codes.NOT_FOUND:
            return False
        return bool(_read_json(response)["stopped"])

    def delete(self, submission_id: str) -> bool:
        """Deletes a job that has ended; False where Ray has no such job."""
        response = self._send("DELETE", f"/api/jobs/{submission_id}")
        if response.status_code == httpx.codes.NOT_FOUND:
            return False
        return bool(_read_json(response)["deleted"])

    def list_jobs(self) -> list[ClusterJob]:
        """All submitted jobs; drivers that were started otherwise are left out.

        Must be called regularly: after a restart of its agent, Ray monitors running jobs again only
        after the first request (ray-project/ray#65037).
        """
        rows = _read_json(self._send("GET", "/api/jobs/"))
        return [_parse_job(row) for row in rows if row["type"] == "SUBMISSION"]

    def read_resources(self) -> ClusterResources:
        response = self._send("GET", "/api/v0/nodes", params={"detail": "1", "limit": "10000"})
        rows = _read_json(response)["data"]["result"]["result"]
        return ClusterResources(
            nodes=tuple(
                NodeResources(
                    node_id=row["node_id"],
                    num_cpus=int(row["resources_total"].get("CPU", 0)),
                    num_gpus=int(row["resources_total"].get("GPU", 0)),
                )
                for row in rows
                if row["state"] == "ALIVE"
            )
        )

    def read_log_tail(
        self, submission_id: str, *, max_chars: int = 8_000, timeout_seconds: float = 30.0
    ) -> str:
        """The end of what the driver and its workers printed; empty where Ray has no such job.

        ClusterUnavailable where that takes longer than the timeout, or where the log, of which Ray
        sends all, exceeds 16 MiB.
        """
        deadline = time.monotonic() + timeout_seconds
        content = bytearray()
        path = f"/api/jobs/{submission_id}/logs"
        try:
            with self._http.stream("GET", path, timeout=timeout_seconds) as response:
                for chunk in response.iter_bytes():
                    content += chunk
                    if len(content) > _MAX_LOG_BYTES or time.monotonic() > deadline:
                        raise ClusterUnavailable(
                            f"the log of {submission_id} exceeds 16 MiB or {timeout_seconds:g} s"
                        )
        except httpx.HTTPError as error:
            raise ClusterUnavailable(
                f"no log of {submission_id} from Ray: {type(error).__name__} {error}"
            ) from error
        if response.status_code == httpx.codes.NOT_FOUND:
            return ""
        complete = httpx.Response(
            response.status_code, content=bytes(content), request=response.request
        )
        return str(_read_json(complete)["logs"])[-max_chars:]

    def _send(
        self,
        method: str,
        path: str,
        *,
        json: dict[str, Any] | None = None,
        params: dict[str, str] | None = None,
    ) -> httpx.Response:
        try:
            response = self._http.request(method, path, json=json, params=params)
        except httpx.HTTPError as error:
            raise ClusterUnavailable(
                f"no response from Ray at {self._http.base_url}: {type(error).__name__} {error}"
            ) from error
        if response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise ClusterUnavailable(
                f"Ray at {self._http.base_url} rejects the token: {response.text[:200]}"
            )
        return response


def _read_json(response: httpx.Response) -> Any:
    if not response.is_success:
        raise _unexpected_response(response)
    try:
        return response.json()
    except ValueError as error:
        raise _unexpected_response(response) from error


def _parse_job(row: dict[str, Any]) -> ClusterJob:
    return ClusterJob(
        submission_id=row["submission_id"],
        state=ClusterJobState(row["status"].lower()),
        message=row["message"] or "",
        metadata=row["metadata"] or {},
    )


def _unexpected_response(response: httpx.Response) -> ClusterUnavailable:
    request = response.request
    return ClusterUnavailable(
        f"unexpected response of Ray to {request.method} {request.url.path}: "
        f"status {response.status_code}, {response.text[-500:]}"
    )
