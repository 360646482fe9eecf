"""Writes offline runs of Weights & Biases, one for each job, which `wandb sync` uploads.

A run has the job's id; its history has the points of an iteration as a step.
"""

import os
import shutil
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

# It would report errors to its makers.
os.environ.setdefault("WANDB_ERROR_REPORTING", "false")

import wandb
from wandb.errors import Error

from resnetd.errors import ExportFailed
from resnetd.exports.forms import ExportedJob
from resnetd.models import JobState

if TYPE_CHECKING:
    from resnetd.client import Client

_PROJECT = "resnetd"
# Nothing of the machine of the export, and no run of the caller's own program is changed.
_SETTINGS = {
    "console": "off",
    "disable_code": True,
    "disable_git": True,
    "host": "",
    "reinit": "create_new",
    "silent": True,
    "x_disable_machine_info": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
}


def write(client: "Client", jobs: Iterable[ExportedJob], target: str) -> None:
    # Where it cannot write, wandb uses a temporary folder.
    Path(target).mkdir(parents=True, exist_ok=True)
    for exported in jobs:
        before = _list_folders(target, exported.job.id)
        try:
            _write_run(client, exported, target)
        except BaseException as error:
            _delete(_list_folders(target, exported.job.id) - before)
            if isinstance(error, Error):
                raise ExportFailed(f"wandb cannot write to {target}: {error}") from error
            raise
        # Both would be uploaded.
        _delete(before)


def _list_folders(target: str, job_id: str) -> set[Path]:
    """Their names have the time of the export; those of one second a suffix."""
    return set((Path(target) / "wandb").glob(f"offline-run-*-{job_id}*"))


def _delete(folders: Iterable[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder)


def _write_run(client: "Client", exported: ExportedJob, target: str) -> None:
    job, origin = exported.job, exported.origin
    run = wandb.init(
        dir=target,
        mode="offline",
        project=os.environ.get("WANDB_PROJECT", _PROJECT),
        id=job.id,
        name=job.name,
        notes=job.note,
        tags=job.spec.get("tags"),
        group=origin.study_id or origin.search_id,
        job_type=origin.member,
        config=exported.parameters() | _describe(client, exported),
        # W&B would show a job that still runs as finished.
        settings=wandb.Settings(**_SETTINGS, x_update_finish_state=job.is_final),
    )
    try:
        for iteration, values in sorted(_group_by_iteration(exported).items()):
            run.log(values, step=iteration)
    finally:
        run.finish(exit_code=int(job.is_final and job.state is not JobState.SUCCEEDED))


def _describe(client: "Client", exported: ExportedJob) -> dict[str, Any]:
    job = exported.job
    return {
        "network": job.network,
        "resnetd": {
            "url": f"{client.url}/jobs/{job.id}",
            "user": job.user,
            "state": job.state,
            "reason": job.reason,
            "trial": exported.origin.trial,
        },
    }


def _group_by_iteration(exported: ExportedJob) -> dict[int, dict[str, float]]:
    """`_timestamp` is the time at which wandb shows a step."""
    found: dict[int, dict[str, float]] = defaultdict(dict)
    for name, points in exported.points().items():
        for point in points:
            values = found[point.iteration]
            values[name] = point.value
            values["_timestamp"] = max(point.time, values.get("_timestamp", 0.0))
    return found
