"""The mirror of trainings at MLflow, with a server in this process that tests take away.

tests/client/test_mlflow_export.py mirrors to a real one.
"""

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest

from service.errors import Unavailable
from service.jobs import mlflow_runs, records
from service.settings import Settings
from service.states import Reason
from tests.support.core import ENVIRONMENT, Core, Taken, job_id_of, make_point
from workers.dispatcher import mlflow_mirror
from workers.dispatcher.mlflow_mirror import MlflowMirror, MlflowServer

_Answer = dict[str, Any]


class _Mlflow:
    """Keeps what MLflow's server keeps; of equal points one, as its databases do."""

    def __init__(self) -> None:
        self.experiments: dict[str, str] = {}
        self.runs: dict[str, dict[str, Any]] = {}
        self.requests: list[str] = []
        self.sizes: list[int] = []
        self.is_away = False
        # Of answers that do not arrive.
        self.losing = ""
        self.refused_job: str | None = None
        self.refusal = 400, "INVALID_PARAMETER_VALUE"

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if self.is_away:
            raise httpx.ConnectError("connection refused")
        assert request.headers["Authorization"].startswith("Basic ")
        path = request.url.path.removeprefix("/base/api/2.0/mlflow/")
        self.requests.append(path)
        body = json.loads(request.content or b"{}")
        handle: Callable[[httpx.Request, _Answer], httpx.Response] = {
            "experiments/get-by-name": self._get_experiment,
            "experiments/create": self._create_experiment,
            "runs/search": self._search,
            "runs/create": self._create,
            "runs/update": self._update,
            "runs/log-batch": self._log,
        }[path]
        response = handle(request, body)
        if self.losing and path == self.losing:
            self.losing = ""
            raise httpx.ReadError("connection lost")
        return response

    def job(self, job_id: str) -> dict[str, Any]:
        """Its only run."""
        (run,) = [run for run in self.runs.values() if run["tags"].get("resnetd.job_id") == job_id]
        return run

    def _get_experiment(self, request: httpx.Request, _: _Answer) -> httpx.Response:
        (name,) = parse_qs(request.url.query.decode())["experiment_name"]
        if name not in self.experiments:
            return _error(404, "RESOURCE_DOES_NOT_EXIST")
        found = {"experiment_id": self.experiments[name], "lifecycle_stage": "active"}
        return httpx.Response(200, json={"experiment": found})

    def _create_experiment(self, _: httpx.Request, body: _Answer) -> httpx.Response:
        self.experiments[body["name"]] = str(len(self.experiments) + 1)
        return httpx.Response(200, json={"experiment_id": self.experiments[body["name"]]})

    def _search(self, _: httpx.Request, body: _Answer) -> httpx.Response:
        found = [
            {"info": {"run_id": run_id}}
            for run_id, run in self.runs.items()
            if body["filter"] == f"tags.`resnetd.job_id` = '{run['tags']['resnetd.job_id']}'"
        ]
        return httpx.Response(200, json={"runs": found} if found else {})

    def _create(self, _: httpx.Request, body: _Answer) -> httpx.Response:
        tags = {tag["key"]: tag["value"] for tag in body["tags"]}
        if tags["resnetd.job_id"] == self.refused_job:
            return _error(*self.refusal)
        run_id = f"run-{len(self.runs)}"
        self.runs[run_id] = {"tags": tags, "params": {}, "points": {}, "status": "RUNNING"}
        return httpx.Response(200, json={"run": {"info": {"run_id": run_id}}})

    def _update(self, _: httpx.Request, body: _Answer) -> httpx.Response:
        self.runs[body.pop("run_id")] |= body
        return httpx.Response(200, json={})

    def _log(self, _: httpx.Request, body: _Answer) -> httpx.Response:
        run = self.runs[body["run_id"]]
        self.sizes.append(len(body.get("metrics", ())))
        run["params"] |= {param["key"]: param["value"] for param in body.get("params", ())}
        run["tags"] |= {tag["key"]: tag["value"] for tag in body.get("tags", ())}
        for point in body.get("metrics", ()):
            key = (point["key"], point["step"], point["timestamp"])
            run["points"][key] = point["value"]
        return httpx.Response(200, json={})


def _error(status: int, code: str) -> httpx.Response:
    return httpx.Response(status, json={"error_code": code, "message": "no"})


@pytest.fixture
def mlflow() -> _Mlflow:
    return _Mlflow()


@pytest.fixture
def mirror(core: Core, mlflow: _Mlflow) -> Iterator[MlflowMirror]:
    transport = httpx.MockTransport(mlflow)
    server = MlflowServer("http://ann:secret@mlflow/base", "resnetd", transport=transport)
    yield MlflowMirror(core.database, server, now=core.clock, public_url="http://dashboard")
    server.close()


