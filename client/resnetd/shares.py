"""`client.shares`: read-only links for people without an account."""

from collections.abc import Sequence
from datetime import datetime

from resnetd.models import Share
from resnetd.resources import Resource, as_list, drop_empty


class Shares(Resource):
    """Links to jobs, comparisons and studies of the caller."""

    PATH = "/v1/shares"

    def create(
        self,
        *,
        jobs: str | Sequence[str] = (),
        study: str | None = None,
        expires_at: datetime | None = None,
    ) -> Share:
        """Create a link. Its `secret` is not shown again. The request is not repeated.

        The dashboard opens it at `/shared#SECRET`; the secret is also a token that reads only what
        was shared.

        Args:
            jobs: ids of jobs; several are a comparison.
            study: or the id of a study, or of a comparison of specs.
            expires_at: an aware time, within a year. Default: in 30 days.

        >>> client.shares.create(jobs=job.id).jobs == (job.id,)
        True

        Raises:
            Forbidden: one of them belongs to another person.
        """
        expires = None if expires_at is None else expires_at.isoformat()
        body = drop_empty(jobs=as_list(jobs), study=study, expires_at=expires)
        return self._api.post_once(self.PATH, Share, body)

    def list(self) -> tuple[Share, ...]:
        """Return the links of the caller, of an admin those of all, without their secrets.

        >>> [found.id == share.id for found in client.shares.list()]
        [True]
        """
        return self._api.get_list(self.PATH, "shares", Share)

    def revoke(self, share_id: str) -> None:
        """End a link, and the browsers that opened it.

        >>> client.shares.revoke(share.id)
        """
        self._api.delete(self._path(share_id))
