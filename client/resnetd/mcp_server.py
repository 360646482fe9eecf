"""`resnetd mcp`: an MCP server whose tools plan, submit, follow, compare and explain jobs.

It needs the extra `mcp` of this package. What it may spend is limited when it starts: the number of
jobs, and the seconds of training of each.
"""

import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal

import anyio
import msgspec
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations
from pydantic import Field

from resnetd import spec_help
from resnetd.client import Client
from resnetd.errors import ApiError, ResnetdError, ServerError
from resnetd.models import Attempt, Job

_INSTRUCTIONS = (
    "Trains ResNets as jobs of a resnetd service. A job is a spec: depth, shortcut (A, B, C, or "
    "none for a plain network), dataset, and optionally recipe, seed and others; `list_choices` "
    "has the names. Plan a job before you submit it. Each submission spends compute time and "
    "needs a budget in seconds; `show_limits` says what is left. Follow a job until it is over, "
    "and ask `explain_job` when it waits long or has failed. A difference between two networks "
    "takes six seeds or more of each, which `compare_jobs` tests. Errors are percent."
)
_SHOWN = (
    *("id", "name", "network", "kind", "state", "reason", "message", "user", "stop_requested"),
    *("created_at", "started_at", "finished_at", "attempts", "waiting", "progress", "bottleneck"),
    "result",
)
# Of a traceback the last characters have the cause.
_MAX_MESSAGE = 2_000
_MAX_ATTEMPTS = 5

Document = dict[str, Any]
JobId = Annotated[str, Field(description="id of a job")]
Spec = Annotated[
    Document,
    Field(
        description="Spec of the job without recipe.max_seconds. Enough are depth, shortcut and "
        'dataset, as {"depth": 20, "shortcut": "A", "dataset": "digits"}; recipe is a name or an '
        'object such as {"name": "quick", "iterations": 200}'
    ),
]
Seconds = Annotated[
    float,
    Field(
        gt=0,
        description="recipe.max_seconds: training ends after this time. Evaluations and waiting "
        "do not count",
    ),
]


@dataclass(frozen=True)
class Limits:
    """Of one server. `folder`: where weights are downloaded to; None: they are not."""

    jobs: int
    seconds: float
    folder: Path | None = None


def make_server(client: Client, limits: Limits, *, poll_seconds: float = 1.0) -> MCPServer[Any]:
    """The server with its tools. `poll_seconds`: between two requests of `follow_job`."""
    server: MCPServer[Any] = MCPServer(
        "resnetd",
        instructions=_INSTRUCTIONS,
        version=metadata.version("resnetd"),
        log_level="WARNING",
    )
    tools = _Tools(client, limits, poll_seconds)

    def add(function: Callable[..., Any], title: str, hints: ToolAnnotations) -> None:
        # Without the indentation that the docstring has in the source.
        text = inspect.getdoc(function)
        server.add_tool(function, title=title, description=text, annotations=hints)

    for function, title in (
        (tools.show_limits, "Show what may be spent, and whose token it is"),
        (tools.list_choices, "List datasets and recipes"),
        (tools.describe_fields, "Explain the fields of specs"),
        (tools.plan_job, "Estimate a job without submitting it"),
        (tools.list_jobs, "List jobs"),
        (tools.follow_job, "Wait for news of a job"),
        (tools.explain_job, "Explain why a job waits or how it ended"),
        (tools.compare_jobs, "Compare groups of jobs over seeds"),
    ):
        add(function, title, _READS)
    add(tools.submit_job, "Submit a job, which spends compute time", _SPENDS)
    add(tools.cancel_job, "Cancel a job", _ENDS)
    if limits.folder is not None:
        add(tools.download_weights, "Download weights to the folder", _WRITES)
    return server


# Hints of a server that reaches one service: its world is closed. Each says all four, since the
# defaults of the protocol are the worst case.
_READS = ToolAnnotations(
    read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
)
_SPENDS = ToolAnnotations(
    read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=False
)
_WRITES = ToolAnnotations(
    read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=False
)
_ENDS = ToolAnnotations(
    read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False
)


