"""What a person may do: roles, scopes of tokens, and the rule that a route has."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from service.errors import Forbidden, NotFound
from service.states import MembersSee, Role, TokenScope
from service.storage.visibility import Shared, Visibility


class Subject(StrEnum):
    """A kind of row that has an owner and that a path names."""

    JOB = "job"
    SEARCH = "search"
    STUDY = "study"
    MODEL = "model"
    WEBHOOK = "webhook"
    ALERT = "alert"
    TOKEN = "token"  # noqa: S105 - a kind of row
    SHARE = "share"
    PERSON = "person"

    @property
    def is_private(self) -> bool:
        """Only its owner and admins know that it exists."""
        return self in {Subject.WEBHOOK, Subject.ALERT, Subject.TOKEN, Subject.SHARE}


@dataclass(frozen=True)
class Rule:
    """Who may call a route.

    `role`, `scope`: the least. `subject`: what the path names; `is_owned`: only its owner, and
    admins. `is_tagged`: also tokens that are limited to a tag.
    """

    role: Role
    scope: TokenScope
    subject: Subject | None = None
    is_owned: bool = False
    is_tagged: bool = False


@dataclass(frozen=True)
class Principal:
    """The person and the token of a request. `tag`: the token is limited to jobs with it.

    `shared`: what a link shows, which is all that its token reads; None for other tokens.
    """

    user: str
    role: Role
    group: str | None
    scope: TokenScope
    tag: str | None
    token_id: str
    expires_at: datetime | None
    shared: Shared | None = None


def make_visibility(principal: Principal, members_see: MembersSee) -> Visibility:
    is_limited = principal.role is Role.MEMBER and members_see is MembersSee.OWN
    return Visibility(
        user=principal.user if is_limited else None,
        tag=principal.tag,
        shared=principal.shared,
        notified=None if principal.role is Role.ADMIN else principal.user,
    )


def require_permitted(
    principal: Principal, rule: Rule, members_see: MembersSee, *, subject_id: str, owner: str | None
) -> None:
    """`owner`: of the rule's subject; None where there is none, which the route answers.

    Forbidden says what is missing. NotFound where the caller may not know that there is such a row.
    """
    user, role = principal.user, principal.role
    if principal.shared is not None:
        if rule.scope is not TokenScope.SHARED:
            raise Forbidden("the link reads only what was shared, without its log and weights")
        return
    if not role.includes(rule.role):
        raise Forbidden(f"needs the role {rule.role}; {user} is {_with_article(role)}")
    if not principal.scope.includes(rule.scope):
        raise Forbidden(
            f"needs a token with the scope {rule.scope}; this one has {principal.scope}"
        )
    if principal.tag is not None and not rule.is_tagged:
        raise Forbidden(f"the token is limited to jobs with the tag {principal.tag!r}")
    if rule.subject is None or owner is None or owner == user or role is Role.ADMIN:
        return
    sees_own = role is Role.MEMBER and members_see is MembersSee.OWN
    if rule.subject.is_private or (sees_own and rule.subject is not Subject.PERSON):
        raise NotFound(f"no {rule.subject} {subject_id!r}")
    if rule.is_owned:
        is_person = rule.subject is Subject.PERSON
        require_owned(principal, None if is_person else f"{rule.subject} {subject_id}", owner=owner)


def require_owned(principal: Principal, subject: str | None, *, owner: str) -> None:
    """Forbidden where neither the person owns it nor is an admin.

    `subject`: with its kind; None: the owner's self.
    """
    user, role = principal.user, principal.role
    if owner != user and role is not Role.ADMIN:
        owns = "" if subject is None else f", who owns {subject},"
        raise Forbidden(
            f"only {owner}{owns} or an admin may do this; {user} is {_with_article(role)}"
        )


def require_tagged(principal: Principal, tags: tuple[str, ...]) -> None:
    """Of a job to submit. Forbidden where the token is limited to a tag that it does not have."""
    if principal.tag is not None and principal.tag not in tags:
        raise Forbidden(
            f"the token submits only jobs with the tag {principal.tag!r}; received tags "
            f"{list(tags)}"
        )


def _with_article(role: Role) -> str:
    return f"an {role}" if role is Role.ADMIN else f"a {role}"
