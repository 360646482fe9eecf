"""What a search may vary: for each field of a spec how its values are drawn, checked one by one."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_serializer, model_validator

from service.errors import FieldError, InvalidInput
from service.specs.job_spec import JobSpec, parse_job_spec

# Of one choice or grid; a longer list is a range.
MAX_VALUES = 64
MAX_DIMENSIONS = 16
# Validating a spec takes some 0.1 ms: more combinations than these are tried in pairs only.
_MAX_COMBINATIONS = 2_000
# A range of more integers is tried at its ends: no field of a spec but depth and batch size has
# holes, and those have fewer values.
_MAX_INTEGERS = 4_096
# They name one job, or would keep a trial from starting.
_NOT_SEARCHABLE = frozenset({"name", "tags", "after", "hold"})

# What Optuna calls categorical: JSON's scalars.
Scalar = str | bool | int | float | None
Number = Annotated[float, Field(allow_inf_nan=False)]
Integer = Annotated[int, Field(strict=True, ge=-(2**53), le=2**53)]


class Distribution(StrEnum):
    """How values are drawn, in Ray Tune's words."""

    CHOICE = "choice"
    GRID = "grid"
    UNIFORM = "uniform"
    LOGUNIFORM = "loguniform"
    QUNIFORM = "quniform"  # multiples of its third number
    RANDINT = "randint"  # below its second number
    LOGRANDINT = "lograndint"
    QRANDINT = "qrandint"  # up to its second number, which a multiple may reach


class Dimension(BaseModel):
    """One of the draws, as `{"loguniform": [0.001, 1]}` or `{"choice": ["A", "B"]}`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    choice: Annotated[tuple[Scalar, ...], Field(min_length=1, max_length=MAX_VALUES)] | None = None
    grid: Annotated[tuple[Scalar, ...], Field(min_length=1, max_length=MAX_VALUES)] | None = None
    uniform: tuple[Number, Number] | None = None
    loguniform: tuple[Number, Number] | None = None
    quniform: tuple[Number, Number, Number] | None = None
    randint: tuple[Integer, Integer] | None = None
    lograndint: tuple[Integer, Integer] | None = None
    qrandint: tuple[Integer, Integer, Integer] | None = None

    @model_validator(mode="after")
    def _is_one_draw(self) -> "Dimension":
        given = [draw for draw in Distribution if getattr(self, draw) is not None]
        if len(given) != 1:
            known = ", ".join(Distribution)
            raise ValueError(f"exactly one of {known} says how values are drawn")
        if given[0] in {Distribution.CHOICE, Distribution.GRID}:
            if len({(type(value), value) for value in self.arguments}) < len(self.arguments):
                raise ValueError(f"{given[0]} names a value twice: {list(self.arguments)}")
            return self
        low, high, *step = self.arguments
        if not low < high:
            raise ValueError(f"{given[0]} goes from less to more, received [{low}, {high}]")
        if given[0] in {Distribution.LOGUNIFORM, Distribution.LOGRANDINT} and low <= 0:
            raise ValueError(f"{given[0]} is of numbers above 0, received {low}")
        if step and not 0 < step[0] <= high - low:
            raise ValueError(f"the step of {given[0]} must fit between its ends, received {step}")
        # Ray Tune draws multiples of the step, Optuna steps from the low end: here they agree.
        if step and not all(math.isclose(_rounded(end, step[0]), end) for end in (low, high)):
            raise ValueError(
                f"the ends of {given[0]} are multiples of its step {step[0]}, "
                f"received [{low}, {high}]"
            )
        return self

    @property
    def draw(self) -> Distribution:
        return next(draw for draw in Distribution if getattr(self, draw) is not None)

    @property
    def arguments(self) -> tuple[Any, ...]:
        """As written: the values, or low and high and, where there is one, the step."""
        found: tuple[Any, ...] = getattr(self, self.draw)
        return found

    @model_serializer
    def written(self) -> dict[str, Any]:
        return {self.draw.value: list(self.arguments)}

    def probes(self) -> list[Any]:
        """Every value, of a range the least and the greatest."""
        if self.draw in {Distribution.CHOICE, Distribution.GRID}:
            return list(self.arguments)
        low, high, *_ = self.arguments
        is_open = self.draw in {Distribution.RANDINT, Distribution.LOGRANDINT}
        return [low, high - 1] if is_open else [low, high]

    def between(self) -> Sequence[Any]:
        """The values between the probes, where a spec may refuse one that lies between two."""
        if self.draw in {Distribution.RANDINT, Distribution.LOGRANDINT}:
            low, high = self.arguments
            return range(low + 1, high - 1) if high - low <= _MAX_INTEGERS else ()
        if self.draw is Distribution.QRANDINT:
            low, high, step = self.arguments
            return range(low + step, high, step) if high - low <= _MAX_INTEGERS * step else ()
        return ()


Space = Annotated[dict[str, Dimension], Field(min_length=1, max_length=MAX_DIMENSIONS)]


def check_space(base: Mapping[str, Any], space: Mapping[str, Dimension]) -> JobSpec:
    """The spec of one trial. InvalidInput with the place and the value for one that is illegal.

    Every value of every field is tried; all combinations of them with the ranges' ends where
    those are few, else all pairs.
    """
    _refuse_overlaps(space)
    probes = {path: dimension.probes() for path, dimension in space.items()}
    first = {path: values[0] for path, values in probes.items()}
    for path, dimension in space.items():
        for value in [*probes[path], *dimension.between()]:
            _require_legal(base, first | {path: value}, blamed=path, space=space)
    # The first values alone are legal by now, so what is found here is a combination.
    example = make_trial_spec(base, first)
    for params in _combinations(probes, first):
        _require_legal(base, params, blamed=None, space=space)
    return example


def make_trial_spec(base: Mapping[str, Any], params: Mapping[str, Any]) -> JobSpec:
    """The base's spec with the values in their places. InvalidInput."""
    written: Any = dict(base)
    for path, value in params.items():
        written = _put(written, path.split("."), value)
    return parse_job_spec(written)