def _send(mirror: MlflowMirror) -> int:
    return mirror.send_due(threading.Event())


def _send_later(core: Core, mirror: MlflowMirror, seconds: float = 5.0) -> int:
    core.clock.advance(seconds)
    return _send(mirror)


def _report(core: Core, claimed: Taken, sequence: int, *iterations: int, series: str) -> None:
    points = [make_point(series, iteration, float(iteration)) for iteration in iterations]
    core.report(claimed.attempt_id, sequence, metrics=points)


def _steps(run: dict[str, Any], series: str) -> list[int]:
    return sorted(step for name, step, _ in run["points"] if name == series)


def test_a_training_is_mirrored_while_it_runs(
    core: Core, mlflow: _Mlflow, mirror: MlflowMirror
) -> None:
    claimed = core.run(name="plain", tags=["course", "week-1"])
    job_id = job_id_of(claimed)
    core.report(
        claimed.attempt_id, 2, environment=ENVIRONMENT, metrics=[make_point("train/loss", 10, None)]
    )
    assert _send(mirror) == 1
    run = mlflow.job(job_id)
    assert run["status"] == "RUNNING"
    assert run["params"]["recipe.learning_rate"] == "0.1"
    assert (run["params"]["depth"], run["params"]["preemptible"]) == ("8", "false")
    assert {"name", "tags", "priority", "hold"}.isdisjoint(run["params"])
    assert run["tags"]["mlflow.runName"] == "plain"
    assert run["tags"]["resnetd.tags"] == "course, week-1"
    assert run["tags"]["resnetd.url"] == f"http://dashboard/jobs/{job_id}"
    assert run["tags"]["mlflow.source.git.commit"] == "c" * 40
    assert list(run["points"].values()) == ["NaN"]

    _report(core, claimed, 3, 20, series="test/error")
    mlflow.requests.clear()
    assert _send(mirror) == 0
    assert _send_later(core, mirror) == 1
    assert mlflow.requests == ["runs/log-batch"]
    assert _steps(run, "test/error") == [20]

    core.finish(
        claimed.attempt_id,
        result={"train_error": 0.5, "test_error": 2.5, "training_seconds": 40.0},
    )
    _send_later(core, mirror)
    assert (run["status"], run["tags"]["resnetd.state"]) == ("FINISHED", "succeeded")
    assert run["end_time"] == round(core.clock.now.timestamp() * 1000) - 5000
    results = {name: value for (name, *_), value in run["points"].items() if "result/" in name}
    assert results["result/test_error"] == 2.5
    assert _send_later(core, mirror, 3600.0) == 0


def test_what_happens_while_mlflow_is_away_follows(
    core: Core, mlflow: _Mlflow, mirror: MlflowMirror
) -> None:
    claimed = core.run()
    _report(core, claimed, 2, 10, series="test/error")
    _send(mirror)
    mlflow.is_away = True
    _report(core, claimed, 3, 20, series="test/error")
    for _ in range(3):
        with pytest.raises(Unavailable, match="MLflow does not answer: ConnectError") as caught:
            _send_later(core, mirror, 3600.0)
        assert "secret" not in str(caught.value)
    core.finish(claimed.attempt_id)
    later = core.run()
    core.finish(later.attempt_id, Reason.DIVERGED)
    mlflow.is_away = False
    assert _send_later(core, mirror) == 2
    run = mlflow.job(job_id_of(claimed))
    assert (run["status"], _steps(run, "test/error")) == ("FINISHED", [10, 20])
    assert mlflow.job(job_id_of(later))["status"] == "FAILED"


@pytest.mark.parametrize("path", ["runs/create", "runs/log-batch", "runs/update"])
def test_a_lost_answer_makes_no_second_run(
    core: Core, mlflow: _Mlflow, mirror: MlflowMirror, path: str
) -> None:
    claimed = core.run()
    _report(core, claimed, 2, 10, series="test/error")
    mlflow.losing = path
    with pytest.raises(Unavailable):
        _send(mirror)
    assert _send_later(core, mirror) == 1
    run = mlflow.job(job_id_of(claimed))
    assert (run["params"]["depth"], _steps(run, "test/error")) == ("8", [10])
    assert run["tags"]["resnetd.state"] == "running"


def test_a_run_that_mlflow_refuses_holds_up_no_other(
    core: Core, mlflow: _Mlflow, mirror: MlflowMirror
) -> None:
    refused, other = core.run(), core.run()
    mlflow.refused_job = job_id_of(refused)
    assert _send(mirror) == 2
    assert mlflow.job(job_id_of(other))["status"] == "RUNNING"
    mlflow.requests.clear()
    assert _send_later(core, mirror, 3600.0) == 1
    assert mlflow.requests == []


