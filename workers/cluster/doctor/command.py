"""Runs the checks: on this machine, and in a Ray job on each node of the cluster."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime

import httpx

from service.errors import ClusterUnavailable
from service.ids import new_id
from service.settings import Settings
from service.storage.clock import DatabaseClock
from service.storage.database import Database
from workers.cluster.doctor import answers, node_checks, node_facts
from workers.cluster.doctor.answers import NodeAnswer
from workers.cluster.doctor.node_checks import Check, Expected, Finding
from workers.cluster.doctor.node_facts import ApiFacts
from workers.cluster.ray_jobs import RayJobClient, doctor_env

_HERE = "this machine"
_JOB_SECONDS = 240.0
_POLL_SECONDS = 0.25
_RAY_TIMEOUT_SECONDS = 5.0
_MAX_LOG_CHARACTERS = 16 * 2**20
_ENTRYPOINT = "python -m workers check-nodes"


@dataclass(frozen=True)
class Diagnosis:
    text: str
    is_healthy: bool


def examine(settings: Settings, database: Database, *, with_cluster: bool) -> Diagnosis:
    """ClusterUnavailable where Ray does not run the checks."""
    api = node_facts.ask_api(settings.api_url)
    database_clock_seconds = DatabaseClock(database).offset.total_seconds()
    if api.clock_seconds is not None:
        database_clock_seconds -= api.clock_seconds
    expected = Expected(
        code=node_facts.read_versions()["resnetd"],
        datasets=node_facts.list_datasets(settings.data_dir),
        database_clock_seconds=database_clock_seconds,
        api_url=settings.api_url,
        data_dir=settings.data_dir,
        work_dir=settings.work_dir,
    )
    findings = _check_here(api, expected)
    nodes: list[NodeAnswer] = []
    if with_cluster:
        findings += _check_ray(settings.ray_url)
        nodes = ask_nodes(settings)
        findings += node_checks.check_cluster(nodes, expected)
    return Diagnosis(node_checks.format_table(nodes, findings), is_healthy=not findings)


def ask_nodes(settings: Settings) -> list[NodeAnswer]:
    """Submits the Ray job that asks each node, waits for it, and deletes it."""
    submission_id = f"doctor-{new_id(datetime.now(UTC))}"
    with RayJobClient.of(settings) as jobs:
        jobs.submit(
            submission_id,
            entrypoint=_ENTRYPOINT,
            env_vars=doctor_env(
                api_url=settings.api_url, data_dir=settings.data_dir, work_dir=settings.work_dir
            ),
            metadata={"api": settings.api_url},
        )
        deadline = time.monotonic() + _JOB_SECONDS
        while (job := jobs.find_job(submission_id)) is None or not job.state.is_final:
            if time.monotonic() > deadline:
                jobs.stop(submission_id)
                raise ClusterUnavailable(f"Ray did not run the checks within {_JOB_SECONDS:g} s")
            time.sleep(_POLL_SECONDS)
        found = answers.parse_log(jobs.read_log_tail(submission_id, max_chars=_MAX_LOG_CHARACTERS))
        jobs.delete(submission_id)
    if not found:
        raise ClusterUnavailable(f"the checks did not run on Ray's head: {job.message}")
    return found


def _check_here(api: ApiFacts, expected: Expected) -> list[Finding]:
    messages = [
        # The API's machine: its clock is what the nodes' are compared with.
        (Check.CLOCK, node_checks.describe_clock(expected.database_clock_seconds)),
        (Check.DATA, _describe_data(expected)),
        (Check.API, node_checks.describe_api_error(api, expected.api_url)),
    ]
    return [Finding(_HERE, check, message) for check, message in messages if message]


def _describe_data(expected: Expected) -> str | None:
    if expected.datasets is not None:
        return None
    return (
        f"RESNETD_DATA_DIR, {expected.data_dir}, does not exist or cannot be read; "
        "run this command where the API runs, as its user"
    )


def _check_ray(url: str) -> list[Finding]:
    """Whether Ray answers a request without a token. One that does not respond fails later."""
    try:
        response = httpx.get(f"{url}/api/version", timeout=_RAY_TIMEOUT_SECONDS, trust_env=False)
    except httpx.HTTPError:
        return []
    if not response.is_success:
        return []
    message = (
        "Ray answers without a token, so any machine that reaches it can run code on the cluster; "
        "start all its nodes with RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH"
    )
    return [Finding(url, Check.TOKEN, message)]
