"""Models of the calls between the API and the processes in the cluster; both ends read them.

Attempts (training processes), runners and search drivers each have their own calls; the routes
are in api.routes. Metrics, logs and checkpoints of a training travel in reports.
"""

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from service.catalog.datasets import ChecksumScope
from service.specs.analysis_result import AnalysisResult
from service.specs.job_spec import JobSpec, StartMode
from service.specs.search_spec import SearchSpec
from service.states import CheckpointPart, LogLevel, Reason, StopReason
from service.text import sanitize_text

MAX_POINTS = 5_000
MAX_LINES = 1_000
MAX_LINE_LENGTH = 8_000
MAX_MESSAGE_LENGTH = 20_000
# Of Ray Tune's id for a trial.
_MAX_TUNE_ID_LENGTH = 64


Text = Annotated[str, AfterValidator(sanitize_text)]
Message = Annotated[Text, Field(max_length=MAX_MESSAGE_LENGTH)]
# The range of a database's integer.
Count = Annotated[int, Field(ge=0, lt=2**31)]
# The range that exists in every time zone.
Time = Annotated[
    AwareDatetime,
    Field(
        ge=datetime(1970, 1, 1, tzinfo=UTC),
        lt=datetime(9999, 1, 1, tzinfo=UTC),
        examples=["2026-11-21T12:00:00Z"],
    ),
]
# How long the API may keep a call open; 0: it responds at once.
WaitSeconds = Annotated[float, Field(ge=0, le=60)]
Percent = Annotated[float, Field(ge=0, le=100)]
Sha256 = Annotated[
    str,
    Field(
        pattern=r"^[0-9a-f]{64}$",
        examples=["e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"],
    ),
]
SeriesName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_/]{0,62}$", examples=["test/error"])]
TuneId = Annotated[
    str, Field(pattern=rf"^[0-9a-zA-Z_]{{1,{_MAX_TUNE_ID_LENGTH}}}$", examples=["1f3a7_00000"])
]


class ProtocolModel(BaseModel):
    """Fields of a newer version are ignored: during an upgrade both ends have either version."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


# ---- attempts: configuration ----


class PartDigest(ProtocolModel):
    part: CheckpointPart
    sha256: Sha256
    size_bytes: Annotated[int, Field(ge=1)]


class ResumeCheckpoint(ProtocolModel):
    """The checkpoint that an attempt starts from; the API serves its parts to the attempt.

    `mode`: how another job's checkpoint is used; None: it is the job's own, and training resumes.
    """

    checkpoint_id: str
    iteration: int
    mode: StartMode | None = None
    parts: list[PartDigest]


class AttemptConfig(ProtocolModel):
    """All that a training process needs to know to begin.

    `others`: further checkpoints of an analysis, in their order.
    `last_sequence`: the newest report of this attempt that the API has stored. `lost_iteration`: up
    to it the job was trained before, but its checkpoints no longer exist.
    """

    attempt_id: str
    job_id: str
    number: int
    spec: JobSpec
    num_workers: int
    cpus_per_worker: int
    gpus_per_worker: float
    last_sequence: int
    resume: ResumeCheckpoint | None
    others: list[ResumeCheckpoint] = []
    lost_iteration: int | None = None


class UploadedImages(ProtocolModel):
    """The images of an uploaded dataset; `sha256` is of the archive in which the API sends them."""

    sha256: Sha256
    stored_bytes: Annotated[int, Field(ge=0)]


class AttemptDataset(ProtocolModel):
    """`upload` None: the job's dataset was not uploaded, and each node has its own copy."""

    upload: UploadedImages | None


# ---- attempts: reports ----


class MetricPoint(ProtocolModel):
    """`value` None: it was not finite. A loss that diverged keeps its place in the series.

    `seconds`: training time of the run until this iteration, over all attempts.
    """

    series: SeriesName
    iteration: Count
    value: float | None
    seconds: Annotated[float, Field(ge=0)]
    at: Time


class LogLine(ProtocolModel):
    at: Time
    level: LogLevel
    message: Annotated[Text, Field(max_length=MAX_LINE_LENGTH)]


class Progress(ProtocolModel):
    """`iteration` steps are done of `iterations`; images_per_second counts all workers."""

    iteration: Count
    iterations: Annotated[Count, Field(ge=1)]
    images_per_second: Annotated[float, Field(ge=0)] | None


class DataChecksum(ProtocolModel):
    """`scope` says what the SHA-256 of a dataset covers."""

    sha256: Sha256
    scope: ChecksumScope


