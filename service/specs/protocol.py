"""What a training process and the API tell each other. Both ends read these models."""

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from service.specs.job_spec import JobSpec, StartMode
from service.specs.search_spec import SearchSpec
from service.states import CheckpointPart, LogLevel, Reason, StopReason

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def sanitize_text(text: str) -> str:
    """PostgreSQL keeps no NUL and no half of a character; what a program prints may hold both."""
    whole = text.encode("utf-8", "replace").decode()
    return whole.replace("\x00", "\N{REPLACEMENT CHARACTER}")


Text = Annotated[str, AfterValidator(sanitize_text)]
# What fits into a database's integer, and times that exist in every zone.
Count = Annotated[int, Field(ge=0, lt=2**31)]
Time = Annotated[
    AwareDatetime,
    Field(ge=datetime(1970, 1, 1, tzinfo=UTC), lt=datetime(9999, 1, 1, tzinfo=UTC)),
]
SeriesName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_/]{0,62}$")]

MAX_POINTS = 5_000
MAX_LINES = 1_000
MAX_LINE_LENGTH = 8_000
MAX_MESSAGE_LENGTH = 20_000


class WireModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class MetricPoint(WireModel):
    """`value` None where it was not a finite number: a diverged loss still has its place."""

    series: SeriesName
    iteration: Count
    value: float | None


class LogLine(WireModel):
    at: Time
    level: LogLevel
    message: Annotated[Text, Field(max_length=MAX_LINE_LENGTH)]


class Progress(WireModel):
    """`iteration` steps are done of `iterations`; images_per_second counts all workers."""

    iteration: Count
    iterations: Annotated[Count, Field(ge=1)]
    images_per_second: Annotated[float, Field(ge=0)] | None


class RunEnvironment(WireModel):
    """What is known once the training processes are up.

    `numerics`: what makes the run fast and keeps its recipe, such as precision and memory format.
    """

    parameters: Annotated[int, Field(ge=1)]
    classes: Annotated[int, Field(ge=2)]
    train_images: Annotated[int, Field(ge=1)]
    test_images: Annotated[int, Field(ge=1)]
    device: Text
    num_workers: Annotated[int, Field(ge=1)]
    host: Text
    pids: list[int]
    versions: dict[Text, Text]
    numerics: dict[Text, Text] = {}


class LaunchTimes(WireModel):
    """When an attempt's rank 0 had its images in memory, and its first optimizer step done."""

    data_ready_at: Time
    first_step_at: Time


class PartDigest(WireModel):
    part: CheckpointPart
    sha256: Sha256
    size_bytes: Annotated[int, Field(ge=1)]


class CheckpointManifest(WireModel):
    """Says that all parts of a checkpoint were uploaded whole; only now does it count.

    Errors in percent, on the test set and over the training images since the epoch began.
    """

    iteration: Count
    test_error: Annotated[float, Field(ge=0, le=100)] | None
    train_error: Annotated[float, Field(ge=0, le=100)] | None
    parts: list[PartDigest]


class Report(WireModel):
    """A batch. `sequence` counts an attempt's reports from 1 without a gap."""

    sequence: Annotated[Count, Field(ge=1)]
    progress: Progress | None = None
    environment: RunEnvironment | None = None
    launch: LaunchTimes | None = None
    metrics: Annotated[list[MetricPoint], Field(max_length=MAX_POINTS)] = []
    logs: Annotated[list[LogLine], Field(max_length=MAX_LINES)] = []
    checkpoints: list[CheckpointManifest] = []


class ReportResponse(WireModel):
    """The answer to a report: the newest sequence that is stored, and whether to stop."""

    last_sequence: int
    stop: StopReason | None


class TrainingResult(WireModel):
    """What a finished training attained; errors in percent."""

    train_error: Annotated[float, Field(ge=0, le=100)] | None
    test_error: Annotated[float, Field(ge=0, le=100)] | None
    training_seconds: Annotated[float, Field(ge=0)]


class FinishAttemptRequest(WireModel):
    """The last word of an attempt."""

    reason: Reason
    message: Annotated[Text, Field(max_length=MAX_MESSAGE_LENGTH)] = ""
    result: TrainingResult | None = None


class ResumeCheckpoint(WireModel):
    """The checkpoint that an attempt starts from; the API serves its parts to the attempt.

    `mode` it is used where it is another job's; None: the job's own, and the run goes on.
    """

    checkpoint_id: str
    iteration: int
    mode: StartMode | None = None
    parts: list[PartDigest]


class AttemptConfig(WireModel):
    """All that a training process needs to know to begin."""

    attempt_id: str
    job_id: str
    number: int
    spec: JobSpec
    num_workers: int
    cpus_per_worker: int
    gpus_per_worker: float
    last_sequence: int
    resume: ResumeCheckpoint | None


class NextAttemptRequest(WireModel):
    """What a runner asks: for its next orders, or, on its way out, for what it leaves undone.

    `trained`: the attempt whose training is over; what it has to deliver still is on its way.
    """

    trained: str | None = None
    wait_seconds: Annotated[float, Field(ge=0, le=60)] = 0.0
    is_leaving: bool = False


class AttemptAssignment(WireModel):
    """An attempt to run, and the token of its processes."""

    brief: AttemptConfig
    token: str


class NextAttemptResponse(WireModel):
    """The answer to a runner: an attempt, or its dismissal, or neither yet."""

    order: AttemptAssignment | None
    is_dismissed: bool


# Of Ray Tune's name for a trial.
_MAX_TUNE_ID_LENGTH = 64


TuneId = Annotated[str, Field(pattern=rf"^[0-9a-zA-Z_]{{1,{_MAX_TUNE_ID_LENGTH}}}$")]


class SearchDriverConfig(WireModel):
    """What a driver begins with. `known`: the parameters of the trials that there are, in order.

    `iterations`: of the longest trial; `evaluate_every`: how many lie between two evaluations.
    """

    search_id: str
    spec: SearchSpec
    iterations: int
    evaluate_every: int
    known: list[dict[str, Any]]


class TrialProposal(WireModel):
    """The parameters that Ray Tune wants tried, under its own name for the trial."""

    tune_id: TuneId
    params: dict[str, Any]


class AssignedTrial(WireModel):
    number: int
    job_id: str


class NextEvaluationRequest(WireModel):
    """For the first evaluation that follows `after` iterations; 0: for the first of all."""

    tune_id: TuneId
    after: Count = 0
    wait_seconds: Annotated[float, Field(ge=0, le=60)] = 0.0


class TrialEvaluation(WireModel):
    """What a trial attained so far, by metric; nothing follows the last one."""

    iteration: int
    values: dict[str, float]
    is_last: bool


class NextEvaluationResponse(WireModel):
    """An evaluation, or why there will be none, or neither yet.

    `failure`: the trial ended without one. `is_over`: the driver is to leave.
    """

    evaluation: TrialEvaluation | None = None
    failure: str | None = None
    is_over: bool = False


class StopTrialRequest(WireModel):
    """A scheduler's decision to stop a trial, by its evaluation at that iteration."""

    tune_id: TuneId
    iteration: Count


class HeartbeatRequest(WireModel):
    wait_seconds: Annotated[float, Field(ge=0, le=60)] = 0.0


class DriverResponse(WireModel):
    is_over: bool


class FinishSearchRequest(WireModel):
    """The last word of a driver whose trials have all ended."""

    message: Annotated[Text, Field(max_length=MAX_MESSAGE_LENGTH)] = ""
