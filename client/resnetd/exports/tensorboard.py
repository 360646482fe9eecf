"""Writes a log directory of TensorBoard, with a run for each job.

A run has the scalars of its series at their iterations and times, and the spec as hyperparameters.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata, summary_v2
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from resnetd.exports.forms import ExportedJob
from resnetd.models import Job, JobState

if TYPE_CHECKING:
    from resnetd.client import Client


def write(_: "Client", jobs: Iterable[ExportedJob], target: str) -> None:
    for exported in jobs:
        folder = Path(target) / _name_run(exported.job)
        before = _list_event_files(folder)
        try:
            _write_events(exported, folder)
        except BaseException:
            _delete(_list_event_files(folder) - before)
            raise
        # TensorBoard would show both as one run.
        _delete(before)


def _name_run(job: Job) -> str:
    """The same in each export; a name may change, a network does not."""
    network = re.sub(r"[^\w.-]+", "-", job.network)
    return f"{network}-{job.id}"


def _list_event_files(folder: Path) -> set[Path]:
    return set(folder.glob("events.out.tfevents.*"))


def _delete(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink()


def _write_events(exported: ExportedJob, folder: Path) -> None:
    job = exported.job
    started = (job.started_at or job.created_at).timestamp()
    writer = EventFileWriter(str(folder))
    try:
        parameters = exported.parameters() | {"network": job.network}
        start = summary_v2.hparams_pb(parameters, trial_id=job.id, start_time_secs=started)
        writer.add_event(Event(wall_time=started, summary=start))
        for tag, points in exported.points().items():
            for point in points:
                scalar = Summary(value=[Summary.Value(tag=tag, simple_value=point.value)])
                writer.add_event(Event(wall_time=point.time, step=point.iteration, summary=scalar))
        if job.finished_at is not None:
            end = _summarize_end(job, job.finished_at.timestamp())
            writer.add_event(Event(wall_time=job.finished_at.timestamp(), summary=end))
    finally:
        writer.close()


def _summarize_end(job: Job, at: float) -> Summary:
    """TensorBoard has a function for it in a module that needs TensorFlow."""
    succeeded = job.state is JobState.SUCCEEDED
    info = SessionEndInfo(
        status=api_pb2.STATUS_SUCCESS if succeeded else api_pb2.STATUS_FAILURE, end_time_secs=at
    )
    value = Summary.Value(
        tag=metadata.SESSION_END_INFO_TAG,
        metadata=metadata.create_summary_metadata(HParamsPluginData(session_end_info=info)),
        tensor=metadata.NULL_TENSOR,
    )
    return Summary(value=[value])
