"""The space of a search: fields of a job's spec and the distributions of their values."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any

from pydantic import ConfigDict, Field, model_serializer, model_validator

from service.errors import FieldError, InvalidInput
from service.specs.base import Spec
from service.specs.fields import list_field_types
from service.specs.job_spec import JobSpec, parse_job_spec

# Of one choice or grid; more values are better written as a range.
MAX_VALUES = 64
MAX_DIMENSIONS = 16
# Validating a spec takes about 0.1 ms. Larger spaces are checked for pairs of fields only.
_MAX_COMBINATIONS = 2_000
# Larger ranges of integers are checked at their bounds only. Of the fields of a spec, only depth
# and batch size have invalid values between valid ones, and their ranges are smaller.
_MAX_INTEGERS = 4_096
# Of a range of real numbers, these shares of the way from low to high are checked, too: a field
# whose values are multiples of something accepts the bounds and the middle, but not both of these.
_CHECKED_SHARES = (0.5, 0.618)
# Fields that identify a job or keep a trial from starting.
_NOT_SEARCHABLE = frozenset({"name", "tags", "after", "hold"})
_MAX_MESSAGE_LENGTH = 500

# The types that Optuna accepts as categorical values: JSON's scalars.
Scalar = str | bool | int | float | None
Number = Annotated[float, Field(allow_inf_nan=False)]
Integer = Annotated[int, Field(strict=True, ge=-(2**53), le=2**53)]


class Distribution(StrEnum):
    """Distributions of values, named as in Ray Tune; arguments are low, high and the step."""

    CHOICE = "choice"
    GRID = "grid"
    UNIFORM = "uniform"
    LOGUNIFORM = "loguniform"
    QUNIFORM = "quniform"  # multiples of the step
    RANDINT = "randint"  # high is exclusive
    LOGRANDINT = "lograndint"  # high is exclusive
    QRANDINT = "qrandint"  # multiples of the step; high is inclusive


_REAL_RANGES = frozenset({Distribution.UNIFORM, Distribution.LOGUNIFORM})
_INTEGER_RANGES = (Distribution.RANDINT, Distribution.LOGRANDINT, Distribution.QRANDINT)


class Dimension(Spec):
    """The distribution of a field: `{"loguniform": [0.001, 1]}`, `{"choice": ["A", "B"]}`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"choice": ["A", "B"]}]})

    choice: Annotated[tuple[Scalar, ...], Field(min_length=1, max_length=MAX_VALUES)] | None = None
    """`[value, ...]`: one of up to 64 strings, numbers, booleans or nulls."""
    grid: Annotated[tuple[Scalar, ...], Field(min_length=1, max_length=MAX_VALUES)] | None = None
    """`[value, ...]`: every value; with several grids, every combination."""
    uniform: tuple[Number, Number] | None = None
    """`[low, high]`: a number between the two."""
    loguniform: tuple[Number, Number] | None = None
    """`[low, high]`: a number between the two, uniform in its logarithm."""
    quniform: tuple[Number, Number, Number] | None = None
    """`[low, high, step]`: a multiple of `step`; low and high are multiples too."""
    randint: tuple[Integer, Integer] | None = None
    """`[low, high]`: an integer from low to high - 1."""
    lograndint: tuple[Integer, Integer] | None = None
    """`[low, high]`: an integer from low to high - 1, uniform in its logarithm."""
    qrandint: tuple[Integer, Integer, Integer] | None = None
    """`[low, high, step]`: an integer multiple of `step`, high included."""

    @model_validator(mode="after")
    def _check_arguments(self) -> "Dimension":
        given = [kind for kind in Distribution if getattr(self, kind) is not None]
        if len(given) != 1:
            received = ", ".join(given) or "none"
            raise ValueError(f"needs exactly one of {', '.join(Distribution)}; received {received}")
        if self.is_categorical:
            if len({(type(value), value) for value in self.arguments}) < len(self.arguments):
                raise ValueError(f"{given[0]} has a repeated value: {list(self.arguments)}")
            return self
        low, high, *step = self.arguments
        if not low < high:
            raise ValueError(f"{given[0]} needs low < high, received [{low}, {high}]")
        if self.is_log and low <= 0:
            raise ValueError(f"{given[0]} needs low > 0, received {low}")
        if step and not 0 < step[0] <= high - low:
            raise ValueError(
                f"the step of {given[0]} must be above 0 and at most high - low, received {step[0]}"
            )
        # Ray Tune rounds to multiples of the step, Optuna counts steps from low: with bounds that
        # are multiples, both give the same values.
        if step and not all(math.isclose(_round_to(end, step[0]), end) for end in (low, high)):
            raise ValueError(
                f"low and high of {given[0]} must be multiples of its step ({step[0]}), "
                f"received [{low}, {high}]"
            )
        return self

    @model_serializer
    def _serialize(self) -> dict[str, Any]:
        return {self.distribution.value: list(self.arguments)}

    @property
    def distribution(self) -> Distribution:
        return next(kind for kind in Distribution if getattr(self, kind) is not None)

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The values of a choice or grid; else low, high and, with some distributions, the step."""
        arguments: tuple[Any, ...] = getattr(self, self.distribution)
        return arguments

    @property
    def is_categorical(self) -> bool:
        return self.distribution in {Distribution.CHOICE, Distribution.GRID}

    @property
    def is_log(self) -> bool:
        return self.distribution in {Distribution.LOGUNIFORM, Distribution.LOGRANDINT}

    def list_extremes(self) -> list[Any]:
        """All values of a choice or grid, else the least and the greatest value."""
        if self.is_categorical:
            return list(self.arguments)
        low, high, *_ = self.arguments
        is_exclusive = self.distribution in {Distribution.RANDINT, Distribution.LOGRANDINT}
        return [low, high - 1] if is_exclusive else [low, high]

    def list_inner_values(self) -> Sequence[Any]:
        """Integers or steps between the extremes, none of a large range; else a sample."""
        if self.distribution in {Distribution.RANDINT, Distribution.LOGRANDINT}:
            low, high = self.arguments
            return range(low + 1, high - 1) if high - low <= _MAX_INTEGERS else ()
        if self.distribution is Distribution.QRANDINT:
            low, high, step = self.arguments
            return range(low + step, high, step) if high - low <= _MAX_INTEGERS * step else ()
        if self.distribution is Distribution.QUNIFORM:
            low, high, step = self.arguments
            count = round((high - low) / step)
            return [low + n * step for n in range(1, count)] if count <= _MAX_INTEGERS else ()
        if self.distribution is Distribution.UNIFORM:
            low, high = self.arguments
            return [low + share * (high - low) for share in _CHECKED_SHARES]
        if self.distribution is Distribution.LOGUNIFORM:
            low, high = self.arguments
            return [low * (high / low) ** share for share in _CHECKED_SHARES]
        return ()


# Raises InvalidInput.
CheckTrial = Callable[[JobSpec], None]

Space = Annotated[dict[str, Dimension], Field(min_length=1, max_length=MAX_DIMENSIONS)]


def accept_trial(trial: JobSpec) -> None:
    """Checks nothing but that the spec is valid."""


def check_space(
    base: Mapping[str, Any], space: Mapping[str, Dimension], check_trial: CheckTrial
) -> JobSpec:
    """Checks that all trials have valid specs that `check_trial` accepts; returns an example.

    Checks each value of each field, then all combinations of the extremes or, in a large space,
    those of each pair of fields. InvalidInput names the field and the value.
    """
    _check_paths(space)
    extremes = {path: dimension.list_extremes() for path, dimension in space.items()}
    first = {path: values[0] for path, values in extremes.items()}
    for path, dimension in space.items():
        for value in [*extremes[path], *dimension.list_inner_values()]:
            _check_value(base, first | {path: value}, path, dimension, check_trial)
    # All single values are valid now: further errors are caused by combinations.
    example = make_trial_spec(base, first)
    for params in _combine(extremes, first):
        _check_combination(base, params, check_trial)
    return example


def make_trial_spec(base: Mapping[str, Any], params: Mapping[str, Any]) -> JobSpec:
    """The spec `base` with the parameters of a trial; paths are dotted. Raises InvalidInput."""
    written: Any = dict(base)
    for path, value in params.items():
        written = _replace(written, path.split("."), value)
    return parse_job_spec(written)


def _replace(written: Any, steps: list[str], value: Any) -> Any:
    if not steps:
        return value
    # A recipe can be written as its name. Any other value is replaced by one with this field.
    fields = {"name": written} if isinstance(written, str) else {}
    if isinstance(written, Mapping):
        fields = dict(written)
    step, *rest = steps
    return fields | {step: _replace(fields.get(step), rest, value)}


def _check_paths(space: Mapping[str, Dimension]) -> None:
    field_errors = []
    for path, dimension in space.items():
        if dimension.distribution in _REAL_RANGES and int in list_field_types(JobSpec, path):
            message = (
                f"{path} is an integer: use {', '.join(_INTEGER_RANGES)} or choice; "
                f"received {dimension.distribution}"
            )
            pointer = f"{_pointer(path)}/{dimension.distribution}"
            field_errors.append(FieldError(pointer=pointer, message=message))
        if path.split(".")[0] in _NOT_SEARCHABLE:
            message = f"{path} cannot be searched: it must be the same in all trials"
            field_errors.append(FieldError(pointer=_pointer(path), message=message))
        for nested in space:
            if nested.startswith(f"{path}."):
                message = f"{nested} is part of {path}, which is searched too"
                field_errors.append(FieldError(pointer=_pointer(nested), message=message))
    if field_errors:
        raise _invalid_space(*field_errors)


def _check_value(
    base: Mapping[str, Any],
    params: Mapping[str, Any],
    path: str,
    dimension: Dimension,
    check_trial: CheckTrial,
) -> None:
    try:
        check_trial(make_trial_spec(base, params))
    except InvalidInput as error:
        message = f"the value {params[path]!r} makes the spec invalid: {_describe(error)}"
        pointer = f"{_pointer(path)}/{dimension.distribution}"
        field_error = FieldError(pointer=pointer, message=message[:_MAX_MESSAGE_LENGTH])
        raise _invalid_space(field_error) from error


def _check_combination(
    base: Mapping[str, Any], params: Mapping[str, Any], check_trial: CheckTrial
) -> None:
    try:
        check_trial(make_trial_spec(base, params))
    except InvalidInput as error:
        values = ", ".join(f"{path} {value}" for path, value in params.items())
        message = f"the combination of {values} makes the spec invalid: {_describe(error)}"
        field_error = FieldError(pointer="/space", message=message[:_MAX_MESSAGE_LENGTH])
        raise _invalid_space(field_error) from error


def _combine(
    extremes: Mapping[str, list[Any]], first: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    if math.prod(len(values) for values in extremes.values()) <= _MAX_COMBINATIONS:
        for values in itertools.product(*extremes.values()):
            yield dict(zip(extremes, values, strict=True))
        return
    for path_a, path_b in itertools.combinations(extremes, 2):
        for value_a, value_b in itertools.product(extremes[path_a], extremes[path_b]):
            yield {**first, path_a: value_a, path_b: value_b}


def _round_to(value: Any, step: Any) -> Any:
    """The nearest multiple of the step, as Ray Tune rounds."""
    return round(value / step) * step


def _invalid_space(*field_errors: FieldError) -> InvalidInput:
    return InvalidInput("the search's space is not valid", field_errors=field_errors)


def _describe(error: InvalidInput) -> str:
    return "; ".join(f"{field.pointer}: {field.message}" for field in error.field_errors)


def _pointer(path: str) -> str:
    return "/space/" + path.replace("~", "~0").replace("/", "~1")