@contextmanager
def _refusals() -> Iterator[None]:
    """Errors on purpose reach the caller in words; of all others it sees no text."""
    try:
        yield
    except (ResnetdError, OSError, ValueError) as error:
        raise ToolError("; ".join([str(error), *getattr(error, "__notes__", ())])) from error


class _Tools:
    """The tools. Their docstrings are what a model reads of them."""

    def __init__(self, client: Client, limits: Limits, poll_seconds: float) -> None:
        self._client = client
        self._limits = limits
        self._poll_seconds = poll_seconds
        self._lock = threading.Lock()
        self._submitted: set[str] = set()
        self._unknown = 0

    @_refusals()
    def show_limits(self) -> Document:
        """Show how many jobs this server may still submit, the largest budget of a job, whose token
        it uses and what that permits, and the cluster.

        With a `tag`, the token reaches only jobs that have it; submitted jobs get it.
        """
        return {
            "jobs_left": self._jobs_left,
            "jobs_submitted": sorted(self._submitted),
            "largest_max_seconds": self._limits.seconds,
            "download_folder": None if self._limits.folder is None else str(self._limits.folder),
            "session": self._client.whoami().document,
            "cluster": self._client.cluster().document,
        }

    @_refusals()
    def list_choices(self) -> Document:
        """List the datasets and the recipes that a spec can name."""
        names = ("name", "title", "classes", "height", "width", "train_images", "available")
        return {
            "datasets": [
                {name: dataset.document.get(name) for name in names}
                for dataset in self._client.datasets.list()
            ],
            "recipes": {recipe.name: recipe.source for recipe in self._client.recipes.list()},
        }

    @_refusals()
    def describe_fields(
        self,
        topic: Annotated[
            str | None,
            Field(
                description="job, recipe, resources or another part of a spec, or the name of a "
                "field; none: list the topics"
            ),
        ] = None,
    ) -> Document:
        """Explain the fields of specs: type, default and meaning."""
        if topic is None:
            return {known.name: known.text for known in spec_help.read_topics()}
        found = spec_help.find_topics(topic)
        return {described.name: msgspec.to_builtins(described.fields) for described in found}

    @_refusals()
    def plan_job(self, spec: Spec, max_seconds: Seconds) -> Document:
        """Estimate parameters, memory, duration and queue wait of a job. Nothing is submitted.

        `notes` are advice about the spec. A spec that cannot be submitted is refused as
        `submit_job` would.
        """
        plan = self._client.jobs.plan(self._add_budget(spec, max_seconds))
        return {name: _round(value) for name, value in plan.document.items() if name != "spec"}

    @_refusals()
    def submit_job(
        self,
        spec: Spec,
        max_seconds: Seconds,
        idempotency_key: Annotated[
            str | None,
            Field(description="repeat a call with its key to get the same job, not a second one"),
        ] = None,
    ) -> Document:
        """Submit a job. It waits in the queue, then trains at most `max_seconds`.

        The number of jobs of this server and their budgets are limited; `jobs_left` says by how
        much.
        """
        written = self._add_budget(spec, max_seconds)
        with self._lock:
            if self._jobs_left <= 0:
                raise ToolError(
                    f"the limit of submissions of this server is reached: {self._limits.jobs}; "
                    "the person who started it sets --max-jobs"
                )
            try:
                if self._tag is not None:
                    written["tags"] = sorted({self._tag, *(written.get("tags") or ())})
                job = self._client.submit(written, idempotency_key=idempotency_key)
            except ResnetdError as error:
                # Without a response the job may exist.
                self._unknown += not isinstance(error, ApiError) or isinstance(error, ServerError)
                raise
            self._submitted.add(job.id)
            return _summarize(job) | {"jobs_left": self._jobs_left}

    async def follow_job(
        self,
        job_id: JobId,
        context: Context[Any, Any],
        wait_seconds: Annotated[
            float, Field(ge=0, le=120, description="how long to wait for a change of its state")
        ] = 20.0,
    ) -> Document:
        """Return state, progress and newest metrics of a job.

        It returns when the state changes, when the job is over, or after `wait_seconds`. While it
        waits, progress is reported. Call it again until `is_over`.
        """
        deadline = anyio.current_time() + wait_seconds
        first: Job | None = None
        while True:
            with _refusals():
                job = await anyio.to_thread.run_sync(self._client.jobs.get, job_id)
            first = first or job
            if job.progress is not None:
                await context.report_progress(
                    job.progress.iteration, job.progress.iterations, str(job.state)
                )
            remaining = deadline - anyio.current_time()
            if _is_over(job) or job.state != first.state or remaining <= 0:
                return _summarize(job)
            await anyio.sleep(min(remaining, self._poll_seconds))

    @_refusals()
    def list_jobs(
        self,
        state: Annotated[
            list[str],
            Field(
                description="any of blocked, queued, held, paused, starting, running, succeeded, "
                "failed, cancelled; empty: all"
            ),
        ] = [],  # noqa: B006 - a default of the published schema
        tag: Annotated[str | None, Field(description="a tag that they have")] = None,
        where: Annotated[
            list[str],
            Field(description='conditions such as "depth:20,56" or "result.test_error<8"'),
        ] = [],  # noqa: B006
        sort: Annotated[
            str | None, Field(description="field, -FIELD for the highest first")
        ] = None,
        limit: Annotated[int, Field(ge=1, le=100)] = 20,
    ) -> Document:
        """List the jobs that match all filters, newest first."""
        found = self._client.jobs.list(
            state=state, tag=tag or (), where=where, sort=sort, limit=limit
        )
        return {"jobs": [_summarize(job) for job in found]}

    @_refusals()
    def explain_job(
        self,
        job_id: JobId,
        log_lines: Annotated[int, Field(ge=0, le=200, description="newest lines of the log")] = 20,
    ) -> Document:
        """Explain why a job waits, how its attempts ended, and show the end of its log.

        `blame` of an attempt is `user` where the spec or the training is the cause,
        `infrastructure` or `platform` where it is not; those are repeated by the service.
        """
        job = self._client.jobs.get(job_id)
        attempts = self._client.jobs.attempts(job_id)[-_MAX_ATTEMPTS:]
        lines = self._client.jobs.logs(job_id, tail=log_lines)
        return _summarize(job) | {
            "why": _explain(job),
            "last_attempts": [_describe_attempt(attempt) for attempt in attempts],
            "log": [f"{line.level}: {line.message}" for line in lines],
        }

    @_refusals()
    def compare_jobs(
        self,
        job_ids: Annotated[
            list[str], Field(min_length=2, max_length=100, description="jobs of all groups")
        ],
        metric: Annotated[
            str,
            Field(description="test/error, test/top5_error, validation/error or train/error"),
        ] = "test/error",
    ) -> Document:
        """Compare jobs, grouped by their spec without the seed. Nothing is submitted.

        Each group has mean, deviation and 95 % interval of its results. The first group is tested
        against each other over pairs of equal seeds: `mean` of a difference is `a` minus `b`.
        Fewer than 6 pairs cannot show a difference.
        """
        groups = self._client.jobs.compare(job_ids, metric=metric)
        found = {job.id for group in groups.groups for job in group.jobs}
        if missing := [job_id for job_id in job_ids if job_id not in found]:
            raise ToolError(f"no trainings: {', '.join(missing)}")
        return {
            "groups": [
                {name: _round(group.document.get(name)) for name in ("fields", "jobs", "results")}
                for group in groups.groups
            ],
            "differences": [
                _round(difference.document)
                | {
                    "a": groups.groups[difference.a].fields,
                    "b": groups.groups[difference.b].fields,
                }
                for difference in groups.differences
            ],
        }

    @_refusals()
    def download_weights(
        self,
        job_id: JobId,
        which: Annotated[
            str | None, Field(description="best, newest, or the id of a checkpoint")
        ] = None,
        file_format: Annotated[
            # Not timm, which is a folder of several files.
            Literal["safetensors", "pt", "onnx", "pt2", "onnx-image", "pt2-image", "card"],
            Field(description="all but safetensors are of a finished job"),
        ] = "safetensors",
    ) -> Document:
        """Download weights of a job to the folder of this server, and verify their checksum.

        The name has the job and the iteration; an earlier download of the same is replaced.
        """
        path = self._client.jobs.download(
            job_id, which, format=file_format, path=self._limits.folder
        )
        return {"path": str(path.resolve()), "bytes": path.stat().st_size}

    @_refusals()
    def cancel_job(self, job_id: JobId) -> Document:
        """Cancel a job: a running one saves a checkpoint and ends. It cannot be resumed.

        The token must permit it: its scope is `full`, and the job belongs to its person.
        """
        return _summarize(self._client.jobs.cancel(job_id))

    @cached_property
    def _tag(self) -> str | None:
        """The only tag whose jobs the token reaches, if there is one."""
        return self._client.whoami().tag

    @property
    def _jobs_left(self) -> int:
        return self._limits.jobs - len(self._submitted) - self._unknown

    def _add_budget(self, spec: Document, max_seconds: float) -> Document:
        """A copy of the spec with `recipe.max_seconds`. ToolError where it is above the limit."""
        if max_seconds > self._limits.seconds:
            raise ToolError(
                f"max_seconds must be at most {self._limits.seconds:g}, received {max_seconds:g}; "
                "the person who started this server sets --max-seconds"
            )
        recipe = spec.get("recipe") or {}
        if isinstance(recipe, str):
            recipe = {"name": recipe}
        if not isinstance(recipe, dict) or "max_seconds" in recipe:
            raise ToolError(
                "recipe must be a name, or an object without max_seconds, which is an argument of "
                f"its own; received {recipe!r}"
            )
        return spec | {"recipe": recipe | {"max_seconds": max_seconds}}


