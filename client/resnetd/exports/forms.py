"""The forms of an export, and which jobs it has."""

import importlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from resnetd.errors import MissingExtra, NotFound
from resnetd.metrics import Metrics
from resnetd.models import Job, Search, Series, Study
from resnetd.resources import as_list

if TYPE_CHECKING:
    from resnetd.api_client import ApiClient
    from resnetd.client import Client


class ExportForm(StrEnum):
    """A form, with the module of the same name that writes it and the extra that it needs."""

    HTML = "html"  # written by the service
    PARQUET = "parquet"
    TENSORBOARD = "tensorboard"
    MLFLOW = "mlflow"
    WANDB = "wandb"


@dataclass(frozen=True)
class Origin:
    """The search or study by whose id a job was found, and what the job is in it."""

    search_id: str | None = None
    trial: int | None = None
    study_id: str | None = None
    member: str | None = None


@dataclass(frozen=True)
class Point:
    """`value` is not a number where it was not finite; `time`: seconds since 1970."""

    iteration: int
    value: float
    time: float


@dataclass(frozen=True)
class ExportedJob:
    job: Job
    metrics: Metrics
    origin: Origin

    def points(self) -> dict[str, tuple[Point, ...]]:
        """The points of each series, and the results as points of series as `result/test_error`."""
        found = {name: tuple(_list_points(series)) for name, series in self.metrics.items()}
        job = self.job
        if job.result is not None and job.finished_at is not None:
            iteration = 0 if job.progress is None else job.progress.iteration
            time = job.finished_at.timestamp()
            for name, value in msgspec.structs.asdict(job.result).items():
                if value is not None:
                    found[f"result/{name}"] = (Point(iteration, value, time),)
        return found

    def parameters(self) -> dict[str, bool | int | float | str]:
        """The fields of the spec that are set, without its labels; lists as text in JSON."""
        return {
            name: value if isinstance(value, bool | int | float | str) else json.dumps(value)
            for name, value in flatten(self.job.spec)
            if value is not None and name not in _LABELS
        }


# They may change later, and say nothing about the training.
_LABELS = {"name", "tags", "priority", "hold"}

Write = Callable[["Client", Iterable[ExportedJob], str], None]


def export(
    client: "Client",
    api: "ApiClient",
    run_ids: str | Sequence[str],
    form: ExportForm,
    target: str,
) -> int:
    """The number of exported jobs. All ids are looked up before something is written."""
    # A missing extra is reported before the first request.
    write = None if form is ExportForm.HTML else _load_writer(form)
    runs = [_find_run(client, run_id) for run_id in as_list(run_ids)]
    origins: dict[str, Origin] = {}
    for run in runs:
        for job_id, origin in _list_jobs(client, run):
            origins.setdefault(job_id, origin)
    if write is None:
        Path(target).write_bytes(_read_page(api, runs, list(origins)))
    else:
        write(client, _read_jobs(client, origins), target)
    return len(origins)


def flatten(fields: dict[str, Any] | None, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Fields of nested objects by names such as `recipe.learning_rate`."""
    for name, value in (fields or {}).items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _list_points(series: Series) -> Iterator[Point]:
    for iteration, value, time in zip(series.iterations, series.values, series.times, strict=True):
        yield Point(iteration, math.nan if value is None else value, time)


def _load_writer(form: ExportForm) -> Write:
    try:
        module = importlib.import_module(f"resnetd.exports.{form}")
    except ModuleNotFoundError as error:
        raise MissingExtra(form, (error.name or "").partition(".")[0]) from error
    write: Write = module.write
    return write


def _find_run(client: "Client", prefix: str) -> Job | Search | Study:
    for resource in (client.jobs, client.searches, client.studies):
        try:
            return resource.find(prefix)
        except NotFound:
            continue
    message = f"no job, search or study has an id that begins with {prefix!r}"
    raise NotFound(message, status=HTTPStatus.NOT_FOUND, code="not-found")


def _list_jobs(client: "Client", run: Job | Search | Study) -> Iterator[tuple[str, Origin]]:
    if isinstance(run, Job):
        yield run.id, Origin()
    elif isinstance(run, Search):
        for trial in sorted(client.searches.trials(run.id), key=lambda trial: trial.number):
            for job_id in trial.job_ids or (trial.job_id,):
                yield job_id, Origin(search_id=run.id, trial=trial.number)
    else:
        for member in run.members:
            for job in member.jobs:
                if job.job_id is not None:
                    yield job.job_id, Origin(study_id=run.id, member=member.label)


def _read_jobs(client: "Client", origins: dict[str, Origin]) -> Iterator[ExportedJob]:
    """One after the other: the metrics of all may not fit in memory."""
    for job_id, origin in origins.items():
        yield ExportedJob(client.jobs.get(job_id), client.jobs.metrics(job_id), origin)


def _read_page(
    api: "ApiClient", runs: Sequence[Job | Search | Study], job_ids: Sequence[str]
) -> bytes:
    """The page of one job or study, else that of a comparison."""
    match runs:
        case [Job(id=job_id)]:
            return api.get_bytes(f"/v1/jobs/{job_id}/export", {})
        case [Study(id=study_id)]:
            return api.get_bytes(f"/v1/studies/{study_id}/export", {})
        case _:
            return api.get_bytes("/v1/export", {"job": job_ids})
