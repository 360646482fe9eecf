"""Ray's job endpoint as the dispatcher needs it: plain HTTP, without Ray.

    POST   /api/jobs/            DELETE /api/jobs/{id}        GET /api/jobs/{id}/logs
    GET    /api/jobs/{id}        POST   /api/jobs/{id}/stop   GET /api/v0/nodes

The driver of such a job runs on the head node and reserves no CPU (entrypoint_num_cpus 0), so
a head with `--num-cpus=0` runs drivers and no training. A pending job that is stopped leaves
no placement group behind; one that waits in another way does.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

import httpx

from service.errors import ClusterUnavailable
from service.resources import WorkerGroup

# A cold job agent connects to the cluster first: 4 s on two cores.
_TIMEOUT = httpx.Timeout(30.0, connect=5.0)


_RAY_ENV = {
    # SIGINT lets Train and Tune end their workers in order, 2 s; SIGTERM only ends the driver.
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
    """`message` is Ray's: why it failed, with the end of its log."""

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
    """What the nodes that are alive have in all, reserved or not."""

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
    shape: WorkerGroup,
    token: str,
    data_path: Path,
    work_path: Path,
    num_nodes: int,
) -> dict[str, str]:
    """The environment of a runner's Ray job: what RunnerSettings reads, and Ray's own.

    Whoever may list the cluster's jobs reads it: the token opens what this runner is given.
    """
    return _RAY_ENV | {
        "RESNETD_API_URL": api_url,
        "RESNETD_RUNNER_ID": runner_id,
        "RESNETD_RUNNER_TOKEN": token,
        "RESNETD_RUNNER_SHAPE": (
            f"{shape.num_workers}x{shape.cpus_per_worker}cpu{shape.gpus_per_worker:g}gpu"
        ),
        "RESNETD_DATA_DIR": str(data_path),
        "RESNETD_WORK_DIR": str(work_path),
        "RESNETD_RUNNER_NODES": str(num_nodes),
        # The end, and the death of a worker, are seen within this instead of 2 s. Each look takes
        # 3 ms of CPU time.
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
        # One process less for each runner: a preempted attempt is retried as a whole.
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
        "RAY_TRAIN_METRICS_ENABLED": "0",
        # Or every line of a rank's log comes twice.
        "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    }


def driver_env(*, api_url: str, driver_id: str, token: str, work_path: Path) -> dict[str, str]:
    """The environment of a search's driver: what workers.cluster.search reads, and Ray's own."""
    return _RAY_ENV | {
        "RESNETD_API_URL": api_url,
        "RESNETD_DRIVER_ID": driver_id,
        "RESNETD_DRIVER_TOKEN": token,
        "RESNETD_WORK_DIR": str(work_path),
        # The API keeps what trials report; files of Ray Tune's own would say it again.
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "RAY_AIR_NEW_OUTPUT": "0",
    }


class RayJobs:
    """ClusterUnavailable from every call that got no answer, or one that makes no sense."""

    def __init__(self, *, url: str, token: str | None) -> None:
        """`token` None: the cluster was started without one."""
        self._http = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {token}"} if token is not None else {},
            timeout=_TIMEOUT,
            trust_env=False,
        )

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
        """Starts a job, or does nothing where `submission_id` was started before.

        `entrypoint` is a shell command: no word of it may come from a user.
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
        # Ray 2.60 answers 500 with the traceback of its ValueError.
        is_repeated = f"submission_id {submission_id} already exists" in response.text
        if not response.is_success and not is_repeated:
            raise _unexpected(response)

    def status(self, submission_id: str) -> ClusterJob | None:
        """None where the cluster does not know it (any more): it forgets with its head."""
        response = self._send("GET", f"/api/jobs/{submission_id}")
        if response.status_code == httpx.codes.NOT_FOUND:
            return None
        return _cluster_job(_json(response))

    def stop(self, submission_id: str) -> bool:
        """Asks the job to end; returns at once. Whether there was one to ask."""
        response = self._send("POST", f"/api/jobs/{submission_id}/stop")
        if response.status_code == httpx.codes.NOT_FOUND:
            return False
        return bool(_json(response)["stopped"])

    def delete(self, submission_id: str) -> bool:
        """Makes the cluster forget a job that has ended. Whether it knew it."""
        response = self._send("DELETE", f"/api/jobs/{submission_id}")
        if response.status_code == httpx.codes.NOT_FOUND:
            return False
        return bool(_json(response)["deleted"])

    def list_jobs(self) -> list[ClusterJob]:
        """Those that were submitted here; other drivers of the cluster are left out.

        To be asked now and then: after its agent restarted, Ray looks after running jobs again
        only once a request has come (ray-project/ray#65037).
        """
        rows = _json(self._send("GET", "/api/jobs/"))
        return [_cluster_job(row) for row in rows if row["type"] == "SUBMISSION"]

    def resources(self) -> ClusterResources:
        response = self._send("GET", "/api/v0/nodes", params={"detail": "1", "limit": "10000"})
        rows = _json(response)["data"]["result"]["result"]
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

    def logs_tail(self, submission_id: str, *, max_chars: int = 8_000) -> str:
        """The end of what the driver and its workers printed; empty where nothing is known."""
        response = self._send("GET", f"/api/jobs/{submission_id}/logs")
        if response.status_code == httpx.codes.NOT_FOUND:
            return ""
        return str(_json(response)["logs"])[-max_chars:]

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
                f"no answer from Ray at {self._http.base_url}: {type(error).__name__} {error}"
            ) from error
        if response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise ClusterUnavailable(
                f"Ray at {self._http.base_url} refuses the token: {response.text[:200]}"
            )
        return response


def _json(response: httpx.Response) -> Any:
    if not response.is_success:
        raise _unexpected(response)
    try:
        return response.json()
    except ValueError as error:
        raise _unexpected(response) from error


def _cluster_job(row: dict[str, Any]) -> ClusterJob:
    return ClusterJob(
        submission_id=row["submission_id"],
        state=ClusterJobState(row["status"].lower()),
        message=row["message"] or "",
        metadata=row["metadata"] or {},
    )


def _unexpected(response: httpx.Response) -> ClusterUnavailable:
    request = response.request
    return ClusterUnavailable(
        f"{request.method} {request.url.path} was answered {response.status_code}: "
        f"{response.text[-500:]}"
    )