def _is_over(job: Job) -> bool:
    """Whether it has ended, or waits for a person."""
    return job.is_final or job.is_held_by_service


def _summarize(job: Job) -> Document:
    """What the service says of the job, without its spec and what is empty."""
    shown = {name: job.document.get(name) for name in _SHOWN}
    shown["message"] = _shorten(job.message)
    return {name: _round(value) for name, value in shown.items() if value is not None} | {
        "is_over": _is_over(job)
    }


def _round(value: Any) -> Any:
    """Of numbers six digits, which is more than a model needs to read."""
    match value:
        case float():
            return float(f"{value:.6g}")
        case dict():
            return {name: _round(member) for name, member in value.items()}
        case list():
            return [_round(member) for member in value]
        case _:
            return value


def _explain(job: Job) -> str:
    if job.is_held_by_service:
        return f"held by the service after repeated failures ({job.reason}); a person releases it"
    if job.waiting is not None:
        return f"waits ({job.waiting.code}): {job.waiting.message}"
    if job.stop_requested is not None:
        return f"ends at its next step: {job.stop_requested}"
    is_new = job.reason is not None and str(job.reason) != str(job.state)
    cause = f" ({job.reason})" if is_new else ""
    return f"{job.state}{cause}" + (f": {_shorten(job.message)}" if job.message else "")


def _describe_attempt(attempt: Attempt) -> Document:
    shown = {
        "number": attempt.number,
        "state": attempt.state,
        "reason": attempt.reason,
        "blame": attempt.blame,
        "message": _shorten(attempt.message),
    }
    return {name: value for name, value in shown.items() if value is not None}


def _shorten(message: str | None) -> str | None:
    if message is None or len(message) <= _MAX_MESSAGE:
        return message
    return f"... {message[-_MAX_MESSAGE:]}"
