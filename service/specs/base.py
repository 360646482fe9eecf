"""Base class and common fields of the specs that users write."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

MAX_ID_LENGTH = 16

# Of users, in one line. PostgreSQL's text cannot hold NUL, and a terminal obeys other control
# characters; UTF-8 cannot encode lone surrogates, which pydantic refuses.
Line = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
MAX_NAME_LENGTH = 120
Name = Annotated[Line, Field(min_length=1, max_length=MAX_NAME_LENGTH)]

JobId = Annotated[str, Field(min_length=1, max_length=MAX_ID_LENGTH)]
MAX_SEED = 2**31 - 1
Seed = Annotated[int, Field(strict=True, ge=0, le=MAX_SEED)]


class Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
