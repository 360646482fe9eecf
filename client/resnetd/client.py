"""The client: one method for each thing that the service can be asked."""

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from resnetd import config, download, errors, stream
from resnetd.answers import R, job_path, key_header, read, read_list
from resnetd.decoding import Record
from resnetd.errors import (
    AmbiguousId,
    CannotConnect,
    NotFinished,
    NotFound,
    Unavailable,
)
from resnetd.models import (
    Attempt,
    Checkpoint,
    Cluster,
    Dataset,
    Event,
    Job,
    JobState,
    LogLine,
    Progress,
    Recipe,
    Series,
)
from resnetd.searches import Searches
from resnetd.steering import Steering
from resnetd.transport import Patience, Retry, Transport
from resnetd.webhooks import Webhooks

# A ready server lists this many jobs in a few milliseconds.
_PAGE = 100

# How many candidates an ambiguous id is answered with.
_CANDIDATES = 5

T = TypeVar("T")


class Client(Steering, Searches, Webhooks):
    """A connection to one service. Use it as a context manager, or close it.

    Args:
        url: of the service; by default from RESNETD_URL or the config file.
        token: by default from RESNETD_TOKEN, RESNETD_TOKEN_FILE, the config file or ./var/token.
        retry: how often a call is repeated before CannotConnect or Unavailable.
        timeout_seconds: for each connection, read and write; not for a whole call.

    Example:
        with resnetd.Client() as client:
            job = client.submit(depth=20, shortcut="A", dataset="digits")
            print(client.wait(job.id).result)

    Threads may share one client. All errors are below resnetd.ResnetdError.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        retry: Retry | None = None,
        timeout_seconds: float = 30.0,
    ) -> None:
        connection = config.connection(url, token)
        self.url = connection.url
        self._retry = retry or Retry()
        self._transport = Transport(connection, retry=self._retry, timeout_seconds=timeout_seconds)

    def __repr__(self) -> str:
        return f"Client({self.url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._transport.close()

    def submit(
        self,
        spec: Mapping[str, Any] | None = None,
        *,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> Job:
        """A new job from a spec, from its fields, or from a spec and the fields that differ.

        `depth`, `shortcut` and `dataset` are enough. A repeated call with the same
        `idempotency_key` answers the first job; without one, each call is its own job, and only
        this call's retries share a key.
        """
        body = {**(spec or {}), **fields}
        return read(Job, self._transport.post("/v1/jobs", body, key_header(idempotency_key)))

    def job(self, job_id: str) -> Job:
        return read(Job, self._transport.get(job_path(job_id)))

    def jobs(
        self,
        *,
        state: str | Sequence[str] = (),
        dataset: str | None = None,
        tag: str | Sequence[str] = (),
        name: str | None = None,
        limit: int | None = None,
    ) -> Iterator[Job]:
        """Newest first; pages are read as they are needed. `limit` None: all.

        Of several states any will do, of several tags all must be there; `name` is a part of it.
        """
        params = _given(
            state=_several(state),
            dataset=dataset,
            tag=_several(tag),
            name=name,
            limit=min(limit or _PAGE, _PAGE),
        )
        return itertools.islice(self._job_pages(params), limit)

    def find_job(self, prefix: str) -> Job:
        """The job with that id, or the only one whose id begins so. AmbiguousId, NotFound."""
        try:
            return self.job(prefix)
        except NotFound:
            asked = {"id_prefix": prefix, "limit": _CANDIDATES}
            found = read(_JobPage, self._transport.get("/v1/jobs", asked)).jobs
            if not found:
                raise
        if len(found) > 1:
            raise AmbiguousId(prefix, found)
        return found[0]

    def progress(self, job_id: str) -> Progress | None:
        """None until the training processes are up."""
        answer = self._transport.get(job_path(job_id, "progress"))
        return read(Progress, answer) if answer is not None else None

    def metrics(
        self, job_id: str, *, series: str | Sequence[str] = (), points: int | None = None
    ) -> dict[str, Series]:
        """Each series by its name, as train/loss, train/error, test/loss or test/error.

        `points` thins each series to at most so many.
        """
        answer = self._transport.get(
            job_path(job_id, "metrics"), _given(series=_several(series), points=points)
        )
        return read(_Metrics, answer).series

    def metrics_csv(
        self, job_id: str, *, series: str | Sequence[str] = (), points: int | None = None
    ) -> str:
        """Lines of series,iteration,value under a header."""
        params = _given(series=_several(series), points=points, format="csv")
        return self._transport.get_text(job_path(job_id, "metrics"), params)

    def events(self, job_id: str, *, after: int = 0) -> Iterator[Event]:
        """What has happened so far, oldest first; for what happens from now on, `follow`."""
        while page := self._list(Event, "events", job_path(job_id, "events"), {"after": after}):
            yield from page
            after = max(event.number or after for event in page)

    def follow(self, job_id: str, *, after: int = 0) -> Iterator[Event]:
        """Events as they happen, progress among them, until the job is final.

        Numbered events come once each and in order, whatever happens to the connection.
        """
        return stream.follow(
            lambda number: self._open_stream(job_id, number),
            lambda number: self._read_rest(job_id, number),
            after=after,
            retry=self._retry,
        )

    def logs(self, job_id: str, *, after: int = 0) -> Iterator[LogLine]:
        """What has been logged so far, oldest first."""
        while page := self._log_page(job_id, after):
            yield from page
            after = page[-1].number

    def follow_logs(
        self, job_id: str, *, after: int = 0, poll_seconds: float = 1.0
    ) -> Iterator[LogLine]:
        """Lines as they are logged, until the job is final."""
        patience = Patience(self._retry)
        while True:
            # Asked before the lines: what was logged before the end is then among them.
            job = self._if_heard(partial(self.job, job_id), patience)
            page = self._if_heard(partial(self._log_page, job_id, after), patience)
            for line in page or ():
                after = line.number
                yield line
            if page == [] and job is not None and job.is_final:
                return
            if not page:
                time.sleep(poll_seconds)

    def attempts(self, job_id: str) -> list[Attempt]:
        return self._list(Attempt, "attempts", job_path(job_id, "attempts"))

    def checkpoints(self, job_id: str) -> list[Checkpoint]:
        """Newest first."""
        return self._list(Checkpoint, "checkpoints", job_path(job_id, "checkpoints"))

    def wait(
        self,
        job_id: str,
        *,
        timeout_seconds: float | None = None,
        is_checked: bool = True,
        poll_seconds: float = 1.0,
    ) -> Job:
        """The job, once it is final.

        NotFinished after `timeout_seconds`. JobFailed, JobTimedOut or JobCancelled where it did
        not succeed, unless `is_checked` is False.
        """
        patience = Patience(self._retry, at_most_seconds=timeout_seconds)
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        job: Job | None = None
        while True:
            job = self._if_heard(partial(self.job, job_id), patience) or job
            if job is not None and job.is_final:
                break
            left = poll_seconds if deadline is None else deadline - time.monotonic()
            if job is not None and left <= 0:
                raise NotFinished(job, timeout_seconds=timeout_seconds or 0.0)
            time.sleep(max(0.0, min(left, poll_seconds)))
        if is_checked and job.state != JobState.SUCCEEDED:
            raise errors.of_job(job)
        return job

    def download(
        self,
        job_id: str,
        which: str = "best",
        *,
        format: str = "safetensors",  # noqa: A002 - the API's word
        path: str | Path | None = None,
        on_progress: download.OnProgress | None = None,
    ) -> Path:
        """Weights of the `best` or `newest` checkpoint, or of one by its id; where they lie now.

        `path` may be a file, which is replaced, or a folder; None is the working directory.
        `format`: safetensors, or pt for torch.load(weights_only=True). DownloadCorrupt where
        the bytes differ from their checksum; then, as after any error, nothing is left behind.
        """
        left = self._retry.attempts
        for delay in self._retry.delays():
            left -= 1
            try:
                with self._transport.stream(
                    job_path(job_id, "checkpoints", which, "weights"),
                    params={"format": format},
                    # The checksum is that of the bytes as they lie in the store.
                    headers={"Accept-Encoding": "identity"},
                ) as response:
                    return download.save(
                        response,
                        None if path is None else Path(path),
                        default_name=f"{job_id}-{which}.{format}",
                        on_progress=on_progress,
                    )
            except (CannotConnect, Unavailable):
                if left <= 0:
                    raise
            time.sleep(delay)
        raise AssertionError("delays have no end")

    def datasets(self) -> list[Dataset]:
        return self._list(Dataset, "datasets", "/v1/datasets")

    def recipes(self) -> list[Recipe]:
        return self._list(Recipe, "recipes", "/v1/recipes")

    def cluster(self) -> Cluster:
        return read(Cluster, self._transport.get("/v1/cluster"))

    def health(self) -> None:
        """Returns where the service is up. CannotConnect or Unavailable at once where it is not."""
        self._transport.get("/v1/health", is_retried=False)

    def _job_pages(self, params: dict[str, Any]) -> Iterator[Job]:
        while True:
            page = read(_JobPage, self._transport.get("/v1/jobs", params))
            yield from page.jobs
            if page.next_page_token is None:
                return
            params = params | {"page_token": page.next_page_token}

    def _list(
        self, kind: type[R], name: str, where: str, params: Mapping[str, Any] | None = None
    ) -> list[R]:
        return read_list(kind, name, self._transport.get(where, params))

    def _open_stream(self, job_id: str, number: int) -> AbstractContextManager[httpx.Response]:
        headers = {
            "Accept": "text/event-stream",
            "Cache-Control": "no-store",
            "Last-Event-ID": str(number),
        }
        return self._transport.stream(job_path(job_id, "events"), headers=headers)

    def _read_rest(self, job_id: str, number: int) -> tuple[list[Event], bool]:
        # The job before its events: the one that made it final is then among them.
        is_final = self.job(job_id).is_final
        return list(self.events(job_id, after=number)), is_final

    def _log_page(self, job_id: str, after: int) -> list[LogLine]:
        return self._list(LogLine, "lines", job_path(job_id, "logs"), {"after": after})

    def _if_heard(self, ask: Callable[[], T], patience: Patience) -> T | None:
        """None while the service is away, as long as that may be."""
        try:
            answer = ask()
        except (CannotConnect, Unavailable):
            if patience.is_over:
                raise
            return None
        patience.heard()
        return answer


@dataclass(frozen=True, kw_only=True)
class _JobPage(Record):
    jobs: tuple[Job, ...]
    next_page_token: str | None = None


@dataclass(frozen=True, kw_only=True)
class _Metrics(Record):
    series: dict[str, Series]


def _several(values: str | Sequence[str]) -> list[str]:
    return [values] if isinstance(values, str) else list(values)


def _given(**params: Any) -> dict[str, Any]:
    return {name: value for name, value in params.items() if value}
