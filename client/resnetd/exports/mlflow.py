"""Writes runs of MLflow, one for each job, to a server or a database.

The tag `resnetd.job_id` says whose run it is: a repeated export adds what is new to the same run.
"""

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

# MLflow would send usage data to its makers, and try for minutes to reach a server.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")

from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.tracking import MlflowClient

from resnetd.errors import ExportFailed
from resnetd.exports.forms import ExportedJob
from resnetd.models import Job, JobState

if TYPE_CHECKING:
    from resnetd.client import Client

_T = TypeVar("_T")

_JOB_ID = "resnetd.job_id"
_EXPERIMENT = "resnetd"
_MODEL_FILE, _MODEL_DESCRIPTION = "model.onnx", "MLmodel"
# What a request to MLflow may have at most.
_METRICS_PER_BATCH, _PARAMS_PER_BATCH = 1000, 100
_FINAL_STATUS = {
    JobState.SUCCEEDED: "FINISHED",
    JobState.FAILED: "FAILED",
    JobState.CANCELLED: "KILLED",
}


def write(client: "Client", jobs: Iterable[ExportedJob], target: str) -> None:
    try:
        tracking = MlflowClient(target)
        experiment_id = _find_experiment(tracking)
        for exported in jobs:
            _write_run(client, tracking, experiment_id, exported)
    except MlflowException as error:
        raise ExportFailed(f"MLflow at {target}: {error}") from error
    except ModuleNotFoundError as error:
        raise ExportFailed(
            f"MLflow at {target} needs {error.name}; install it with: pip install mlflow"
        ) from error


def describe_model(folder: Path) -> None:
    """Makes a folder with the file `model.onnx` one that `mlflow.onnx` loads."""
    model = Model().add_flavor("onnx", data=_MODEL_FILE)
    model.save(str(folder / _MODEL_DESCRIPTION))


def _find_experiment(tracking: Any) -> str:
    """Of MLflow's own variable, else `resnetd`; a new one where there is none."""
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _EXPERIMENT)
    found = tracking.get_experiment_by_name(name)
    experiment_id: str = tracking.create_experiment(name) if found is None else found.experiment_id
    return experiment_id


def _write_run(client: "Client", tracking: Any, experiment_id: str, exported: ExportedJob) -> None:
    job = exported.job
    run = _find_run(tracking, experiment_id, job)
    run_id: str = run.info.run_id
    params = [
        Param(name, str(value))
        for name, value in exported.parameters().items()
        if name not in run.data.params
    ]
    for batch in _split(params, _PARAMS_PER_BATCH):
        tracking.log_batch(run_id, params=batch)
    tags = [RunTag(name, value) for name, value in _list_tags(client, exported).items()]
    tracking.log_batch(run_id, tags=tags)
    for batch in _split(_list_new_metrics(tracking, run, exported), _METRICS_PER_BATCH):
        tracking.log_batch(run_id, metrics=batch)
    if job.is_final:
        _upload_weights(client, tracking, run_id, job)
    _update_state(tracking, run_id, job)


def _find_run(tracking: Any, experiment_id: str, job: Job) -> Any:
    found = tracking.search_runs([experiment_id], f"tags.`{_JOB_ID}` = '{job.id}'", max_results=1)
    if found:
        return found[0]
    started = job.started_at or job.created_at
    return tracking.create_run(
        experiment_id,
        start_time=_milliseconds(started.timestamp()),
        tags={_JOB_ID: job.id},
        run_name=job.name,
    )


def _list_tags(client: "Client", exported: ExportedJob) -> dict[str, str]:
    job, origin = exported.job, exported.origin
    versions = (job.environment or {}).get("versions", {})
    tags = {
        _JOB_ID: job.id,
        "resnetd.url": f"{client.url}/jobs/{job.id}",
        "resnetd.network": job.network,
        "resnetd.state": job.state,
        "resnetd.reason": job.reason,
        "resnetd.tags": ", ".join(job.spec.get("tags", ())),
        "resnetd.search_id": origin.search_id,
        "resnetd.trial": origin.trial,
        "resnetd.study_id": origin.study_id,
        "resnetd.member": origin.member,
        # Those that MLflow's own pages show.
        "mlflow.runName": job.name,
        "mlflow.user": job.user,
        "mlflow.note.content": job.note,
        "mlflow.source.git.commit": versions.get("commit"),
    }
    return {name: str(value) for name, value in tags.items() if value is not None}


def _list_new_metrics(tracking: Any, run: Any, exported: ExportedJob) -> Sequence[Any]:
    """A store may keep a point twice that it gets twice."""
    metrics = []
    for name, points in exported.points().items():
        known = set()
        if name in run.data.metrics:
            history = tracking.get_metric_history(run.info.run_id, name)
            known = {(metric.step, metric.timestamp) for metric in history}
        for point in points:
            timestamp = _milliseconds(point.time)
            if (point.iteration, timestamp) not in known:
                metrics.append(Metric(name, point.value, timestamp, point.iteration))
    return metrics


def _upload_weights(client: "Client", tracking: Any, run_id: str, job: Job) -> None:
    """The best weights, and the network in ONNX where the training has exported it."""
    checkpoints = client.jobs.checkpoints(job.id)
    if not checkpoints:
        return
    with tempfile.TemporaryDirectory() as temporary:
        if not _list_artifacts(tracking, run_id, "weights"):
            weights = client.jobs.download(job.id, path=Path(temporary) / "best.safetensors")
            tracking.log_artifact(run_id, str(weights), "weights")
        files = {_MODEL_FILE, _MODEL_DESCRIPTION}
        if "onnx" in checkpoints[0].parts and files - _list_artifacts(tracking, run_id, "onnx"):
            folder = Path(temporary) / "onnx"
            folder.mkdir()
            client.jobs.download(job.id, format="onnx", path=folder / _MODEL_FILE)
            describe_model(folder)
            tracking.log_artifacts(run_id, str(folder), "onnx")


def _list_artifacts(tracking: Any, run_id: str, folder: str) -> set[str]:
    return {Path(artifact.path).name for artifact in tracking.list_artifacts(run_id, folder)}


def _update_state(tracking: Any, run_id: str, job: Job) -> None:
    if job.finished_at is None:
        tracking.update_run(run_id, status="SCHEDULED" if job.started_at is None else "RUNNING")
        return
    status = _FINAL_STATUS.get(job.state, "FINISHED")
    ended = _milliseconds(job.finished_at.timestamp())
    tracking.set_terminated(run_id, status=status, end_time=ended)


def _split(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
