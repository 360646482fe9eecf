"""The spec of a hyperparameter search: a job, the space, the metrics and the budget."""

import math
from enum import StrEnum
from typing import Annotated, Any

from pydantic import ConfigDict, Field, ValidationInfo, field_validator, model_validator

from service.catalog import datasets
from service.errors import FieldError, InvalidInput
from service.specs import search_space
from service.specs.base import MAX_SEED, Name, Seed, Spec
from service.specs.job_spec import JobSpec
from service.specs.search_space import CheckTrial, Dimension, Distribution, Space
from service.specs.validation import validate
from service.text import count_of

MAX_TRIALS = 10_000
_DEFAULT_TRIALS = 10
# A job has up to 20 tags; the search adds one to its trials.
_MAX_TAGS = 19
_MAX_METRICS = 3
_MAX_REPEATS = 20
# One of this number of training images is held out by default.
_HELD_OUT_SHARE = 10


class Metric(StrEnum):
    """What a search minimizes: a trial's last evaluation, its parameters or training seconds."""

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
        """Whether it is reported during training, so that schedulers can compare running trials."""
        return "/" in self

    @property
    def is_error(self) -> bool:
        """Whether it is an error in percent."""
        return self.endswith("/error")


class Algorithm(StrEnum):
    RANDOM = "random"  # independent samples, each with every combination of the grids
    GRID = "grid"  # every combination once
    TPE = "tpe"  # Optuna's tree-structured Parzen estimator (Bergstra et al. 2011)


class Scheduler(StrEnum):
    """Which trials are stopped early."""

    FIFO = "fifo"  # no trial
    ASHA = "asha"  # trials not among the best at a rung (Li et al. 2018, arXiv:1810.05934)
    MEDIAN = "median"  # trials worse than the median of the others (Golovin et al. 2017)


class SchedulerSpec(Spec):
    """A scheduler and its parameters; a name is short for its defaults."""

    name: Scheduler = Scheduler.FIFO
    """`fifo` stops no trial; `asha` and `median` stop trials that are worse than others."""
    grace_iterations: Annotated[int, Field(strict=True, ge=1)] | None = None
    """No trial is stopped before this iteration. Null: the first evaluation."""
    reduction_factor: Annotated[int, Field(strict=True, ge=2, le=16)] = 3
    """ASHA: rungs grow by this factor, and 1 of this number of trials passes a rung."""

    @model_validator(mode="before")
    @classmethod
    def _accept_name(cls, written: Any) -> Any:
        return {"name": written} if isinstance(written, str) else written


class Budget(Spec):
    """Limits of a search, which ends at the first that is reached."""

    trials: Annotated[int, Field(strict=True, ge=1, le=MAX_TRIALS)] | None = None
    """Number of trials. Default: 10, or all combinations of the grids."""
    concurrent: Annotated[int, Field(strict=True, ge=1, le=256)] = 4
    """Number of trials that are queued or running at the same time."""
    iterations: Annotated[int, Field(strict=True, ge=1)] | None = None
    """Iterations of all trials together. Null: no limit."""
    wall_seconds: Annotated[float, Field(gt=0, le=60 * 60 * 24 * 90)] | None = None
    """Time since the start, without pauses. Null: no limit."""
    target_error: Annotated[float, Field(ge=0, lt=100)] | None = None
    """Percent; the search ends when a trial reaches it. Null: no target."""


