"""What the resources of the client share."""

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Generic, TypeVar
from urllib.parse import quote

from resnetd.api_client import ApiClient
from resnetd.errors import AmbiguousId, EmptyId, NotFinished, NotFound
from resnetd.models import Job, Search, Study

Run = TypeVar("Run", Job, Search, Study)

PAGE_SIZE = 100
_MAX_CANDIDATES = 5


class Resource:
    """A group of requests below one path."""

    PATH: ClassVar[str]

    def __init__(self, api: ApiClient) -> None:
        self._api = api

    def _path(self, *segments: str) -> str:
        """EmptyId where one has no characters: it would be the path of another route."""
        if not all(segments):
            raise EmptyId
        return "/".join([self.PATH, *(quote(segment, safe="") for segment in segments)])


class RunResource(Resource, Generic[Run]):
    """Jobs, searches or studies: what is submitted, runs, and ends."""

    _name: ClassVar[str]
    _kind: type[Run]

    def _get(self, run_id: str) -> Run:
        return self._api.get(self._path(run_id), self._kind)

    def _find(self, prefix: str) -> Run:
        try:
            return self._get(prefix)
        except NotFound:
            params = {"id_prefix": prefix, "limit": _MAX_CANDIDATES}
            found = self._api.get_list(self.PATH, self._name, self._kind, params)
            if not found:
                raise
        if len(found) > 1:
            raise AmbiguousId(prefix, found)
        # A list has less of each than a request for it.
        return self._get(found[0].id)

    def _list(self, limit: int | None, params: dict[str, Any]) -> Iterator[Run]:
        params |= {"limit": min(limit or PAGE_SIZE, PAGE_SIZE)}
        pages = self._api.get_pages(self.PATH, self._name, self._kind, params)
        return itertools.islice(pages, limit)

    def _is_over(self, run: Run) -> bool:
        """Whether it has ended, or does not continue by itself."""
        return run.is_final

    def _wait(self, run_id: str, timeout_seconds: float | None, poll_seconds: float) -> Run:
        deadline = math.inf if timeout_seconds is None else time.monotonic() + timeout_seconds
        while True:
            api = self._api.patient(max(0.0, deadline - time.monotonic()))
            run = api.get(self._path(run_id), self._kind)
            if self._is_over(run):
                return run
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise NotFinished(run, timeout_seconds=timeout_seconds or 0.0)
            self._api.sleep(min(remaining, poll_seconds))


def as_list(values: str | Sequence[str]) -> list[str]:
    return [values] if isinstance(values, str) else list(values)


def drop_empty(**params: Any) -> dict[str, Any]:
    """Without the parameters that are None or empty."""
    return {name: value for name, value in params.items() if value}