def _put(written: Any, steps: list[str], value: Any) -> Any:
    if not steps:
        return value
    # A recipe may be written as its name alone.
    whole = {"name": written} if isinstance(written, str) else dict(written or {})
    step, *rest = steps
    return whole | {step: _put(whole.get(step), rest, value)}


def _refuse_overlaps(space: Mapping[str, Dimension]) -> None:
    faults = []
    for path in space:
        if path.split(".")[0] in _NOT_SEARCHABLE:
            message = f"{path} is the same for all trials: it cannot be searched"
            faults.append(FieldError(pointer=_pointer(path), message=message))
        inside = [other for other in space if other.startswith(f"{path}.")]
        faults += [
            FieldError(
                pointer=_pointer(other), message=f"{other} is a part of {path}, which varies too"
            )
            for other in inside
        ]
    if faults:
        raise InvalidInput("the search's space is not valid", field_errors=tuple(faults))


def _require_legal(
    base: Mapping[str, Any],
    params: Mapping[str, Any],
    *,
    blamed: str | None,
    space: Mapping[str, Dimension],
) -> None:
    try:
        make_trial_spec(base, params)
    except InvalidInput as error:
        why = "; ".join(f"{fault.pointer}: {fault.message}" for fault in error.field_errors)
        if blamed is None:
            message = f"these values do not go together: {_words(params)}: {why}"
            fault = FieldError(pointer="/space", message=message[:500])
        else:
            message = f"the value {params[blamed]!r} makes no legal spec: {why}"
            pointer = f"{_pointer(blamed)}/{space[blamed].draw}"
            fault = FieldError(pointer=pointer, message=message[:500])
        raise InvalidInput("the search's space is not valid", field_errors=(fault,)) from error


def _combinations(
    probes: Mapping[str, list[Any]], first: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    if math.prod(len(values) for values in probes.values()) <= _MAX_COMBINATIONS:
        for values in itertools.product(*probes.values()):
            yield dict(zip(probes, values, strict=True))
        return
    for one, other in itertools.combinations(probes, 2):
        for value, beside in itertools.product(probes[one], probes[other]):
            yield {**first, one: value, other: beside}


def _rounded(value: Any, step: Any) -> Any:
    """As Ray Tune rounds, to the nearest multiple."""
    return round(value / step) * step


def _pointer(path: str) -> str:
    return "/space/" + path.replace("~", "~0").replace("/", "~1")


def _words(params: Mapping[str, Any]) -> str:
    return ", ".join(f"{path} {value}" for path, value in params.items())