class SearchSpec(Spec):
    """A job whose fields vary. With several metrics the best trials are the Pareto front."""

    model_config = ConfigDict(
        validate_default=True,
        json_schema_extra={
            "examples": [
                {
                    "job": {"depth": 20, "shortcut": "A", "dataset": "cifar10"},
                    "space": {"recipe.learning_rate": {"loguniform": [0.01, 1]}},
                }
            ]
        },
    )

    job: dict[str, Any]
    """Spec of the trials, as for `POST /v1/jobs`, without `after` and `hold`."""
    space: Space
    """Fields that vary, as `recipe.learning_rate`, each with a distribution."""
    metric: tuple[Metric, ...]
    """One metric, or a list of up to three; all are minimized. Default: `validation/error`; if the
    job holds out no images, a tenth of its training images are then held out."""
    repeats: Annotated[int, Field(strict=True, ge=1, le=_MAX_REPEATS)] = 1
    """Jobs of each trial, with the seed of `job` and the following ones; a trial's value is their
    mean. With several, no trial is stopped early."""
    algorithm: Annotated[Algorithm, Field(default_factory=lambda data: _default_algorithm(data))]  # noqa: PLW0108
    """Default: `tpe`; `random` if the space has a grid."""
    scheduler: SchedulerSpec = SchedulerSpec()
    """Which trials are stopped early: a name, or an object."""
    budget: Budget = Budget()
    """The search ends at the first limit that is reached."""
    seed: Seed = 0
    """Seed of the draws; the trials have the seed of `job`, and those after it with `repeats`."""
    # The names of its trials have a number, too.
    name: Annotated[Name, Field(max_length=100)] = "search"
    """Display name."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in_metric(cls, written: Any) -> Any:
        """A search that selects on the test images must say so."""
        if not isinstance(written, dict) or written.get("metric") is not None:
            return written
        job = _hold_out_images(written.get("job"))
        return written | {"metric": Metric.VALIDATION_ERROR, "job": job}

    @field_validator("metric", mode="before")
    @classmethod
    def _accept_name(cls, written: Any) -> Any:
        return (written,) if isinstance(written, str) else written

    @field_validator("metric")
    @classmethod
    def _check_metric(cls, metric: tuple[Metric, ...]) -> tuple[Metric, ...]:
        if not 1 <= len(metric) <= _MAX_METRICS or len(set(metric)) < len(metric):
            raise ValueError(f"must be 1 to {_MAX_METRICS} different metrics")
        return metric

    @field_validator("algorithm")
    @classmethod
    def _check_algorithm(cls, algorithm: Algorithm, info: ValidationInfo) -> Algorithm:
        space: dict[str, Dimension] = info.data.get("space", {})
        grids = [path for path in space if _is_grid(space[path])]
        if algorithm is Algorithm.GRID and len(grids) < len(space):
            others = ", ".join(path for path in space if path not in grids)
            raise ValueError(
                f"algorithm grid needs a grid for {others}; algorithm random accepts both"
            )
        if algorithm is Algorithm.TPE and grids:
            raise ValueError(
                f"algorithm tpe does not accept a grid: use choice for {', '.join(grids)}, "
                "or algorithm random or grid"
            )
        return algorithm

    @field_validator("scheduler")
    @classmethod
    def _check_scheduler(cls, scheduler: SchedulerSpec, info: ValidationInfo) -> SchedulerSpec:
        metric: tuple[Metric, ...] = info.data.get("metric", (Metric.VALIDATION_ERROR,))
        if scheduler.name is Scheduler.FIFO:
            return scheduler
        if info.data.get("repeats", 1) > 1:
            raise ValueError(
                f"{scheduler.name} compares trials by single evaluations, whose noise repeats "
                "average; use fifo with repeats"
            )
        if len(metric) > 1:
            raise ValueError(f"{scheduler.name} needs a single metric; use fifo with several")
        if not metric[0].is_series:
            series = ", ".join(name for name in Metric if name.is_series)
            raise ValueError(
                f"{scheduler.name} needs a metric that is reported during training ({series}); "
                f"use fifo with {metric[0]}"
            )
        return scheduler

    @field_validator("budget")
    @classmethod
    def _check_budget(cls, budget: Budget, info: ValidationInfo) -> Budget:
        space: dict[str, Dimension] = info.data.get("space", {})
        points = count_grid_points(space)
        counted = count_of(points, "point")
        algorithm = info.data.get("algorithm", Algorithm.TPE)
        trials = budget.trials
        if trials is None:
            is_grid_only = algorithm is Algorithm.GRID or all(map(_is_grid, space.values()))
            trials = points if is_grid_only else points * math.ceil(_DEFAULT_TRIALS / points)
        if algorithm is Algorithm.GRID and trials != points:
            raise ValueError(f"the grid has {counted}: set trials to {points} or omit it")
        if trials % points != 0:
            below, above = trials // points * points, (trials // points + 1) * points
            nearest = f"{below} or {above}" if below else str(above)
            raise ValueError(
                f"trials must be a multiple of the grid's {counted} ({nearest}), received {trials}"
            )
        if trials > MAX_TRIALS:
            raise ValueError(f"the grid has {counted}; at most {MAX_TRIALS:,} trials are allowed")
        repeats: int = info.data.get("repeats", 1)
        if trials * repeats > MAX_TRIALS:
            raise ValueError(
                f"trials times repeats must be at most {MAX_TRIALS:,}, received "
                f"{trials * repeats:,}"
            )
        if budget.target_error is not None and repeats > 1:
            raise ValueError("target_error ends a search by a single job; omit it with repeats")
        metric: tuple[Metric, ...] = info.data.get("metric", (Metric.VALIDATION_ERROR,))
        if budget.target_error is not None and not metric[0].is_error:
            raise ValueError(
                f"target_error needs an error as the first metric, received {metric[0]}"
            )
        return budget.model_copy(update={"trials": trials})

    @property
    def trials(self) -> int:
        assert self.budget.trials is not None, "validated"
        return self.budget.trials

    @property
    def grid_points(self) -> int:
        """Number of combinations of the grids; 1 without grids."""
        return count_grid_points(self.space)

    @property
    def max_iterations(self) -> int:
        """Iterations of the longest trial."""
        first = _choose_first_params(self.space)
        longest = self.make_example().recipe.iterations
        for path, dimension in self.space.items():
            for value in dimension.list_extremes() if path.startswith("recipe") else ():
                trial = search_space.make_trial_spec(self.job, first | {path: value})
                longest = max(longest, trial.recipe.iterations)
        return longest

    def make_example(self) -> JobSpec:
        """The spec of a trial with the first value of each field."""
        return search_space.make_trial_spec(self.job, _choose_first_params(self.space))


def parse_search_spec(written: Any) -> SearchSpec:
    """The spec of decoded JSON with its space checked. InvalidInput has one error per field."""
    spec = validate(SearchSpec, written, message="the search's spec is not valid")
    return check_search_spec(spec)


def check_search_spec(
    spec: SearchSpec, check_trial: CheckTrial = search_space.accept_trial
) -> SearchSpec:
    """InvalidInput unless every trial is a valid job that reports the metrics.

    `check_trial` may refuse a valid job with InvalidInput.
    """
    example = search_space.check_space(spec.job, spec.space, check_trial)
    field_errors = []
    needs_validation = any(metric.startswith("validation/") for metric in spec.metric)
    if needs_validation and not example.recipe.validation_images:
        message = (
            "needs held-out images: recipe.validation_images is 0; test/error would select on the "
            "images that the result is measured on"
        )
        field_errors.append(FieldError(pointer="/metric", message=message))
    if example.after or example.hold:
        message = "after and hold are not allowed in the trials of a search"
        field_errors.append(FieldError(pointer="/job", message=message))
    if example.analysis is not None:
        message = "the trials of a search train; analyse them when they have finished"
        field_errors.append(FieldError(pointer="/job/analysis", message=message))
    if spec.repeats > 1 and "seed" in spec.space:
        message = "seed cannot vary with repeats, which have seeds of their own"
        field_errors.append(FieldError(pointer="/space/seed", message=message))
    if example.seed + spec.repeats > MAX_SEED + 1:
        message = f"the seeds of {spec.repeats} repeats exceed {MAX_SEED}"
        field_errors.append(FieldError(pointer="/job/seed", message=message))
    if len(example.tags) > _MAX_TAGS:
        message = f"a search's job has at most {_MAX_TAGS} tags; the search adds its own"
        field_errors.append(FieldError(pointer="/job/tags", message=message))
    if field_errors:
        raise InvalidInput("the search's spec is not valid", field_errors=tuple(field_errors))
    return spec


def count_grid_points(space: dict[str, Dimension]) -> int:
    return math.prod(len(grid.arguments) for grid in space.values() if _is_grid(grid))


def _hold_out_images(job: Any) -> Any:
    """The job with a tenth of the training images held out, unless it says how many.

    As the paper's 45k/5k split (section 4.2). Unchanged where the number of images is not known.
    """
    if not isinstance(job, dict):
        return job
    dataset = datasets.find_dataset(str(job.get("dataset")))
    recipe = job.get("recipe") or {}
    recipe = {"name": recipe} if isinstance(recipe, str) else recipe
    if dataset is None or dataset.train_images is None or not isinstance(recipe, dict):
        return job
    held_out = {"validation_images": dataset.train_images // _HELD_OUT_SHARE}
    return job | {"recipe": held_out | recipe}


def _is_grid(dimension: Dimension) -> bool:
    return dimension.distribution is Distribution.GRID


def _choose_first_params(space: dict[str, Dimension]) -> dict[str, Any]:
    return {path: dimension.list_extremes()[0] for path, dimension in space.items()}


def _default_algorithm(validated: dict[str, Any]) -> Algorithm:
    """TPE, which does not accept grids; with a grid, random."""
    space: dict[str, Dimension] = validated.get("space", {})
    return Algorithm.RANDOM if any(map(_is_grid, space.values())) else Algorithm.TPE
