"""Searches: what the client can ask about them."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from resnetd.answers import key_header, read, read_list
from resnetd.decoding import Record
from resnetd.errors import AmbiguousId, CannotConnect, NotFound, SearchNotFinished, Unavailable
from resnetd.search_models import Importance, Search, Trial
from resnetd.transport import Patience, Retry, Transport

_PATH = "/v1/searches"
# How many candidates an ambiguous id is answered with.
_CANDIDATES = 5


class Searches:
    """The part of the client that has hyper-parameters searched."""

    _transport: Transport
    _retry: Retry

    def submit_search(
        self,
        spec: Mapping[str, Any] | None = None,
        *,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> Search:
        """A new search; `job` and `space` are enough.

        With the same `idempotency_key` a repeated call answers the first search.
        """
        body = {**(spec or {}), **fields}
        return read(Search, self._transport.post(_PATH, body, key_header(idempotency_key)))

    def search(self, search_id: str) -> Search:
        """With its best trial so far, and how much of its budget is used."""
        return read(Search, self._transport.get(_path(search_id)))

    def searches(self, *, limit: int = 50) -> list[Search]:
        """Newest first, without their best trials."""
        return read_list(Search, "searches", self._transport.get(_PATH, {"limit": limit}))

    def find_search(self, prefix: str) -> Search:
        """The search with that id, or the only one whose id begins so. AmbiguousId, NotFound."""
        try:
            return self.search(prefix)
        except NotFound:
            asked = {"id_prefix": prefix, "limit": _CANDIDATES}
            found = read_list(Search, "searches", self._transport.get(_PATH, asked))
            if not found:
                raise
        if len(found) > 1:
            raise AmbiguousId(prefix, found)
        return self.search(found[0].id)

    def trials(self, search_id: str) -> list[Trial]:
        """The best first."""
        return read_list(Trial, "trials", self._transport.get(_path(search_id, "trials")))

    def importance(self, search_id: str) -> dict[str, Importance]:
        """By metric, how much each field of the space matters (fANOVA)."""
        answer = self._transport.get(_path(search_id, "importance"))
        return read(_Importances, answer).importance

    def trials_csv(self, search_id: str) -> str:
        """A line for each trial under a header."""
        return self._transport.get_text(_path(search_id, "export"), {"format": "csv"})

    def pause_search(self, search_id: str) -> Search:
        """Its trials save checkpoints and free their workers."""
        return self._ask_search(search_id, "pause")

    def resume_search(self, search_id: str) -> Search:
        """Its trials go on from their checkpoints."""
        return self._ask_search(search_id, "resume")

    def cancel_search(self, search_id: str) -> Search:
        """With its trials."""
        return self._ask_search(search_id, "cancel")

    def extend_search(self, search_id: str, **budget: Any) -> Search:
        """A larger budget, in new totals: `trials=50`. One that has succeeded goes on."""
        return read(Search, self._transport.post(_path(search_id, "extend"), budget))

    def delete_search(self, search_id: str) -> None:
        """Forgets a search that has ended, with all its trials."""
        self._transport.delete(_path(search_id))

    def wait_search(
        self, search_id: str, *, timeout_seconds: float | None = None, poll_seconds: float = 1.0
    ) -> Search:
        """The search, once it has ended, however that is. SearchNotFinished if it takes longer."""
        patience = Patience(self._retry, at_most_seconds=timeout_seconds)
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while True:
            search = None
            try:
                search = self.search(search_id)
            except (CannotConnect, Unavailable):
                if patience.is_over:
                    raise
            else:
                patience.heard()
            if search is not None and search.is_final:
                return search
            left = poll_seconds if deadline is None else deadline - time.monotonic()
            if search is not None and left <= 0:
                raise SearchNotFinished(search, timeout_seconds=timeout_seconds or 0.0)
            time.sleep(max(0.0, min(left, poll_seconds)))

    def _ask_search(self, search_id: str, verb: str) -> Search:
        return read(Search, self._transport.post(_path(search_id, verb)))


@dataclass(frozen=True, kw_only=True)
class _Importances(Record):
    importance: dict[str, Importance]


def _path(search_id: str, *steps: str) -> str:
    return "/".join([_PATH, *(quote(step, safe="") for step in (search_id, *steps))])
