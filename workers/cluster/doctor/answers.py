"""What each node answered, and its line in the log of the Ray job that asked."""

from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from workers.cluster.doctor.node_facts import NodeFacts

_PREFIX = "resnetd-doctor "


@dataclass(frozen=True)
class NodeAnswer:
    """`error`: why the node has no facts."""

    address: str
    facts: NodeFacts | None
    error: str | None = None


_ANSWER = TypeAdapter(NodeAnswer)


def format_line(answer: NodeAnswer) -> str:
    return f"{_PREFIX}{_ANSWER.dump_json(answer).decode()}"


def parse_log(log: str) -> list[NodeAnswer]:
    """The answers in their order; Ray and others write lines between them."""
    found = []
    for line in log.splitlines():
        _, prefix, text = line.partition(_PREFIX)
        if not prefix:
            continue
        try:
            found.append(_ANSWER.validate_json(text))
        except ValidationError:  # a message that quotes a part of such a line
            continue
    return found
