"""What people write to have a search: a job, what varies in it, what counts, how far to go."""

import math
from enum import StrEnum
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from service.errors import FieldError, InvalidInput
from service.specs import search_space
from service.specs.job_spec import JobSpec
from service.specs.search_space import Dimension, Distribution, Space
from service.specs.validation import to_field_errors

MAX_TRIALS = 10_000
_NO_CONTROL_CHARACTERS = r"^[^\x00-\x1f\x7f]*$"
# A search's trials share these as tags; one is left for the search's own.
_MAX_TAGS = 19
_MAX_METRICS = 3


class Metric(StrEnum):
    """What is minimised: a trial's last evaluation, its network's size, its training's time."""

    TEST_ERROR = "test/error"
    TEST_LOSS = "test/loss"
    VALIDATION_ERROR = "validation/error"
    VALIDATION_LOSS = "validation/loss"
    TRAIN_ERROR = "train/error"
    TRAIN_LOSS = "train/loss"
    PARAMETERS = "parameters"
    SECONDS = "seconds"

    @property
    def is_series(self) -> bool:
        """Whether evaluations report it, so that a scheduler can compare trials on their way."""
        return "/" in self

    @property
    def is_error(self) -> bool:
        """In percent."""
        return self.endswith("/error")


class Algorithm(StrEnum):
    RANDOM = "random"  # draws by themselves; values of a grid all in turn for each draw
    GRID = "grid"  # every combination once
    TPE = "tpe"  # Optuna's tree-structured Parzen estimator (Bergstra et al. 2011)


class Scheduler(StrEnum):
    """Which trials are stopped before their end."""

    FIFO = "fifo"  # none
    ASHA = "asha"  # those not among the best at a rung (Li et al. 2018, arXiv:1810.05934)
    MEDIAN = "median"  # those worse than the median of the others so far (Golovin et al. 2017)


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SchedulerSpec(_Spec):
    """A scheduler and its numbers; its name alone takes the defaults.

    No trial is stopped before `grace_iterations` (None: the first evaluation). Of ASHA's rungs
    each is `reduction_factor` times further than the last, and one in so many passes it.
    """

    name: Scheduler = Scheduler.FIFO
    grace_iterations: Annotated[int, Field(strict=True, ge=1)] | None = None
    reduction_factor: Annotated[int, Field(strict=True, ge=2, le=16)] = 3

    @model_validator(mode="before")
    @classmethod
    def _from_a_name(cls, written: Any) -> Any:
        return {"name": written} if isinstance(written, str) else written


class Budget(_Spec):
    """Where a search ends: at whichever of these comes first; None: no limit.

    `trials` None: 10, or the whole grid. `concurrent`: trials at a time. `iterations`: of all
    trials together. `target_error` in percent: at the first trial that attains it.
    """

    trials: Annotated[int, Field(strict=True, ge=1, le=MAX_TRIALS)] | None = None
    concurrent: Annotated[int, Field(strict=True, ge=1, le=256)] = 4
    iterations: Annotated[int, Field(strict=True, ge=1)] | None = None
    wall_seconds: Annotated[float, Field(gt=0, le=60 * 60 * 24 * 90)] | None = None
    target_error: Annotated[float, Field(ge=0, lt=100)] | None = None


