"""Who makes the changes of a transaction; its events say so."""

from dataclasses import dataclass

from sqlalchemy.orm import Session

from service.states import ActorKind

_ACTOR = "actor"


@dataclass(frozen=True)
class Actor:
    """`user`: of a person, the name."""

    kind: ActorKind
    user: str | None = None


DISPATCHER = Actor(ActorKind.DISPATCHER)


def set_actor(session: Session, actor: Actor) -> None:
    session.info[_ACTOR] = actor


def actor_of(session: Session) -> Actor:
    actor: Actor = session.info.get(_ACTOR, DISPATCHER)
    return actor