def test_a_run_at_which_mlflow_fails_holds_up_no_other(
    core: Core, mlflow: _Mlflow, mirror: MlflowMirror
) -> None:
    failing, other = core.run(), core.run()
    mlflow.refused_job, mlflow.refusal = job_id_of(failing), (500, "INTERNAL_ERROR")
    for _ in range(2):
        with pytest.raises(Unavailable, match="MLflow answers 500: INTERNAL_ERROR"):
            _send_later(core, mirror)
    assert mlflow.job(job_id_of(other))["status"] == "RUNNING"
    mlflow.refused_job = None
    _send_later(core, mirror)
    assert mlflow.job(job_id_of(failing))["status"] == "RUNNING"


def test_points_of_a_resumed_training_follow(
    core: Core, mlflow: _Mlflow, mirror: MlflowMirror
) -> None:
    claimed = core.run()
    _report(core, claimed, 2, 10, 20, 30, series="test/error")
    _send(mirror)
    core.end(claimed, Reason.WORKER_DIED)
    core.release(claimed)
    _send_later(core, mirror)
    run = mlflow.job(job_id_of(claimed))
    assert run["status"] == "SCHEDULED"
    resumed = core.retry()
    core.report(
        resumed.attempt_id,
        2,
        metrics=[make_point("test/error", 20, 7.0), make_point("test/error", 40, 1.0)],
    )
    _send_later(core, mirror, 60.0)
    assert (run["status"], _steps(run, "test/error")) == ("RUNNING", [10, 20, 30, 40])
    assert 7.0 in run["points"].values()


def test_many_points_are_sent_in_parts(
    core: Core, mlflow: _Mlflow, mirror: MlflowMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_runs, "_MAX_POINTS", 150)
    monkeypatch.setattr(mlflow_mirror, "_METRICS_PER_BATCH", 40)
    claimed = core.run()
    for sequence, series in enumerate(["test/error", "train/loss"], start=2):
        _report(core, claimed, sequence, *range(100), series=series)
    core.finish(claimed.attempt_id)
    assert [_send(mirror) for _ in range(3)] == [1, 1, 0]
    run = mlflow.job(job_id_of(claimed))
    assert len(_steps(run, "test/error")) == len(_steps(run, "train/loss")) == 100
    assert max(mlflow.sizes) == 40
    assert run["status"] == "FINISHED"


def test_trainings_that_ended_before_are_mirrored_and_waiting_ones_are_not(
    core: Core, mlflow: _Mlflow, mirror: MlflowMirror
) -> None:
    ended = core.run()
    core.finish(ended.attempt_id)
    core.submit()
    core.clock.advance(86_400.0)
    assert _send(mirror) == 1
    assert mlflow.job(job_id_of(ended))["status"] == "FINISHED"
    assert _send_later(core, mirror, 86_400.0) == 0


def test_two_dispatchers_do_not_send_the_same(
    core: Core, mlflow: _Mlflow, mirror: MlflowMirror
) -> None:
    core.run()
    _send(mirror)
    core.clock.advance(5.0)
    with core.database.transaction() as session:
        assert len(mlflow_runs.claim_due(session, now=core.clock.now, limit=20)) == 1
    mlflow.requests.clear()
    assert (_send(mirror), mlflow.requests) == (0, [])
    assert _send_later(core, mirror, 60.0) == 1


def test_a_deleted_job_leaves_no_row_and_its_run_stays(
    core: Core, mlflow: _Mlflow, mirror: MlflowMirror
) -> None:
    claimed = core.run()
    job_id = job_id_of(claimed)
    _send(mirror)
    core.finish(claimed.attempt_id)
    with core.database.transaction() as session:
        session.delete(records.find_job(session, job_id))
    assert _send_later(core, mirror) == 0
    assert mlflow.job(job_id)["status"] == "RUNNING"


def test_a_server_that_refuses_the_password_is_asked_again(core: Core) -> None:
    claimed = core.run()
    answers = httpx.MockTransport(lambda _: _error(401, "UNAUTHENTICATED"))
    server = MlflowServer("http://mlflow", "resnetd", transport=answers)
    mirror = MlflowMirror(core.database, server, now=core.clock)
    for _ in range(2):
        with pytest.raises(Unavailable, match="MLflow answers 401: UNAUTHENTICATED: no"):
            _send_later(core, mirror)
    server.close()
    assert core.attempt(claimed.attempt_id).ended_at is None


def test_nothing_is_mirrored_without_the_setting(core: Core) -> None:
    assert MlflowMirror.of(Settings(), core.database, now=core.clock) is None
