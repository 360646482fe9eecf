"""`client.analyses`: what finished jobs are asked for, as jobs of their own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resnetd.models import AnalysisJob, AnalysisResult, Job
from resnetd.resources import Resource


class Analyses(Resource):
    """Analyses of checkpoints. Each is a job, which `client.jobs` watches, cancels and deletes."""

    PATH = "/v1/jobs"

    def submit(
        self,
        job_id: str,
        kind: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        checkpoint: str = "best",
        dataset: str | None = None,
        priority: int = 50,
        resources: Mapping[str, Any] | None = None,
        name: str | None = None,
        tags: tuple[str, ...] = (),
        idempotency_key: str | None = None,
    ) -> Job:
        """Submit an analysis of a checkpoint and return its job.

        Args:
            job_id: the job to analyse.
            kind: `evaluation`, `ensemble`, `predictions`, `layer-responses`, `lesion`,
                `path-gradients`, `loss-landscape`, `interpolation`, `trajectory`,
                `layer-statistics` or `deepened-twin`.
            parameters: of the kind, such as `test_time_augmentation`.
            checkpoint: the `best`, the `newest`, or an id.
            dataset: other images, of the same classes, or for `predictions` of any. Default: the
                job's.
            priority: 0 to 100; higher goes first.
            resources: CPUs and GPUs of its worker. Default: those of one worker of the job.
            name: the display name.
            tags: words to filter by.
            idempotency_key: a call with the key of an earlier one returns that job.

        >>> views = {"test_time_augmentation": "hflip"}
        >>> client.analyses.submit(finished.id, "evaluation", views).kind
        'evaluation'

        Raises:
            InvalidInput: `errors` has the fields that are wrong, also where there is no such
                checkpoint.
        """
        body = {
            "job": job_id,
            "checkpoint": checkpoint,
            "analysis": {"kind": kind, **(parameters or {})},
            "dataset": dataset,
            "priority": priority,
            "resources": None if resources is None else dict(resources),
            "name": name,
            "tags": list(tags),
        }
        return self._api.submit("/v1/analyses", Job, body, idempotency_key)

    def list(self, job_id: str) -> tuple[AnalysisJob, ...]:
        """Return the analyses of a job's checkpoints, newest first.

        >>> client.analyses.list(finished.id)
        ()
        """
        return self._api.get_list(self._path(job_id, "analyses"), "analyses", AnalysisJob)

    def result(self, job_id: str) -> AnalysisResult:
        """Return what a finished analysis found.

        >>> client.analyses.result(analysed.id).numbers["mean_std"]
        2.0

        Raises:
            NotFound: the job is no analysis, or has no result yet.
        """
        return self._api.get(self._path(job_id, "analysis"), AnalysisResult)

    def csv(self, job_id: str, *, table: str | None = None) -> str:
        """Return a table of the result as CSV.

        Args:
            table: its name, or `numbers`. Default: the first.

        >>> client.analyses.csv(analysed.id).splitlines()[0]
        'layer,name,std,mean'
        """
        params = {"format": "csv"} | ({} if table is None else {"table": table})
        return self._api.get_text(self._path(job_id, "analysis"), params)

    def figure(
        self,
        job_id: str,
        *,
        format: str = "svg",  # noqa: A002 - the name in the API
        path: str | Path | None = None,
    ) -> bytes:
        """Return the figure of the result; equal results give equal bytes.

        Args:
            format: `svg` or `png`.
            path: also write the bytes to this file.

        >>> client.analyses.figure(analysed.id, path="responses.svg")[:5]
        b'<?xml'
        """
        content = self._api.get_bytes(self._path(job_id, "analysis"), {"format": format})
        if path is not None:
            Path(path).write_bytes(content)
        return content
