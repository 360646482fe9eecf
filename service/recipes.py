"""Recipes: how a network is trained, by name. Pure data and pure functions, no torch."""

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from service.networks import Family

MAX_ITERATIONS = 10_000_000
# The depth from which the paper warms up before it trains with 0.1 (section 4.2).
WARMUP_DEPTH = 110


class Recipe(BaseModel):
    """Everything about training that is not the network or the data.

    Lengths are iterations (optimizer steps). `batch_size` is global: all workers together.
    `learning_rate` is multiplied by `decay` at each milestone. While the training error is at
    least `warmup_until_error` (percent), `warmup_learning_rate` holds instead; both or neither.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    iterations: Annotated[int, Field(ge=1, le=MAX_ITERATIONS)]
    batch_size: Annotated[int, Field(ge=1, le=65_536)]
    learning_rate: Annotated[float, Field(gt=0, le=100)]
    milestones: tuple[Annotated[int, Field(ge=1)], ...]
    decay: Annotated[float, Field(gt=0, le=1)]
    momentum: Annotated[float, Field(ge=0, lt=1)]
    weight_decay: Annotated[float, Field(ge=0, lt=1)]
    warmup_learning_rate: Annotated[float, Field(gt=0, le=100)] | None
    warmup_until_error: Annotated[float, Field(gt=0, le=100)] | None
    evaluate_every: Annotated[int, Field(ge=1)]
    checkpoint_every: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def _warm_up_is_whole(self) -> "Recipe":
        if (self.warmup_learning_rate is None) != (self.warmup_until_error is None):
            raise ValueError("warmup_learning_rate and warmup_until_error go together")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones must ascend, received {list(self.milestones)}")
        return self

    def learning_rate_at(self, iteration: int, *, is_warm: bool) -> float:
        """Of the step that follows `iteration` finished ones.

        `is_warm`: whether the warm-up is over. It depends on the training error, so it is a
        state of the run and lies in its checkpoints.
        """
        if self.warmup_learning_rate is not None and not is_warm:
            return self.warmup_learning_rate
        passed = sum(milestone <= iteration for milestone in self.milestones)
        return self.learning_rate * self.decay**passed


def paper_cifar(family: Family, depth: int) -> dict[str, Any]:
    """He et al. 2015, section 4.2: 64k iterations of 128, 0.1 divided by 10 at 32k and 48k.

    From 110 layers on, 0.01 until the training error is below 80 %, then back to 0.1.
    """
    is_deep = family is Family.CIFAR and depth >= WARMUP_DEPTH
    return {
        "iterations": 64_000,
        "batch_size": 128,
        "learning_rate": 0.1,
        "milestones": (32_000, 48_000),
        "decay": 0.1,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "warmup_learning_rate": 0.01 if is_deep else None,
        "warmup_until_error": 80.0 if is_deep else None,
        "evaluate_every": 1_000,
        "checkpoint_every": 1_000,
    }


def quick(family: Family, depth: int) -> dict[str, Any]:
    """The paper's recipe in small, for demonstrations and tests: 600 iterations, same shape."""
    return paper_cifar(family, depth) | {
        "iterations": 600,
        "milestones": (300, 450),
        "evaluate_every": 100,
        "checkpoint_every": 200,
    }


RECIPES: dict[str, Callable[[Family, int], dict[str, Any]]] = {
    "paper-cifar": paper_cifar,
    "quick": quick,
}


def resolve(written: str | dict[str, Any], *, family: Family, depth: int) -> dict[str, Any]:
    """The whole recipe behind a name, or behind a name and the fields that differ.

    Where `iterations` differs and `milestones` is not given, the milestones keep their share of
    the run. ValueError for a name that no recipe has.
    """
    fields = {"name": written} if isinstance(written, str) else dict(written)
    name = fields.get("name")
    if not isinstance(name, str) or name not in RECIPES:
        raise ValueError(f"no recipe {name!r}; there are {', '.join(sorted(RECIPES))}")
    base = RECIPES[name](family, depth)
    iterations = fields.get("iterations")
    is_length = isinstance(iterations, int) and 1 <= iterations <= MAX_ITERATIONS
    if is_length and "milestones" not in fields:
        share = iterations / base["iterations"]
        base["milestones"] = tuple(
            sorted({max(1, round(milestone * share)) for milestone in base["milestones"]})
        )
    return base | fields
