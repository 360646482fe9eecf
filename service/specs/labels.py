"""What users write on jobs and searches after their submission."""

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from service.specs.base import Name

MAX_NOTE_LENGTH = 10_000
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/-]{0,62}")


def _check_tags(tags: tuple[str, ...]) -> tuple[str, ...]:
    for tag in tags:
        if not _TAG.fullmatch(tag):
            raise ValueError(
                "a tag is 1-63 letters, digits or any of _.:/-, and starts with a letter or "
                f"digit; received {tag!r}"
            )
    return tuple(dict.fromkeys(tags))


Tags = Annotated[tuple[str, ...], Field(max_length=20), AfterValidator(_check_tags)]
Note = Annotated[str, Field(max_length=MAX_NOTE_LENGTH, pattern=r"^[^\x00]*$")]


class LabelUpdate(BaseModel):
    """A field that is null or absent stays as it is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # A search's name is shorter than a job's: the names of its trials have a number, too.
    name: Annotated[Name, Field(max_length=100)] | None = None
    note: Note | None = None
    starred: bool | None = None
    archived: Annotated[bool | None, Field(description="true: left out of lists")] = None


class JobLabelUpdate(LabelUpdate):
    tags: Tags | None = None
