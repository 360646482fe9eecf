"""What users write on jobs and searches after their submission."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from service.specs.base import Name

MAX_NOTE_LENGTH = 10_000


def _drop_repeated(tags: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(tags))


Tag = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:/-]{0,62}$")]
Tags = Annotated[tuple[Tag, ...], Field(max_length=20), AfterValidator(_drop_repeated)]
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
