"""What can be asked of jobs that are there, and of several at once."""

from collections.abc import Iterable, Mapping
from typing import Any

from resnetd.answers import job_path, key_header, read, read_list
from resnetd.models import Job, Plan, WaitingJob
from resnetd.transport import Transport


class Steering:
    """The part of the client that steers jobs. Each call may be repeated."""

    _transport: Transport

    def submit_batch(
        self, specs: Iterable[Mapping[str, Any]], *, idempotency_key: str | None = None
    ) -> list[Job]:
        """All jobs or, with any error, none. In `after`, `#0` is the first of them."""
        body = {"jobs": [dict(spec) for spec in specs]}
        answer = self._transport.post("/v1/jobs:batch", body, key_header(idempotency_key))
        return read_list(Job, "jobs", answer)

    def plan(self, spec: Mapping[str, Any] | None = None, **fields: Any) -> Plan:
        """What `submit` would make of it, how long it would wait and take; submits nothing."""
        return read(Plan, self._transport.post("/v1/jobs:plan", {**(spec or {}), **fields}))

    def queue(self, *, limit: int = 50) -> list[WaitingJob]:
        """Jobs that may start in their order, then those that may not yet."""
        return read_list(WaitingJob, "jobs", self._transport.get("/v1/queue", {"limit": limit}))

    def clone(
        self,
        job_id: str,
        changes: Mapping[str, Any] | None = None,
        *,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> Job:
        """A new job from another's spec, with the changes merged into it."""
        body = {**(changes or {}), **fields}
        answer = self._transport.post(job_path(job_id, "clone"), body, key_header(idempotency_key))
        return read(Job, answer)

    def change_priority(self, job_id: str, priority: int) -> Job:
        """0 to 100; higher goes first. The job's place moves as if it had been submitted so."""
        return read(Job, self._transport.patch(job_path(job_id), {"priority": priority}))

    def hold(self, job_id: str) -> Job:
        """Keeps a waiting job from starting until it is released."""
        return self._ask(job_id, "hold")

    def release(self, job_id: str) -> Job:
        """Ends a hold; the job has kept its place."""
        return self._ask(job_id, "release")

    def pause(self, job_id: str) -> Job:
        """A waiting job does not start; a running one saves a checkpoint and frees its workers."""
        return self._ask(job_id, "pause")

    def resume(self, job_id: str) -> Job:
        """A paused job is back at its place in the queue."""
        return self._ask(job_id, "resume")

    def cancel(self, job_id: str) -> Job:
        """A waiting job is cancelled at once; a running one saves a checkpoint and stops."""
        return self._ask(job_id, "cancel")

    def kill(self, job_id: str) -> Job:
        """Ends a job without waiting for a checkpoint."""
        return self._ask(job_id, "kill")

    def delete(self, job_id: str) -> None:
        """Forgets a job that has ended, with its metrics, logs and checkpoints."""
        self._transport.delete(job_path(job_id))

    def _ask(self, job_id: str, verb: str) -> Job:
        return read(Job, self._transport.post(job_path(job_id, verb)))
