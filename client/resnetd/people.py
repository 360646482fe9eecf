"""`client.people`, `tokens`, `quotas` and `fair_share`: who may use how much of the service."""

from datetime import datetime
from urllib.parse import urlencode

from resnetd.models import FairShare, Person, Quota, Role, Storage, Token, TokenScope
from resnetd.resources import Resource, drop_empty


class People(Resource):
    """People, their roles and their groups, for admins."""

    PATH = "/v1/people"

    def add(self, name: str, *, role: str | Role = Role.MEMBER, group: str | None = None) -> Person:
        """Add a person, who then needs a token.

        Args:
            role: `viewer` reads; `member` also submits, and changes what is his; `admin` changes
                everything. Default: member.
            group: a course or a team. Default: none.

        >>> client.people.add("bob").role
        <Role.MEMBER: 'member'>

        Raises:
            Conflict: there is a person of this name.
        """
        body = {"name": name, "role": str(role)} | drop_empty(group=group)
        return self._api.post_once(self.PATH, Person, body)

    def list(self) -> tuple[Person, ...]:
        """Return all people, by name.

        >>> [found.name for found in client.people.list()]
        ['admin']
        """
        return self._api.get_list(self.PATH, "people", Person)

    def set_role(self, name: str, role: str | Role) -> Person:
        """Change the role of a person, from the next request on.

        >>> client.people.set_role(person.name, "viewer").role
        <Role.VIEWER: 'viewer'>

        Raises:
            Conflict: the person is the only admin.
        """
        return self._api.patch(self._path(name), Person, {"role": str(role)})

    def set_group(self, name: str, group: str | None) -> Person:
        """Move a person into a group, or out of any; a person is in at most one.

        Args:
            group: None: no group.

        >>> client.people.set_group(person.name, "cs101").group
        'cs101'
        """
        return self._api.patch(self._path(name), Person, {"group": group or ""})

    def remove(self, name: str, *, delete_jobs: bool = False) -> None:
        """End the tokens and sign-ins of a person, and delete the webhooks.

        Args:
            delete_jobs: also delete the jobs, searches and studies, all of which must have ended.
                Default: they stay.

        >>> client.people.remove(person.name)

        Raises:
            Conflict: the person is the only admin, or something needs one of the jobs.
        """
        params = {"jobs": "delete" if delete_jobs else "keep"}
        self._api.delete(self._path(name), params)


class Tokens(Resource):
    """Tokens of the caller; for admins also those of others."""

    PATH = "/v1/tokens"

    def create(
        self,
        label: str,
        *,
        user: str | None = None,
        scope: str | TokenScope = TokenScope.FULL,
        tag: str | None = None,
        expires_at: datetime | None = None,
    ) -> Token:
        """Create a token. Its `secret` is not shown again. The request is not repeated.

        Args:
            label: what it is for.
            user: whose it is. Default: the caller.
            scope: `read`, `submit` (and read) or `full`, as far as the person's role permits it.
            tag: limits it to jobs with this tag. Default: all jobs.
            expires_at: an aware time. Default: never.

        >>> client.tokens.create("CI", scope="submit", tag="nightly").scope
        <TokenScope.SUBMIT: 'submit'>
        """
        expires = None if expires_at is None else expires_at.isoformat()
        body = {"label": label, "scope": str(scope)} | drop_empty(tag=tag, expires_at=expires)
        path = self.PATH if user is None else f"{self.PATH}?{urlencode({'user': user})}"
        return self._api.post_once(path, Token, body)

    def list(self, *, user: str | None = None) -> tuple[Token, ...]:
        """Return the tokens of a person, oldest first, without their secrets.

        Args:
            user: whose tokens. Default: the caller's.

        >>> [found.label for found in client.tokens.list()]
        ['token file']
        """
        return self._api.get_list(self.PATH, "tokens", Token, drop_empty(user=user))

    def rotate(self, token_id: str) -> Token:
        """Replace the secret; the old one ends at once. The request is not repeated.

        >>> client.tokens.rotate(token.id).secret == token.secret
        False
        """
        return self._api.post_once(self._path(token_id, "rotate"), Token)

    def revoke(self, token_id: str) -> None:
        """Delete a token; it ends at once.

        >>> client.tokens.revoke(token.id)
        """
        self._api.delete(self._path(token_id))


class Quotas(Resource):
    """Limits of people, groups and tags. `user:*`, ... are for those without their own."""

    PATH = "/v1/quotas"

    def set(
        self,
        key: str,
        *,
        jobs: int | None = None,
        workers: int | None = None,
        gpus: float | None = None,
        waiting: int | None = None,
        core_hours: float | None = None,
        gpu_hours: float | None = None,
        stored_bytes: int | None = None,
    ) -> Quota:
        """Set all limits of a quota, as an admin; what is left out has no limit.

        Args:
            key: `user:NAME`, `group:NAME` or `tag:TAG`; `user:*`, `group:*` or `tag:*`.
            jobs, workers, gpus: that run at the same time.
            waiting: jobs in the queue, held and paused ones included.
            core_hours, gpu_hours: in the last seven days, with what runs.
            stored_bytes: of checkpoints and uploaded datasets.

        >>> client.quotas.set("user:*", jobs=4, waiting=50).jobs
        4
        """
        limits = {
            "jobs": jobs,
            "workers": workers,
            "gpus": gpus,
            "waiting": waiting,
            "core_hours": core_hours,
            "gpu_hours": gpu_hours,
            "stored_bytes": stored_bytes,
        }
        return self._api.put(self._path(key), Quota, limits)

    def list(self) -> tuple[Quota, ...]:
        """Return all quotas, by key.

        >>> client.quotas.list()
        ()
        """
        return self._api.get_list(self.PATH, "quotas", Quota)

    def storage(self, *, user: str | None = None) -> Storage:
        """Return the bytes that are stored for a person, and the ten jobs that store most.

        Args:
            user: whose; for admins. Default: the caller's.

        >>> client.quotas.storage().dataset_bytes
        0
        """
        return self._api.get("/v1/storage", Storage, drop_empty(user=user))

    def delete(self, key: str) -> None:
        """Remove the limits of a quota, as an admin.

        >>> client.quotas.delete(quota.key)
        """
        self._api.delete(self._path(key))


class FairShares(Resource):
    """Fair share: jobs of people who have used much lose points of priority."""

    PATH = "/v1/fair-share"

    def get(self) -> FairShare:
        """Return the settings, and what people and groups have used.

        >>> client.fair_share.get().half_life_days
        7.0
        """
        return self._api.get(self.PATH, FairShare)

    def set(self, *, weight: float, half_life_days: float) -> FairShare:
        """Change the settings, as an admin; the order of the queue changes at once.

        Args:
            weight: points that jobs of the heaviest user lose. 0: off.
            half_life_days: after this time usage counts by half.

        >>> client.fair_share.set(weight=50, half_life_days=7).weight
        50.0
        """
        body = {"weight": weight, "half_life_days": half_life_days}
        return self._api.put(self.PATH, FairShare, body)
