"""`client.searches`: search hyper-parameters; each trial is a job."""

from collections.abc import Iterator, Mapping
from typing import Any

from resnetd.errors import raise_if_held
from resnetd.models import Comparison, Importance, JobState, Search, Trial
from resnetd.records import Record
from resnetd.resources import RunResource


class _Importances(Record, frozen=True):
    importance: dict[str, Importance]


class Searches(RunResource[Search]):
    """Hyper-parameter searches.

    Methods that take an id raise NotFound if no search has it, and Conflict if the state of the
    search does not permit the action.
    """

    PATH = "/v1/searches"
    _name = "searches"
    _kind = Search

    def submit(
        self,
        spec: Mapping[str, Any] | None = None,
        *,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> Search:
        """Submit a search and return it; `job` and `space` are enough.

        Args:
            spec: the spec as a mapping, e.g. from a JSON file.
            idempotency_key: a call with the key of an earlier one returns that search instead
                of a new one. By default each call has its own key, which its retries share.
            **fields: fields of the spec; they override those of `spec`.

        >>> search = client.searches.submit(
        ...     job={"depth": 20, "shortcut": "A", "dataset": "digits"},
        ...     space={"recipe.learning_rate": {"loguniform": [0.001, 1.0]}},
        ...     budget={"trials": 8},
        ... )
        >>> search.state
        <SearchState.QUEUED: 'queued'>

        Raises:
            InvalidInput: `errors` has the fields that are wrong.
            IdempotencyMismatch: the key was used with another spec.
        """
        return self._api.submit(self.PATH, Search, {**(spec or {}), **fields}, idempotency_key)

    def get(self, search_id: str) -> Search:
        """Return the search as it is now, with its best trial and the budget used.

        >>> client.searches.get(search.id).used.trials
        2
        """
        return self._get(search_id)

    def find(self, prefix: str) -> Search:
        """Return the only search whose id begins with `prefix`. AmbiguousId has `candidates`.

        >>> client.searches.find(search.id[:14]).id == search.id
        True
        """
        return self._find(prefix)

    def list(self, *, limit: int | None = None) -> Iterator[Search]:
        """Iterate over the searches, newest first, without their best trials.

        Args:
            limit: at most this number of searches. Default: no limit.

        >>> [found.id == search.id for found in client.searches.list(limit=1)]
        [True]
        """
        return self._list(limit, {})

    def best(self, search_id: str) -> tuple[Trial, ...]:
        """Return the best trial so far; with several metrics, all trials of the Pareto front.

        >>> [trial.values["test/error"] for trial in client.searches.best(search.id)]
        [4.5]
        """
        return self._get(search_id).best or ()

    def trials(self, search_id: str) -> tuple[Trial, ...]:
        """Return all trials, best first.

        >>> [trial.rank for trial in client.searches.trials(search.id)]
        [0, 1]
        """
        return self._api.get_list(self._path(search_id, "trials"), "trials", Trial)

    def trials_csv(self, search_id: str) -> str:
        """Return all trials as CSV.

        >>> len(client.searches.trials_csv(search.id).splitlines())  # a header and 2 trials
        3
        """
        return self._api.get_text(self._path(search_id, "export"), {"format": "csv"})

    def importance(self, search_id: str) -> dict[str, Importance]:
        """Return, for each metric, how much each field matters (fANOVA).

        >>> client.searches.importance(search.id)["test/error"].trials
        2
        """
        path = self._path(search_id, "importance")
        return self._api.get(path, _Importances).importance

    def confirm(self, search_id: str, *, seeds: int = 6, metric: str = "test/error") -> Comparison:
        """Compare the best trial (a) with the search's own job (b) over new seeds.

        Args:
            seeds: number of pairs; fewer than 6 cannot show a difference.
            metric: `test/error`, `test/top5_error`, `validation/error` or `train/error`.

        >>> cancelled = client.searches.cancel(search.id)
        >>> client.searches.confirm(search.id, seeds=3).total
        6

        Raises:
            Conflict: the search has not ended, or has no best trial.
        """
        body = {"seeds": seeds, "metric": metric}
        return self._api.post(self._path(search_id, "confirm"), Comparison, body)

    def pause(self, search_id: str) -> Search:
        """Pause a search: its trials save checkpoints and free their workers.

        >>> client.searches.pause(search.id).state
        <SearchState.PAUSED: 'paused'>
        """
        return self._act(search_id, "pause")

    def resume(self, search_id: str) -> Search:
        """Resume a paused search: its trials continue from their checkpoints.

        >>> paused = client.searches.pause(search.id)
        >>> client.searches.resume(search.id).state
        <SearchState.QUEUED: 'queued'>
        """
        return self._act(search_id, "resume")

    def cancel(self, search_id: str) -> Search:
        """Cancel a search and its trials.

        >>> client.searches.cancel(search.id).state
        <SearchState.CANCELLED: 'cancelled'>
        """
        return self._act(search_id, "cancel")

    def extend(self, search_id: str, **budget: Any) -> Search:
        """Raise the budget of a search; one that has succeeded continues.

        Args:
            **budget: fields of the spec's `budget` as new totals.

        >>> client.searches.extend(search.id, trials=50).spec["budget"]["trials"]
        50

        Raises:
            InvalidInput: the budget is not larger.
        """
        return self._api.post(self._path(search_id, "extend"), Search, budget)

    def delete(self, search_id: str) -> None:
        """Delete a search that has ended, with all its trials.

        >>> cancelled = client.searches.cancel(search.id)
        >>> client.searches.delete(search.id)
        """
        self._api.delete(self._path(search_id))

    def wait(
        self, search_id: str, *, timeout_seconds: float | None = None, poll_seconds: float = 1.0
    ) -> Search:
        """Return the search when it has ended, whatever its outcome.

        Args:
            timeout_seconds: how long to wait. Default: no limit.
            poll_seconds: time between two requests. Default: 1.

        >>> cancelled = client.searches.cancel(search.id)
        >>> client.searches.wait(search.id).end_reason
        <SearchEndReason.CANCELLED: 'cancelled'>

        Raises:
            NotFinished: `timeout_seconds` are over; `latest` is the search.
            SearchHeld: the service holds all trials that could run, after repeated failures.
        """
        return self._wait(search_id, timeout_seconds, poll_seconds)

    def _is_over(self, run: Search) -> bool:
        """SearchHeld where it cannot continue."""
        if (run.counts or {}).get(JobState.HELD):
            raise_if_held(run, self.trials(run.id))
        return run.is_final

    def _act(self, search_id: str, action: str) -> Search:
        return self._api.post(self._path(search_id, action), Search)
