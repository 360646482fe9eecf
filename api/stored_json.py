"""JSON of the database in a response: described as its model, not validated again."""

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema


@dataclass(frozen=True)
class StoredAs:
    """Annotates a member whose JSON was written from the model.

    Validating a job's spec again, and serializing that, would take three times as long as the rest
    of its response.
    """

    model: type[BaseModel]

    def __get_pydantic_core_schema__(
        self, _source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        def keep(value: Any, _validate: object = None) -> Any:
            return value

        return core_schema.no_info_wrap_validator_function(
            keep,
            handler.generate_schema(self.model),
            serialization=core_schema.plain_serializer_function_ser_schema(keep),
        )
