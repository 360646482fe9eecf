"""The members of a view that a request asks for, by dotted paths."""

import difflib
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, get_origin

from pydantic import BaseModel

from api.stored_json import StoredAs
from service.errors import invalid_parameter
from service.specs.fields import list_field_types

_NEAREST = 3
_MAX_SHOWN_LENGTH = 100

# The members below a member; None: all of them.
_Tree = dict[str, "_Tree | None"]


class FieldSelection:
    """`fields`: paths with commas between them. InvalidInput where the view has no such member.

    >>> FieldSelection(JobView, "id,result.test_error", "jobs").pick(document)
    {"id": "06cftqknqj1h2fwy", "result": {"test_error": 7.5}}
    """

    def __init__(self, view: type[BaseModel], fields: str, noun: str) -> None:
        self._tree: _Tree = {}
        for path in fields.split(","):
            _add(self._tree, _parse(view, path.strip(), noun))

    def pick(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """Of a view as JSON. A null above a member stays null."""
        return _pick(document, self._tree)


def list_paths(view: type[BaseModel]) -> list[str]:
    """All members, also those below others. Of a dictionary no key: it has any."""
    return list(_find_members(view))


def _parse(view: type[BaseModel], path: str, noun: str) -> list[str]:
    members = _find_members(view)
    if path in members:
        return path.split(".")
    steps = path.split(".")
    for length in range(1, len(steps)):
        head = ".".join(steps[:length])
        if members.get(head):
            # A key may contain dots.
            return [*steps[:length], ".".join(steps[length:])]
    same_name = [known for known in members if known.rpartition(".")[2] == steps[-1]]
    similar = difflib.get_close_matches(path[:_MAX_SHOWN_LENGTH], members, n=_NEAREST, cutoff=0.0)
    nearest = list(dict.fromkeys([*same_name, *similar]))[:_NEAREST]
    raise invalid_parameter(
        "/fields",
        f"{noun} have no field {path[:_MAX_SHOWN_LENGTH]!r}; nearest: {', '.join(nearest)}",
    )


@cache
def _find_members(view: type[BaseModel]) -> dict[str, bool]:
    """Whether the member is a dictionary, by its path."""
    return dict(_walk(view, ""))


def _walk(view: type[BaseModel], prefix: str) -> Iterator[tuple[str, bool]]:
    for name, field in view.model_fields.items():
        stored = {known.model for known in field.metadata if isinstance(known, StoredAs)}
        types = stored or list_field_types(view, name)
        yield f"{prefix}{name}", any(get_origin(kind) in {dict, Mapping} for kind in types)
        for kind in types:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from _walk(kind, f"{prefix}{name}.")


def _add(tree: _Tree, steps: list[str]) -> None:
    head, *rest = steps
    if not rest:
        tree[head] = None
        return
    below = tree.setdefault(head, {})
    if below is not None:
        _add(below, rest)


def _pick(document: Mapping[str, Any], tree: _Tree) -> dict[str, Any]:
    picked = {}
    for name, below in tree.items():
        # A dictionary may lack a key that was asked for.
        if name in document:
            value = document[name]
            # A number of workers may be a range with members, or one number without.
            has_members = isinstance(value, Mapping)
            picked[name] = value if below is None or not has_members else _pick(value, below)
    return picked
