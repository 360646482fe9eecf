"""What the fields of specs mean, offline: the texts of the reference at the client's release."""

import difflib
from functools import cache
from importlib import resources

import msgspec

from resnetd.errors import UnknownTopic

FILE = "spec_help.json"


class Field(msgspec.Struct, frozen=True):
    """`type` has the range, `default` what is used where the field is not given."""

    name: str
    type: str
    default: str
    text: str


class Topic(msgspec.Struct, frozen=True):
    """A part of a spec: the job itself, its recipe, the budget of a search."""

    name: str
    text: str
    fields: tuple[Field, ...]


@cache
def read_topics() -> tuple[Topic, ...]:
    """All topics, those of jobs first."""
    content = resources.files("resnetd").joinpath(FILE).read_bytes()
    return msgspec.json.decode(content, type=tuple[Topic, ...])


def find_topics(name: str) -> tuple[Topic, ...]:
    """The topic of this name; else all topics with only the field of that name.

    Args:
        name: `recipe`, `recipe.max_seconds` or `max_seconds`.

    Raises:
        UnknownTopic: there is none; the message has similar ones.
    """
    topics = read_topics()
    if found := tuple(topic for topic in topics if topic.name == name):
        return found
    within, _, field = name.rpartition(".")
    found = tuple(
        Topic(topic.name, "", (described,))
        for topic in topics
        for described in topic.fields
        if described.name == field and within in {"", topic.name}
    )
    if not found:
        known = [topic.name for topic in topics]
        known += [field.name for topic in topics for field in topic.fields]
        raise UnknownTopic(name, difflib.get_close_matches(name, dict.fromkeys(known)))
    return found
