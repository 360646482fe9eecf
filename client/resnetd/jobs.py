"""`client.jobs`: submit jobs, find them, follow them, act on them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnetd import downloads, plot, timm_layout
from resnetd.errors import CannotConnect, ServerError, TooManyRequests, error_of_job
from resnetd.event_stream import read_new_events, stream_headers
from resnetd.metrics import Metrics
from resnetd.models import (
    Attempt,
    Checkpoint,
    Envelope,
    Event,
    Groups,
    ImagePrediction,
    Job,
    JobState,
    LogLine,
    Plan,
    Series,
)
from resnetd.records import Record
from resnetd.resources import RunResource, as_list, drop_empty

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class _JobList(Record, frozen=True):
    jobs: tuple[Job, ...]


class _MetricsDocument(Record, frozen=True):
    series: dict[str, Series]


class Jobs(RunResource[Job]):
    """Training jobs.

    Methods that take an id raise NotFound if no job has it, and Conflict if the state of the job
    does not permit the action. Methods that take a spec raise InvalidInput, whose `errors` name
    the fields, CannotFit if the job needs more than the cluster has in total, and
    IdempotencyMismatch if the key was used with another spec. A request that finds no service is
    repeated as `Retry` says; then CannotConnect or Unavailable is raised.
    """

    PATH = "/v1/jobs"
    _name = "jobs"
    _kind = Job

    def submit(
        self,
        spec: Mapping[str, Any] | None = None,
        *,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> Job:
        """Submit a job and return it; `depth`, `shortcut` and `dataset` are enough.

        Args:
            spec: the spec as a mapping, e.g. from a JSON file.
            idempotency_key: a call with the key of an earlier one returns that job instead of a
                new one. By default each call has its own key, which its retries share.
            **fields: fields of the spec; they override those of `spec`.

        >>> job = client.jobs.submit(depth=20, shortcut="A", dataset="digits")
        >>> job.state
        <JobState.QUEUED: 'queued'>
        """
        return self._api.submit(self.PATH, Job, {**(spec or {}), **fields}, idempotency_key)

    def submit_batch(
        self, specs: Iterable[Mapping[str, Any]], *, idempotency_key: str | None = None
    ) -> tuple[Job, ...]:
        """Submit all jobs or, with any error, none.

        Args:
            specs: the specs. In `after`, `#0` is the first of them.
            idempotency_key: as in `submit`, for the batch.

        >>> spec = {"depth": 20, "shortcut": "A", "dataset": "digits"}
        >>> first, second = client.jobs.submit_batch([spec, {**spec, "after": ["#0"]}])
        >>> second.state
        <JobState.BLOCKED: 'blocked'>
        """
        body = {"jobs": [dict(spec) for spec in specs]}
        return self._api.submit("/v1/jobs:batch", _JobList, body, idempotency_key).jobs

    def plan(self, spec: Mapping[str, Any] | None = None, **fields: Any) -> Plan:
        """Estimate size, run time and queue wait of a job without submitting it.

        Args:
            spec, **fields: as in `submit`.

        >>> client.jobs.plan(depth=20, shortcut="A", dataset="cifar10").parameters
        269722
        """
        return self._api.post("/v1/jobs:plan", Plan, {**(spec or {}), **fields})

    def get(self, job_id: str) -> Job:
        """Return the job as it is now.

        >>> client.jobs.get(job.id).name
        'resnet-20-A on digits'
        """
        return self._get(job_id)

    def find(self, prefix: str) -> Job:
        """Return the only job whose id begins with `prefix`. AmbiguousId has `candidates`.

        >>> client.jobs.find(job.id[:14]) == client.jobs.get(job.id)
        True
        """
        return self._find(prefix)

    def list(
        self,
        *,
        state: str | Sequence[str] = (),
        kind: str | Sequence[str] = (),
        dataset: str | None = None,
        tag: str | Sequence[str] = (),
        name: str | None = None,
        text: str | None = None,
        where: str | Sequence[str] = (),
        sort: str | None = None,
        archived: bool | None = None,
        limit: int | None = None,
    ) -> Iterator[Job]:
        """Iterate over the jobs that match all filters, newest first. Pages are read on demand.

        Args:
            state: one or several; a job is in any of them. Default: all.
            kind: `training`, or kinds of analyses. Default: all.
            dataset: the name of the dataset.
            tag: one or several; a job has all of them.
            name: a part of the job's name.
            text: words of its name, note or tags.
            where: conditions such as "depth:20,56" or "result.test_error<8", on fields of the
                spec, the job, the result or metrics.
            sort: a field, or -FIELD for the highest first. Default: newest first.
            archived: whether the jobs are archived. Default: they are not.
            limit: at most this number of jobs. Default: no limit.

        >>> [queued.id == job.id for queued in client.jobs.list(state="queued", limit=1)]
        [True]
        """
        filters = drop_empty(
            state=as_list(state),
            kind=as_list(kind),
            dataset=dataset,
            tag=as_list(tag),
            name=name,
            text=text,
            where=as_list(where),
            sort=sort,
            archived=archived,
        )
        return self._list(limit, filters)

    def update(
        self,
        job_id: str,
        *,
        priority: int | None = None,
        name: str | None = None,
        tags: Sequence[str] | None = None,
        note: str | None = None,
        starred: bool | None = None,
        archived: bool | None = None,
    ) -> Job:
        """Change the fields of a job that are given.

        Args:
            priority: 0 to 100; higher goes first. Only of a job that has not ended, which keeps the
                time of its submission.
            name: the display name.
            tags: in place of its tags.
            note: a text, in place of its note.
            starred: whether the job is marked.
            archived: whether lists leave it out.

        >>> client.jobs.update(job.id, priority=90, note="with cosine").priority
        90
        """
        changes = {
            "priority": priority,
            "name": name,
            "tags": None if tags is None else list(tags),
            "note": note,
            "starred": starred,
            "archived": archived,
        }
        given = {field: value for field, value in changes.items() if value is not None}
        return self._api.patch(self._path(job_id), Job, given)

    def hold(self, job_id: str) -> Job:
        """Keep a waiting job from starting until it is released.

        >>> client.jobs.hold(job.id).state
        <JobState.HELD: 'held'>
        """
        return self._act(job_id, "hold")

    def release(self, job_id: str) -> Job:
        """Release a held job, also one that the service holds. It keeps its place in the queue.

        >>> held = client.jobs.hold(job.id)
        >>> client.jobs.release(job.id).state
        <JobState.QUEUED: 'queued'>
        """
        return self._act(job_id, "release")

    def pause(self, job_id: str) -> Job:
        """Pause a job: a running one saves a checkpoint and frees its workers.

        >>> client.jobs.pause(job.id).state
        <JobState.PAUSED: 'paused'>
        """
        return self._act(job_id, "pause")

    def resume(self, job_id: str) -> Job:
        """Return a paused job to its place in the queue; it continues from its checkpoint.

        >>> paused = client.jobs.pause(job.id)
        >>> client.jobs.resume(job.id).state
        <JobState.QUEUED: 'queued'>
        """
        return self._act(job_id, "resume")

    def cancel(self, job_id: str) -> Job:
        """Cancel a job: a running one saves a checkpoint and stops at its next step.

        >>> client.jobs.cancel(job.id).state
        <JobState.CANCELLED: 'cancelled'>
        """
        return self._act(job_id, "cancel")

    def kill(self, job_id: str) -> Job:
        """End a job now, without a checkpoint.

        >>> client.jobs.kill(job.id).state
        <JobState.CANCELLED: 'cancelled'>
        """
        return self._act(job_id, "kill")

    def clone(
        self,
        job_id: str,
        changes: Mapping[str, Any] | None = None,
        *,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> Job:
        """Submit a new job with the spec of another and changes to it.

        Args:
            changes: merged into the spec, object by object.
            idempotency_key: as in `submit`.
            **fields: more changes; they override those of `changes`.

        >>> client.jobs.clone(job.id, seed=1).spec["seed"]
        1
        """
        body = {**(changes or {}), **fields}
        return self._api.submit(self._path(job_id, "clone"), Job, body, idempotency_key)

    def delete(self, job_id: str) -> None:
        """Delete a job that has ended, with its metrics, logs and checkpoints.

        >>> cancelled = client.jobs.cancel(job.id)
        >>> client.jobs.delete(job.id)
        """
        self._api.delete(self._path(job_id))

    def wait(
        self,
        job_id: str,
        *,
        timeout_seconds: float | None = None,
        check: bool = True,
        poll_seconds: float = 1.0,
    ) -> Job:
        """Return the job when it has ended, or when the service holds it after repeated failures.

        A restart of the service does not end the wait.

        Args:
            timeout_seconds: how long to wait. Default: no limit.
            check: raise an error for a job that did not succeed. Default: True.
            poll_seconds: time between two requests. Default: 1.

        >>> client.jobs.wait(finished.id).result.test_error
        2.5

        Raises:
            NotFinished: `timeout_seconds` are over; `latest` is the job.
            JobFailed, JobTimedOut, JobCancelled: the job did not succeed.
            JobHeld: its attempts failed repeatedly at one iteration; `release` tries again.
        """
        job = self._wait(job_id, timeout_seconds, poll_seconds)
        if check and job.state != JobState.SUCCEEDED:
            raise error_of_job(job)
        return job

    def watch(self, job_id: str, *, after: int = 0, poll_seconds: float = 1.0) -> Iterator[Event]:
        """Iterate over the events of a job as they happen, progress included, until it ends.

        They end also when the service holds the job after repeated failures. Each numbered event
        comes once and in order, also when the connection breaks or the service restarts. Behind a
        proxy that blocks streams the events are polled.

        Args:
            after: only events with a higher number. Default: 0, all.
            poll_seconds: time between two connections. Default: 1.

        >>> [event.data["to"] for event in client.jobs.watch(finished.id) if event.is_final]
        ['succeeded']
        """
        path, patient = self._path(job_id, "events"), self._api.patient()
        while True:
            try:
                with self._api.stream(path, headers=stream_headers(after)) as response:
                    if response.status_code == HTTPStatus.NO_CONTENT:
                        return  # the job has ended, and no event follows
                    for event in read_new_events(response, after):
                        after = event.number or after
                        yield event
                        if event.is_final:
                            return
                        if event.is_held_by_service:
                            break  # unless it was released since, which the job below shows
            except (CannotConnect, ServerError, TooManyRequests):
                pass  # the requests below are repeated
            # The job is read before its events: the final one is then among them.
            is_over = self._is_over(patient.get(self._path(job_id), Job))
            for event in patient.get_numbered(path, "events", Event, after=after):
                after = event.number or after
                yield event
            if is_over:
                return
            self._api.sleep(poll_seconds)

    def follow(self, *job_ids: str, timeout_seconds: float | None = None) -> tuple[Job, ...]:
        """Show the progress of jobs until all have ended, and return them, whatever their outcome.

        In a notebook below the cell, with their curves; in a terminal as bars; elsewhere as lines.

        Args:
            timeout_seconds: how long to follow. Default: no limit.

        >>> [ended] = client.jobs.follow(finished.id)  # doctest: +ELLIPSIS
        0... resnet-8-A on digits, succeeded
        0... succeeded: test error 2.50 %, ...

        Raises:
            NotFinished: `timeout_seconds` are over; the jobs continue.
        """
        # Programs that only submit need no screen, which takes 100 ms to import.
        from resnetd import notebook  # noqa: PLC0415
        from resnetd.cli.watch import watch  # noqa: PLC0415

        jobs = [self._get(job_id) for job_id in job_ids]
        screen = notebook.make_screen()
        return tuple(watch(self, jobs, screen, timeout_seconds=timeout_seconds))

    def events(self, job_id: str, *, after: int = 0) -> Iterator[Event]:
        """Iterate over the events of a job until now, oldest first.

        Args:
            after: only events with a higher number. Default: 0, all.

        >>> [event.kind for event in client.jobs.events(job.id)]
        [<EventKind.SUBMITTED: 'submitted'>]
        """
        return self._api.get_numbered(self._path(job_id, "events"), "events", Event, after=after)

    def logs(
        self,
        job_id: str,
        *,
        after: int = 0,
        tail: int | None = None,
        follow: bool = False,
        poll_seconds: float = 1.0,
    ) -> Iterator[LogLine]:
        """Iterate over the log lines of all attempts of a job, oldest first.

        Args:
            after: only lines with a higher number. Default: 0, all.
            tail: begin with at most this number of the newest lines, up to 1000. Default: all.
            follow: continue with new lines until the job ends, or until the service holds it.
                Default: False.
            poll_seconds: time between two requests for new lines. Default: 1.

        >>> [line.message for line in client.jobs.logs(finished.id, follow=True)]
        ['training begins']
        """
        api = self._api.patient() if follow else self._api
        path = self._path(job_id, "logs")
        if tail is not None:
            newest = api.get_list(path, "lines", LogLine, {"after": after, "tail": tail})
            yield from newest
            if not follow:
                return
            after = newest[-1].number if newest else after
        while True:
            # The job is read before its lines: the last one is then among them.
            is_last = not follow or self._is_over(api.get(self._path(job_id), Job))
            for line in api.get_numbered(path, "lines", LogLine, after=after):
                after = line.number
                yield line
            if is_last:
                return
            self._api.sleep(poll_seconds)

    def metrics(self, job_id: str, *, series: str | Sequence[str] = ()) -> Metrics:
        """Return the metrics of a job by name: train/loss, train/error, test/loss, test/error ...

        `to_pandas()` and `to_polars()` of the result make a frame.

        Args:
            series: the names of the series. Default: all.

        >>> client.jobs.metrics(finished.id, series="test/error")["test/error"].values
        (50.0, 2.5)
        """
        params = drop_empty(series=as_list(series))
        read = self._api.get(self._path(job_id, "metrics"), _MetricsDocument, params)
        return Metrics(read.series)

    def metrics_csv(self, job_id: str, *, series: str | Sequence[str] = ()) -> str:
        """Return the metrics of a job as CSV.

        Args:
            series: as in `metrics`.

        >>> client.jobs.metrics_csv(finished.id).splitlines()[0]
        'series,iteration,value,seconds,time'
        """
        params = drop_empty(series=as_list(series), format="csv")
        return self._api.get_text(self._path(job_id, "metrics"), params)

    def plot(self, job_ids: str | Sequence[str], *, axes: "Axes | None" = None) -> "Axes":
        """Draw the errors of jobs as the paper does: train dashed, test bold. Needs matplotlib.

        Plain networks have warm colors, residual networks cold ones.

        Args:
            job_ids: one or several; each has a color.
            axes: axes of matplotlib to draw in. Default: a new figure.

        >>> client.jobs.plot(finished.id).get_ylabel()
        'error (%)'
        """
        curves: dict[str, Metrics] = {}
        plain = set()
        for job_id in as_list(job_ids):
            job = self._get(job_id)
            label = job.name if job.name not in curves else f"{job.name}, {job_id}"
            if job.spec["shortcut"] == "none":
                plain.add(label)
            curves[label] = self.metrics(job_id, series=("train/error", "test/error"))
        return plot.draw(curves, axes, plain=plain)

    def compare(self, job_ids: Sequence[str], *, metric: str = "test/error") -> Groups:
        """Compare jobs in groups: those that train the same but for the seed are one group.

        The first group, that of the newest job, is compared with each other over pairs of equal
        seeds. Nothing is submitted.

        Args:
            job_ids: of two groups or more, up to 10.
            metric: `test/error`, `test/top5_error`, `validation/error` or `train/error`.

        >>> groups = client.jobs.compare([finished.id, client.submit(depth=8, dataset="digits",
        ...     shortcut="none").id])
        >>> sorted(group.fields["shortcut"] for group in groups.groups)
        ['A', 'none']
        >>> groups.differences[0].text
        'test error: the groups have no pair of results of one seed and dataset'
        """
        return self._api.get("/v1/groups", Groups, {"job": list(job_ids), "metric": metric})

    def attempts(self, job_id: str) -> tuple[Attempt, ...]:
        """Return the attempts of a job, oldest first.

        >>> [attempt.reason for attempt in client.jobs.attempts(finished.id)]
        [<Reason.COMPLETED: 'completed'>]
        """
        return self._api.get_list(self._path(job_id, "attempts"), "attempts", Attempt)

    def checkpoints(self, job_id: str) -> tuple[Checkpoint, ...]:
        """Return the checkpoints of a job, newest first.

        >>> [checkpoint.iteration for checkpoint in client.jobs.checkpoints(finished.id)]
        [20]
        """
        return self._api.get_list(self._path(job_id, "checkpoints"), "checkpoints", Checkpoint)

    def envelope(self, job_id: str) -> Envelope:
        """Return whether the curve of a job is normal, beside completed jobs with other seeds.

        >>> client.jobs.envelope(job.id).message
        'unknown: needs 3 completed jobs that differ only in the seed; has 0'
        """
        return self._api.get(self._path(job_id, "envelope"), Envelope)

    def result_card(self, job_id: str) -> bytes:
        """Return the signed result card of a completed job: canonical JSON.

        An unchanged job has the same card, byte for byte. `resnetd verify` checks it.

        >>> card = client.jobs.result_card(finished.id)
        >>> json.loads(card)["card"]["result"]["wrong_test_images"]
        9

        Raises:
            Conflict: the training is not complete.
        """
        return self._api.get_bytes(self._path(job_id, "result-card"), {})

    def download(
        self,
        job_id: str,
        which: str | None = None,
        *,
        format: str = "safetensors",  # noqa: A002 - the name in the API
        path: str | Path | None = None,
        on_progress: downloads.OnProgress | None = None,
    ) -> Path:
        """Download weights, verify their checksum, and return their path.

        Args:
            which: the `best` checkpoint, the `newest`, or the one with this id. Default: `best`
                for `safetensors` and `timm`; `newest` for the other formats, which only the last
                checkpoint of a finished job has.
            format: `safetensors` (default), `pt` for `torch.load(weights_only=True)`, `onnx`,
                `pt2` (a torch.export program), `onnx-image` and `pt2-image` (with the
                preprocessing inside), `card` (the model card), `predictions` (the logits
                of the test images, as safetensors), or `timm`: a folder that timm, torch.hub
                and the Hugging Face Hub read.
            path: a file, which is replaced, or a folder. Default: the working directory; for
                `timm` a new folder in it.
            on_progress: called with the bytes received so far and in total, None if unknown.

        >>> client.jobs.download(finished.id, "newest", path="net.safetensors")
        PosixPath('net.safetensors')

        Raises:
            NotFound: there is no such checkpoint.
            CorruptDownload: the bytes do not match their checksum. Nothing is left on disk
                after an error.
            NoSuchNetwork: timm has no network that computes the same logits.
        """
        which = which or ("best" if format in {"safetensors", timm_layout.FORMAT} else "newest")
        if format == timm_layout.FORMAT:
            folder = Path(path or f"{job_id}-{which}-{timm_layout.FORMAT}")
            return timm_layout.download(
                lambda file: self.download(job_id, which, path=file, on_progress=on_progress),
                folder,
            )
        return downloads.download(
            self._api,
            self._path(job_id, "checkpoints", which, "weights"),
            {"format": format},
            path=Path(path or "."),
            default_name=f"{job_id}-{which}.{format}",
            on_progress=on_progress,
        )

    def predict(self, job_id: str, image: str | Path | bytes) -> ImagePrediction:
        """Return the five likeliest classes of an image, by the network of a finished job.

        Args:
            image: the path of an image file, or its bytes. At most 16 MiB and 33 million pixels.

        >>> predicted = client.jobs.predict(classifier.id, "picture.png")
        >>> [found.class_name for found in predicted.classes]
        ['red', 'green', 'blue']

        Raises:
            Conflict: the job has no network that was exported as `onnx-image`.
            InvalidInput: the file is no image, or is too large.
        """
        content = image if isinstance(image, bytes) else Path(image).read_bytes()
        return self._api.post_bytes(self._path(job_id, "predictions"), ImagePrediction, content)

    def _is_over(self, run: Job) -> bool:
        return run.is_final or run.is_held_by_service

    def _act(self, job_id: str, action: str) -> Job:
        return self._api.post(self._path(job_id, action), Job)
