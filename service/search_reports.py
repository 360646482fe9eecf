"""What a search's driver and the API tell each other. Both ends read these models."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from service.reports import MAX_MESSAGE_LENGTH, Count, Text
from service.search_spec import SearchSpec

# Of Ray Tune's name for a trial.
_FOLLOWER_LETTERS = 64


class _Wire(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


TuneId = Annotated[str, Field(pattern=rf"^[0-9a-zA-Z_]{{1,{_FOLLOWER_LETTERS}}}$")]


class SearchBrief(_Wire):
    """What a driver begins with. `known`: the parameters of the trials that there are, in order.

    `iterations`: of the longest trial; `evaluate_every`: how many lie between two evaluations.
    """

    search_id: str
    spec: SearchSpec
    iterations: int
    evaluate_every: int
    known: list[dict[str, Any]]


class Draft(_Wire):
    """The parameters that Ray Tune wants tried, under its own name for the trial."""

    tune_id: TuneId
    params: dict[str, Any]


class FollowedTrial(_Wire):
    number: int
    job_id: str


class TrialQuestion(_Wire):
    """For the first evaluation that follows `after` iterations; 0: for the first of all."""

    tune_id: TuneId
    after: Count = 0
    wait_seconds: Annotated[float, Field(ge=0, le=60)] = 0.0


class Evaluation(_Wire):
    """What a trial attained so far, by metric; nothing follows the last one."""

    iteration: int
    values: dict[str, float]
    is_last: bool


class TrialAnswer(_Wire):
    """An evaluation, or why there will be none, or neither yet.

    `failure`: the trial ended without one. `is_over`: the driver is to leave.
    """

    evaluation: Evaluation | None = None
    failure: str | None = None
    is_over: bool = False


class TrialStop(_Wire):
    """A scheduler's decision to stop a trial, by its evaluation at that iteration."""

    tune_id: TuneId
    iteration: Count


class Heartbeat(_Wire):
    wait_seconds: Annotated[float, Field(ge=0, le=60)] = 0.0


class Dismissal(_Wire):
    is_over: bool


class SearchFinish(_Wire):
    """The last word of a driver whose trials have all ended."""

    message: Annotated[Text, Field(max_length=MAX_MESSAGE_LENGTH)] = ""
