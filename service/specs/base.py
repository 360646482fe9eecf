"""Base class and common fields of the specs that users write."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

# PostgreSQL text cannot hold NUL, and names need no other control character.
NO_CONTROL_CHARACTERS = r"^[^\x00-\x1f\x7f]*$"
MAX_ID_LENGTH = 16

JobId = Annotated[str, Field(min_length=1, max_length=MAX_ID_LENGTH)]
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**31)]


class Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