class SearchSpec(_Spec):
    """`job` is a spec as somebody writes it; `space` names its fields: `recipe.learning_rate`.

    All metrics are minimised. With several the search has no single best trial, but those that
    no other beats in all of them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    job: dict[str, Any]
    space: Space
    metric: tuple[Metric, ...] = (Metric.TEST_ERROR,)
    algorithm: Annotated[Algorithm, Field(default_factory=lambda data: _default_algorithm(data))]  # noqa: PLW0108
    scheduler: SchedulerSpec = SchedulerSpec()
    budget: Budget = Budget()
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**31)] = 0
    name: Annotated[str, Field(min_length=1, max_length=100, pattern=_NO_CONTROL_CHARACTERS)] = (
        "search"
    )

    @field_validator("metric", mode="before")
    @classmethod
    def _one_or_several(cls, written: Any) -> Any:
        return (written,) if isinstance(written, str) else written

    @field_validator("metric")
    @classmethod
    def _names_each_once(cls, metric: tuple[Metric, ...]) -> tuple[Metric, ...]:
        if not 1 <= len(metric) <= _MAX_METRICS or len(set(metric)) < len(metric):
            raise ValueError(f"is one metric, or up to {_MAX_METRICS} different ones")
        return metric

    @field_validator("algorithm")
    @classmethod
    def _suits_the_space(cls, algorithm: Algorithm, info: ValidationInfo) -> Algorithm:
        space: dict[str, Dimension] = info.data.get("space", {})
        gridded = [path for path, one in space.items() if one.draw is Distribution.GRID]
        if algorithm is Algorithm.GRID and len(gridded) < len(space):
            others = ", ".join(path for path in space if path not in gridded)
            raise ValueError(
                f"a grid search takes only grid: {others} is drawn otherwise; "
                "algorithm random takes both"
            )
        if algorithm is Algorithm.TPE and gridded:
            raise ValueError(
                f"tpe chooses by itself and has no grid: write choice for {', '.join(gridded)}, "
                "or take algorithm random or grid"
            )
        return algorithm

    @field_validator("scheduler")
    @classmethod
    def _suits_the_metric(cls, scheduler: SchedulerSpec, info: ValidationInfo) -> SchedulerSpec:
        metric: tuple[Metric, ...] = info.data.get("metric", (Metric.TEST_ERROR,))
        if scheduler.name is not Scheduler.FIFO and len(metric) > 1:
            raise ValueError(f"{scheduler.name} compares one metric; several go with fifo")
        if scheduler.name is not Scheduler.FIFO and not metric[0].is_series:
            series = ", ".join(one for one in Metric if one.is_series)
            raise ValueError(
                f"{scheduler.name} compares trials on their way: by one of {series}, "
                f"not by {metric[0]}; that goes with fifo"
            )
        return scheduler

    @field_validator("budget")
    @classmethod
    def _suits_the_grid(cls, budget: Budget, info: ValidationInfo) -> Budget:
        space: dict[str, Dimension] = info.data.get("space", {})
        points = grid_points(space)
        algorithm = info.data.get("algorithm", Algorithm.TPE)
        trials = budget.trials
        if trials is None:
            is_whole = algorithm is Algorithm.GRID or all(
                one.draw is Distribution.GRID for one in space.values()
            )
            trials = points if is_whole else points * math.ceil(10 / points)
        if algorithm is Algorithm.GRID and trials != points:
            raise ValueError(f"the grid has {points} points, so trials is {points} or left out")
        if trials % points != 0:
            below, above = trials // points * points, (trials // points + 1) * points
            nearest = f"{below} or {above}" if below else str(above)
            raise ValueError(
                f"trials are whole grids of {points} points: {nearest}, received {trials}"
            )
        if trials > MAX_TRIALS:
            raise ValueError(f"the grid has {points} points, at most {MAX_TRIALS} are tried")
        metric: tuple[Metric, ...] = info.data.get("metric", (Metric.TEST_ERROR,))
        if budget.target_error is not None and not metric[0].is_error:
            raise ValueError(f"target_error is of an error; the first metric is {metric[0]}")
        return budget.model_copy(update={"trials": trials})

    @property
    def trials(self) -> int:
        assert self.budget.trials is not None, "validated"
        return self.budget.trials

    @property
    def grid_points(self) -> int:
        """How many combinations its grids have; 1 without any."""
        return grid_points(self.space)

    def example(self) -> JobSpec:
        """The spec of one trial: where the space gives several, the first values."""
        first = {path: dimension.probes()[0] for path, dimension in self.space.items()}
        return search_space.make_trial_spec(self.job, first)

    @property
    def iterations(self) -> int:
        """Of the longest trial that the space can give."""
        example = self.example()
        first = {path: dimension.probes()[0] for path, dimension in self.space.items()}
        longest = example.recipe.iterations
        for path, dimension in self.space.items():
            for value in dimension.probes() if path.startswith("recipe") else ():
                trial = search_space.make_trial_spec(self.job, first | {path: value})
                longest = max(longest, trial.recipe.iterations)
        return longest


def _default_algorithm(validated: dict[str, Any]) -> Algorithm:
    """The one that takes the space and learns the most from it."""
    space: dict[str, Dimension] = validated.get("space", {})
    has_grid = any(one.draw is Distribution.GRID for one in space.values())
    return Algorithm.RANDOM if has_grid else Algorithm.TPE


def grid_points(space: dict[str, Dimension]) -> int:
    grids = [one for one in space.values() if one.draw is Distribution.GRID]
    return math.prod(len(one.arguments) for one in grids)


def parse_search_spec(written: Any) -> SearchSpec:
    """The spec behind decoded JSON, its whole space tried. InvalidInput."""
    try:
        spec = SearchSpec.model_validate(written)
    except ValidationError as error:
        faults = to_field_errors(error.errors(include_url=False))
        raise InvalidInput("the search's spec is not valid", field_errors=faults) from error
    return check_search_spec(spec)


def check_search_spec(spec: SearchSpec) -> SearchSpec:
    """InvalidInput unless every trial is a legal job, and tells what the search is to compare."""
    example = search_space.check_space(spec.job, spec.space)
    faults = []
    held_out = example.recipe.validation_images
    if not held_out and any(one.startswith("validation/") for one in spec.metric):
        message = "nothing is held out: recipe.validation_images is 0"
        faults.append(FieldError(pointer="/metric", message=message))
    if example.after or example.hold:
        message = "the trials of a search wait for nothing: no after, no hold"
        faults.append(FieldError(pointer="/job", message=message))
    if len(example.tags) > _MAX_TAGS:
        message = f"a search's job has at most {_MAX_TAGS} tags: one is the search's own"
        faults.append(FieldError(pointer="/job/tags", message=message))
    if faults:
        raise InvalidInput("the search's spec is not valid", field_errors=tuple(faults))
    return spec
