"""Fields of documents: their types by dotted path, and changes that are merged into them."""

from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel


def list_field_types(model: type[BaseModel], path: str) -> set[Any]:
    """The types that the field's value may have; empty where the model has no such field.

    >>> list_field_types(JobSpec, "recipe.batch_size")
    {<class 'int'>}
    """
    types: set[Any] = {model}
    for step in path.split("."):
        models = [part for part in types if isinstance(part, type) and issubclass(part, BaseModel)]
        fields = [part.model_fields[step] for part in models if step in part.model_fields]
        types = {part for field in fields for part in _list_types(field.annotation)}
    return types


def _list_types(annotation: Any) -> list[Any]:
    """The types of a union, and what Annotated annotates."""
    if get_origin(annotation) is Annotated:
        return _list_types(annotation.__origin__)
    if get_origin(annotation) in {Union, UnionType}:
        return [part for member in get_args(annotation) for part in _list_types(member)]
    return [annotation]


def merge_patch(document: Any, changes: Any) -> Any:
    """As JSON Merge Patch (RFC 7396), except that null is a value and removes nothing."""
    if not isinstance(document, dict) or not isinstance(changes, dict):
        return changes
    return document | {
        name: merge_patch(document.get(name), value) for name, value in changes.items()
    }
