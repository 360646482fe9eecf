"""When two jobs train the same: equal specs but for what changes no step, code and images."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from service.catalog import code_version, uploads
from service.specs.job_spec import JobSpec

# Fields that do not change what is trained.
UNTRAINED_FIELDS = (
    "after",
    "hold",
    "max_restarts",
    "name",
    "preemptible",
    "priority",
    "retention",
    "tags",
    "time_limit_minutes",
)


def training_key(spec: JobSpec, data_dir: Path) -> str:
    """Equal for jobs whose weights are equal, on the same hardware with the same packages.

    Images are identified by the checksum of their upload, other image folders by name only.
    """
    trained = {
        field: value
        for field, value in flatten_spec(spec.model_dump(mode="json")).items()
        if not is_in(field, UNTRAINED_FIELDS)
    }
    images = uploads.find_sha256(spec.dataset, data_dir)
    parts = [trained, code_version.training_code_sha256(), images]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def flatten_spec(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values that are not objects, by dotted path."""
    found: dict[str, Any] = {}
    for name, value in document.items():
        path = f"{prefix}{name}"
        found |= flatten_spec(value, f"{path}.") if isinstance(value, dict) else {path: value}
    return found


def is_in(path: str, fields: Iterable[str]) -> bool:
    """Whether the path is one of the fields or below it."""
    return any(path == field or path.startswith(f"{field}.") for field in fields)
