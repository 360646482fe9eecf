"""`client.studies`: the paper's experiments as one request, and comparisons of two networks."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from resnetd.models import Comparison, Study
from resnetd.records import Record
from resnetd.resources import Resource, RunResource


class _Definition(Record, frozen=True):
    name: str
    title: str
    scales: dict[str, Any]


class Studies(RunResource[Study]):
    """Studies: networks over seeds, with a report beside the paper's numbers.

    Methods that take an id raise NotFound if no study has it.
    """

    PATH = "/v1/studies"
    _name = "studies"
    _kind = Study

    def definitions(self) -> dict[str, str]:
        """Return the titles of the studies that the service has, by name.

        >>> client.studies.definitions()["fig1"]
        'Figure 1: deeper plain networks are worse'
        """
        found = self._api.get_list("/v1/study-definitions", "definitions", _Definition)
        return {definition.name: definition.title for definition in found}

    def submit(
        self,
        study: str | Mapping[str, Any],
        *,
        scale: str = "smoke",
        seeds: int | None = None,
        dataset: str | None = None,
        job: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> Study:
        """Submit a study and return its report. Jobs that have trained the same are reused.

        Args:
            study: a name of `definitions()`, or a definition of your own as a mapping.
            scale: `smoke` takes minutes, `short` shows the effect, `paper` is the paper's recipe.
            seeds: number of seeds. Default: the scale's.
            dataset: of all members. Default: the scale's.
            job: fields of all members' specs, such as `priority`.
            idempotency_key: a call with the key of an earlier one returns that study.

        >>> client.studies.submit("fig1", seeds=1).total
        2

        Raises:
            InvalidInput: `errors` has the fields that are wrong.
            NotFound: the service has no study of that name.
        """
        source = {"study": study} if isinstance(study, str) else {"definition": dict(study)}
        body = source | {"scale": scale, "seeds": seeds, "dataset": dataset, "job": dict(job or {})}
        return self._api.submit(self.PATH, Study, body, idempotency_key)

    def get(self, study_id: str) -> Study:
        """Return the study with its results so far.

        >>> client.studies.get(study.id).finished
        0
        """
        return self._get(study_id)

    def find(self, prefix: str) -> Study:
        """Return the only study whose id begins with `prefix`. AmbiguousId has `candidates`.

        >>> client.studies.find(study.id[:14]).id == study.id
        True
        """
        return self._find(prefix)

    def list(self, *, limit: int | None = None) -> Iterator[Study]:
        """Iterate over the studies, newest first, without their results.

        Args:
            limit: at most this number of studies. Default: no limit.

        >>> [found.id == study.id for found in client.studies.list(limit=1)]
        [True]
        """
        return self._list(limit, {})

    def report(
        self,
        study_id: str,
        *,
        format: str = "md",  # noqa: A002 - the name in the API
        path: str | Path | None = None,
    ) -> bytes:
        """Return the results so far as a file; equal results give equal bytes.

        Args:
            format: `md`, `tex`, `csv`, `svg` or `png`.
            path: also write the bytes to this file.

        >>> client.studies.report(study.id).decode().splitlines()[0]
        '# Figure 1: deeper plain networks are worse'
        """
        content = self._api.get_bytes(self._path(study_id, "report"), {"format": format})
        if path is not None:
            Path(path).write_bytes(content)
        return content

    def delete(self, study_id: str) -> None:
        """Delete a study. Its jobs stay.

        >>> client.studies.delete(study.id)
        """
        self._api.delete(self._path(study_id))

    def wait(
        self, study_id: str, *, timeout_seconds: float | None = None, poll_seconds: float = 1.0
    ) -> Study:
        """Return the study when all its jobs have ended, whatever their outcome.

        Args:
            timeout_seconds: how long to wait. Default: no limit.
            poll_seconds: time between two requests. Default: 1.

        >>> for member in study.members:
        ...     for job in member.jobs:
        ...         cancelled = client.jobs.cancel(job.job_id)
        >>> client.studies.wait(study.id).finished
        2

        Raises:
            NotFinished: `timeout_seconds` are over; `latest` is the study.
        """
        return self._wait(study_id, timeout_seconds, poll_seconds)


class Comparisons(Resource):
    """Two specs over paired seeds, and whether their difference is more than noise."""

    PATH = "/v1/comparisons"

    def submit(
        self,
        a: Mapping[str, Any],
        b: Mapping[str, Any],
        *,
        metric: str = "test/error",
        seeds: int = 6,
        idempotency_key: str | None = None,
    ) -> Comparison:
        """Compare two specs. Only seeds that no job has trained yet are submitted.

        Args:
            a, b: fields of jobs' specs, of one dataset.
            metric: `test/error`, `test/top5_error`, `validation/error` or `train/error`.
            seeds: number of pairs; fewer than 6 cannot show a difference.
            idempotency_key: a call with the key of an earlier one returns that comparison.

        >>> network = {"depth": 8, "dataset": "digits"}
        >>> comparison = client.comparisons.submit(
        ...     {**network, "shortcut": "A"}, {**network, "shortcut": "none"}, seeds=2
        ... )
        >>> comparison.difference.text
        'test error of a against b: no seed has both results yet'

        Raises:
            InvalidInput: `errors` has the fields that are wrong.
        """
        body = {"a": dict(a), "b": dict(b), "metric": metric, "seeds": seeds}
        return self._api.submit(self.PATH, Comparison, body, idempotency_key)

    def get(self, comparison_id: str) -> Comparison:
        """Return the comparison with its difference so far.

        >>> network = {"depth": 8, "dataset": "digits"}
        >>> comparison = client.comparisons.submit(
        ...     {**network, "shortcut": "A"}, {**network, "shortcut": "B"}, seeds=1
        ... )
        >>> client.comparisons.get(comparison.id).total
        2
        """
        return self._api.get(self._path(comparison_id), Comparison)
