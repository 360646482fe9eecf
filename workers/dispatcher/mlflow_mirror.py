"""Mirrors trainings to an MLflow server while they run, in a thread of the dispatcher.

    GET  experiments/get-by-name    POST experiments/create    POST runs/search
    POST runs/create                POST runs/update           POST runs/log-batch

MLflow's own client is not needed for these requests; it takes seconds to import, and its packages
would be those of the dispatcher.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from http import HTTPStatus
from typing import Any, Self, TypeVar

import httpx
import structlog

from service.errors import ResnetdError, Unavailable
from service.jobs import mlflow_runs
from service.jobs.mlflow_runs import Point, Unsent
from service.settings import Settings
from service.storage.database import Database
from service.supervision import start_supervised

_T = TypeVar("_T")

log = structlog.get_logger()

_TIMEOUT = httpx.Timeout(10.0)
_POLL_SECONDS = 1.0
# What MLflow has not answered by then is sent again by the next process.
_STOP_SECONDS = 2.0
_MAX_CLAIMS = 20
_MAX_ADDED = 100
# What a request may have at most.
_METRICS_PER_BATCH, _PARAMS_PER_BATCH = 1000, 100
_UNKNOWN = "RESOURCE_DOES_NOT_EXIST"


class MlflowRefused(ResnetdError):
    """No repetition of the request changes the answer."""


class MlflowUnknown(MlflowRefused):
    """The run or experiment does not exist."""


class MlflowServer:
    """Unavailable where the server is away, misconfigured, or does not admit this service."""

    def __init__(
        self, url: str, experiment: str, *, transport: httpx.BaseTransport | None = None
    ) -> None:
        self._http = httpx.Client(
            base_url=f"{url}/api/2.0/mlflow/",
            timeout=_TIMEOUT,
            trust_env=False,
            transport=transport,
        )
        self._experiment = experiment
        self._experiment_id: str | None = None

    def close(self) -> None:
        self._http.close()

    def send(self, unsent: Unsent) -> str:
        """Sends what the run lacks, and returns its id. A repetition changes nothing."""
        run_id = unsent.run_id or self._find_run(unsent.job_id) or self._create_run(unsent)
        if unsent.run_id is None:
            params = [{"key": key, "value": value} for key, value in unsent.parameters.items()]
            for batch in _split(params, _PARAMS_PER_BATCH):
                self._post("runs/log-batch", run_id=run_id, params=batch)
        for points in _split(unsent.points, _METRICS_PER_BATCH):
            metrics = [_describe_point(point) for point in points]
            self._post("runs/log-batch", run_id=run_id, metrics=metrics)
        if unsent.tags:
            tags = [{"key": key, "value": value} for key, value in unsent.tags.items()]
            self._post("runs/log-batch", run_id=run_id, tags=tags)
            ended = {} if unsent.ended_at is None else {"end_time": _milliseconds(unsent.ended_at)}
            self._post("runs/update", run_id=run_id, status=unsent.status, **ended)
        return run_id

    def _find_run(self, job_id: str) -> str | None:
        """The run of an export, or one whose id could not be recorded."""
        body = {
            "experiment_ids": [self._find_experiment()],
            "filter": f"tags.`resnetd.job_id` = '{job_id}'",
            "max_results": 1,
        }
        runs = self._post("runs/search", **body).get("runs", [])
        return str(runs[0]["info"]["run_id"]) if runs else None

    def _create_run(self, unsent: Unsent) -> str:
        created = self._post(
            "runs/create",
            experiment_id=self._find_experiment(),
            run_name=unsent.name,
            start_time=_milliseconds(unsent.started_at),
            tags=[{"key": "resnetd.job_id", "value": unsent.job_id}],
        )
        return str(created["run"]["info"]["run_id"])

    def _find_experiment(self) -> str:
        if self._experiment_id is None:
            self._experiment_id = self._read_experiment() or str(
                self._post("experiments/create", name=self._experiment)["experiment_id"]
            )
        return self._experiment_id

    def _read_experiment(self) -> str | None:
        with suppress(MlflowUnknown):
            path, name = "experiments/get-by-name", self._experiment
            found = self._request("GET", path, params={"experiment_name": name})["experiment"]
            if found["lifecycle_stage"] != "active":
                raise Unavailable(f"experiment {name!r} was deleted in MLflow")
            return str(found["experiment_id"])
        return None

    def _post(self, path: str, **body: Any) -> dict[str, Any]:
        return self._request("POST", path, json=body)

    def _request(self, method: str, path: str, **arguments: Any) -> dict[str, Any]:
        try:
            response = self._http.request(method, path, **arguments)
            answer = response.json()
        except (httpx.HTTPError, ValueError) as error:
            # The text of neither has the URL, which may have a password.
            raise Unavailable(f"MLflow does not answer: {type(error).__name__}: {error}") from error
        if response.is_success:
            return dict(answer)
        code, message = str(answer.get("error_code")), str(answer.get("message"))[:500]
        if response.status_code == HTTPStatus.NOT_FOUND and code == _UNKNOWN:
            raise MlflowUnknown(f"{code}: {message}")
        if response.status_code == HTTPStatus.BAD_REQUEST:
            # Maybe because of the experiment: it is looked up again.
            self._experiment_id = None
            raise MlflowRefused(f"{code}: {message}")
        raise Unavailable(f"MLflow answers {response.status_code}: {code}: {message}")


class MlflowMirror:
    """Several dispatchers may mirror: each claims what it sends. `now` is the clock, UTC."""

    def __init__(
        self,
        database: Database,
        server: MlflowServer,
        *,
        now: Callable[[], datetime],
        public_url: str | None = None,
    ) -> None:
        self._database = database
        self._server = server
        self._now = now
        self._public_url = public_url
        # Trainings that had ended by then have rows; None: not known yet.
        self._searched_until: datetime | None = None
        self._thread: threading.Thread | None = None

    @classmethod
    def of(
        cls, settings: Settings, database: Database, *, now: Callable[[], datetime]
    ) -> Self | None:
        """None where the settings name no server."""
        if settings.mlflow_url is None:
            return None
        url = settings.mlflow_url.get_secret_value()
        server = MlflowServer(url, settings.mlflow_experiment)
        return cls(database, server, now=now, public_url=settings.public_url)

    def start(self, stopping: threading.Event) -> threading.Thread:
        """Mirrors until `stopping` is set; a request may end some seconds later."""
        self._thread = start_supervised(
            lambda: self._mirror(stopping), name="mlflow", stopping=stopping
        )
        return self._thread

    def close(self) -> None:
        """Waits for the thread, once it is stopping, for some seconds."""
        if self._thread is not None:
            self._thread.join(_STOP_SECONDS)
        self._server.close()

    def _mirror(self, stopping: threading.Event) -> None:
        if self.send_due(stopping) < _MAX_CLAIMS:
            stopping.wait(_POLL_SECONDS)

    def send_due(self, stopping: threading.Event) -> int:
        """Sends what the runs lack that are due first; the number of these runs."""
        self._add_missing()
        now = self._now()
        with self._database.reading() as session:
            # Without the write lock that a claim takes on SQLite.
            if not mlflow_runs.is_any_due(session, now=now):
                return 0
        with self._database.transaction() as session:
            claimed = mlflow_runs.claim_due(session, now=now, limit=_MAX_CLAIMS)
        remaining, unchanged = list(claimed), []
        try:
            while remaining and not stopping.is_set():
                unsent = self._mirror_run(remaining[0])
                if unsent is not None:
                    unchanged.append(unsent)
                del remaining[0]
        finally:
            with self._database.transaction() as session:
                mlflow_runs.postpone(session, unchanged, now=self._now())
                mlflow_runs.release(session, remaining, now=self._now())
        return len(claimed)

    def _add_missing(self) -> None:
        now = self._now()
        with self._database.reading() as session:
            missing = mlflow_runs.list_missing(
                session, since=self._searched_until, limit=_MAX_ADDED
            )
        if missing:
            with self._database.transaction() as session:
                mlflow_runs.add(session, missing, now=now)
        if len(missing) < _MAX_ADDED:
            self._searched_until = now

    def _mirror_run(self, job_id: str) -> Unsent | None:
        """Returns what was read where nothing had changed, so that only its next look is due."""
        try:
            with self._database.reading() as session:
                unsent = mlflow_runs.read_unsent(session, job_id, public_url=self._public_url)
            if unsent is None or unsent.is_empty:
                return unsent
            run_id = self._server.send(unsent)
            with self._database.transaction() as session:
                mlflow_runs.record_sent(session, unsent, run_id, now=self._now())
        except Unavailable:
            raise
        except MlflowRefused as error:
            log.warning("MLflow refuses a run", job_id=job_id, error=str(error))
            with self._database.transaction() as session:
                mlflow_runs.give_up(session, job_id)
        except Exception:
            # One job must not hold up the others; its claim ends after a minute.
            log.exception("cannot mirror a job", job_id=job_id)
        return None


def _describe_point(point: Point) -> dict[str, Any]:
    """A number that is not finite is text in MLflow's JSON."""
    return {
        "key": point.series,
        "value": "NaN" if point.value is None else point.value,
        "step": point.iteration,
        "timestamp": round(point.time * 1000),
    }


def _split(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _milliseconds(at: datetime) -> int:
    return round(at.timestamp() * 1000)