class RunEnvironment(ProtocolModel):
    """What is known once the training processes are up.

    `versions`: of packages, of this service, and of its code. `numerics`: what affects speed and
    rounding, such as precision and memory format.
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
    data_checksum: DataChecksum | None = None


class LaunchTimes(ProtocolModel):
    """When rank 0 had its images in memory, and when its first optimizer step was done."""

    data_ready_at: Time
    first_step_at: Time


class CheckpointManifest(ProtocolModel):
    """Lists the parts of a checkpoint, all of them uploaded; the checkpoint counts from now on.

    Errors in percent: on the test set, over the training images since the last evaluation, and the
    one by which the recipe selects; None if these weights were not evaluated, or it selects by
    none.
    """

    iteration: Count
    test_error: Percent | None
    train_error: Percent | None
    selection_error: Percent | None = None
    parts: list[PartDigest]


class Report(ProtocolModel):
    """What happened since the last report. `sequence` counts them from 1 without a gap."""

    sequence: Annotated[Count, Field(ge=1)]
    progress: Progress | None = None
    environment: RunEnvironment | None = None
    launch_times: LaunchTimes | None = None
    metrics: Annotated[list[MetricPoint], Field(max_length=MAX_POINTS)] = []
    logs: Annotated[list[LogLine], Field(max_length=MAX_LINES)] = []
    checkpoints: list[CheckpointManifest] = []


class ReportResponse(ProtocolModel):
    """The newest sequence that is stored; why training should stop, None: it should not."""

    last_sequence: int
    stop_reason: StopReason | None


# ---- attempts: the end ----


class TrainingResult(ProtocolModel):
    """What a finished training attained; errors in percent.

    `test_top5_error`: with more than five classes. `validation_error`: with held-out images.
    `step_seconds`: `training_seconds` without evaluations and checkpoints.
    """

    train_error: Percent | None
    test_error: Percent | None
    training_seconds: Annotated[float, Field(ge=0)]
    step_seconds: Annotated[float, Field(ge=0)] | None = None
    test_top5_error: Percent | None = None
    validation_error: Percent | None = None


class FinishAttemptRequest(ProtocolModel):
    """Why the attempt ended; its last call. It has the result of a training, or of an analysis."""

    reason: Reason
    message: Message = ""
    result: TrainingResult | None = None
    analysis: AnalysisResult | None = None


# ---- runners ----


class NextAttemptRequest(ProtocolModel):
    """Asks for the next attempt; a runner that exits asks which attempt of it has not ended.

    `trained_attempt_id`: the attempt whose training is over; it may still deliver results.
    """

    trained_attempt_id: str | None = None
    wait_seconds: WaitSeconds = 0.0
    is_exiting: bool = False


class AttemptAssignment(ProtocolModel):
    """An attempt to run, and the token of its processes."""

    config: AttemptConfig
    token: str


class NextAttemptResponse(ProtocolModel):
    """An attempt, or the instruction to exit; neither: ask again."""

    assignment: AttemptAssignment | None
    should_exit: bool


# ---- search drivers ----


class SearchDriverConfig(ProtocolModel):
    """What a driver begins with.

    `max_iterations` of the longest trial; `evaluate_every`: iterations between two evaluations;
    `known_params`: the parameters of the trials that exist, in their order.
    """

    search_id: str
    spec: SearchSpec
    max_iterations: int
    evaluate_every: int
    known_params: list[dict[str, Any]]


class TrialProposal(ProtocolModel):
    """The parameters that Ray Tune wants to try, under its own id of the trial."""

    tune_id: TuneId
    params: Annotated[dict[str, Any], Field(examples=[{"recipe.learning_rate": 0.1}])]


class AssignedTrial(ProtocolModel):
    number: int
    job_id: str


class NextEvaluationRequest(ProtocolModel):
    """Asks for the trial's first evaluation after `after_iteration`; 0: the first of all."""

    tune_id: TuneId
    after_iteration: Count = 0
    wait_seconds: WaitSeconds = 0.0


class TrialEvaluation(ProtocolModel):
    """A trial's values by metric; no evaluation follows the last."""

    iteration: int
    values: dict[str, float]
    is_last: bool


class NextEvaluationResponse(ProtocolModel):
    """An evaluation, or why none will follow; neither: ask again.

    `failure`: why the trial ended without an evaluation.
    """

    evaluation: TrialEvaluation | None = None
    failure: str | None = None
    should_exit: bool = False


class StopTrialRequest(ProtocolModel):
    """A scheduler's decision to stop a trial, based on its evaluation at `iteration`."""

    tune_id: TuneId
    iteration: Count


class HeartbeatRequest(ProtocolModel):
    wait_seconds: WaitSeconds = 0.0


class DriverResponse(ProtocolModel):
    should_exit: bool


class FinishSearchRequest(ProtocolModel):
    """The last call of a driver whose trials have all ended."""

    message: Message = ""
