"""Fair share: its settings, and the decay of usage as pure functions."""

from math import log
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from service.resources import ResourceHours

_DAY = 86_400.0


class FairShare(BaseModel):
    """How much past usage counts in the queue. One point is worth ten minutes of waiting."""

    model_config = ConfigDict(frozen=True, extra="forbid", from_attributes=True)

    weight: Annotated[
        float,
        Field(
            ge=0,
            le=1000,
            allow_inf_nan=False,
            description="points that jobs of the heaviest user lose; 0: off",
        ),
    ] = 100.0
    half_life_days: Annotated[
        float,
        Field(
            ge=0.01,
            le=366,
            allow_inf_nan=False,
            description="after this time usage counts by half",
        ),
    ] = 7.0


def decay(used: ResourceHours, seconds: float, half_life_days: float) -> ResourceHours:
    """What is left of the usage after a time."""
    left = 0.5 ** (seconds / (half_life_days * _DAY))
    return ResourceHours(used.core_hours * left, used.gpu_hours * left)


def accumulate(cores: int, gpus: float, seconds: float, half_life_days: float) -> ResourceHours:
    """What is left, at its end, of a use of resources that lasted for a time."""
    half_life = half_life_days * _DAY
    hours = half_life / log(2) * (1.0 - 0.5 ** (seconds / half_life)) / 3600
    return ResourceHours(cores * hours, gpus * hours)
