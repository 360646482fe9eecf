"""The result of an analysis: named numbers, small tables, and which images they are about."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from service.text import sanitize_text

# Together about a megabyte of JSON.
MAX_CELLS = 50_000
_MAX_COLUMNS = 50
_MAX_TABLES = 20
_MAX_NUMBERS = 100
_MAX_NOTES = 20


ResultName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$", examples=["test_error"])]
# Sanitized, since the name of a class may be anything.
Cell = float | int | Annotated[str, AfterValidator(sanitize_text), Field(max_length=200)] | None
Note = Annotated[str, AfterValidator(sanitize_text), Field(max_length=1_000)]


class _ResultModel(BaseModel):
    """As the protocol's models: fields of a newer version are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class ResultTable(_ResultModel):
    """`rows` have a cell for each column; null: not a finite number, or none."""

    name: ResultName
    columns: Annotated[list[ResultName], Field(min_length=1, max_length=_MAX_COLUMNS)]
    rows: list[list[Cell]]

    @model_validator(mode="after")
    def _check_rows(self) -> "ResultTable":
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"each row of table {self.name} must have {len(self.columns)} cells")
        return self


class AnalysisResult(_ResultModel):
    """`numbers`: the result in a few; errors in percent. `notes`: which images were used, how."""

    numbers: Annotated[dict[ResultName, float | None], Field(max_length=_MAX_NUMBERS)]
    tables: Annotated[list[ResultTable], Field(max_length=_MAX_TABLES)] = []
    notes: Annotated[list[Note], Field(max_length=_MAX_NOTES)] = []

    @model_validator(mode="after")
    def _check_size(self) -> "AnalysisResult":
        cells = sum(len(table.columns) * len(table.rows) for table in self.tables)
        if cells > MAX_CELLS:
            raise ValueError(f"tables must have at most {MAX_CELLS:,} cells, received {cells:,}")
        return self
