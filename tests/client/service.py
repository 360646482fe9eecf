"""The real API with jobs that tests drive in place of the dispatcher and the workers."""

from datetime import timedelta
from typing import Any

from service.states import Reason
from tests.client.faults import Fault, FaultyTransport
from tests.support.api import Api
from tests.support.core import START, job_id_of, make_point, note, written
from tests.support.searching import Searching

SPEC = written()


class Service:
    """`api` is the API on its port, `transport` that of the clients under test."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.core = api.core
        self.url = api.url
        self.transport = FaultyTransport()
        self.core.record_cluster(cpus=64)

    def inject(self, *faults: Fault) -> None:
        """The faults happen to the next requests, one each."""
        self.transport.faults = list(faults)

    def submit(self, **fields: Any) -> str:
        """The id of a new job."""
        return self.core.submit(**fields)

    def submit_later(self, days: int) -> str:
        """The id of a job of another day: its first characters differ."""
        self.core.clock.advance(timedelta(days=days).total_seconds())
        return self.submit()

    def run(self, **fields: Any) -> "Training":
        """A new job whose training runs."""
        self.submit(**fields)
        return self.run_next()

    def run_next(self) -> "Training":
        training = Training(self.api)
        training.report()
        return training

    def search(self, *errors: float) -> str:
        """The id of a running search with a finished trial for each error."""
        searching = Searching(self.core)
        search_id = searching.run(budget={"trials": max(1, len(errors))})
        for number, error in enumerate(errors, start=1):
            searching.assign_trial(search_id, str(number), 0.001 * number)
            training = self.run_next()
            training.progress(20, test_error=error)
            training.save(20, test_error=error)
            training.finish()
        return search_id

    def hold(self) -> str:
        """The id of a job whose three attempts died, which the service holds."""
        return self.fail_repeatedly(self.run())

    def fail_repeatedly(self, training: "Training") -> str:
        """Ends the attempt and the two after it; the service then holds the job."""
        for _ in range(2):
            training.finish(Reason.WORKER_DIED)
            self.core.clock.advance(60.0)
            training = self.run_next()
        training.finish(Reason.WORKER_DIED)
        return training.job_id

    def end(self, reason: Reason, **fields: Any) -> str:
        """The id of a new job that has ended."""
        training = self.run(**fields)
        training.finish(reason)
        return training.job_id


class Training:
    """The attempt of the job that waits longest. It reports to `api` as its processes do."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self._attempt = api.core.start_next()
        self._sequence = 0
        self.job_id = job_id_of(self._attempt)

    def report(self, **fields: Any) -> None:
        self._sequence += 1
        response = self.api.report(self._attempt, self._sequence, **fields)
        assert response.status_code == 200, response.text

    def progress(self, iteration: int, **metrics: float | None) -> None:
        """Metrics are named as test_error for the series test/error."""
        self.report(
            progress={"iteration": iteration, "iterations": 20, "images_per_second": 1890.0},
            metrics=[
                make_point(name.replace("_", "/"), iteration, value).model_dump(mode="json")
                for name, value in metrics.items()
            ],
        )

    def log(self, *messages: str) -> None:
        lines = [{"at": START.isoformat(), "level": "info", "message": text} for text in messages]
        self.report(logs=lines)

    def save(self, iteration: int, **fields: Any) -> None:
        """A checkpoint."""
        self._sequence += 1
        manifest = note(iteration, **fields)
        response = self.api.checkpoint(self._attempt, self._sequence, manifest)
        assert response.status_code == 200, response.text

    def finish(
        self, reason: Reason = Reason.COMPLETED, *, message: str = "", **result: Any
    ) -> None:
        if reason is Reason.COMPLETED:
            result = {"train_error": 0.5, "test_error": 2.5, "training_seconds": 40.0} | result
        body = {"reason": reason, "message": message, "result": result or None}
        response = self.api.attempt(self._attempt, "POST", "/finish", json=body)
        assert response.status_code == 200, response.text
        self.api.core.release(self._attempt)
