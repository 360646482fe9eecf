"""What the service returns, as records.

A field with a default may be missing in the response of an older service. Errors are percent,
times are aware, sizes are bytes.
"""

from typing import Any

from resnetd import html
from resnetd.records import OpenEnum, Record, Time, parse


class JobState(OpenEnum):
    BLOCKED = "blocked"
    QUEUED = "queued"
    HELD = "held"
    PAUSED = "paused"
    STARTING = "starting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return self in {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}


class AttemptState(OpenEnum):
    STARTING = "starting"
    RUNNING = "running"
    ENDED = "ended"


class Reason(OpenEnum):
    """Why an attempt ended, or why a job ended that had none."""

    COMPLETED = "completed"
    BUDGET_REACHED = "budget-reached"
    CANCELLED = "cancelled"
    KILLED = "killed"
    PAUSED = "paused"
    PREEMPTED = "preempted"
    RESIZED = "resized"
    EARLY_STOPPED = "early-stopped"
    DEPENDENCY_FAILED = "dependency-failed"
    TIME_LIMIT = "time-limit"
    DATASET_MISSING = "dataset-missing"
    DIVERGED = "diverged"
    TRAINING_ERROR = "training-error"
    OUT_OF_MEMORY = "out-of-memory"
    WORKER_DIED = "worker-died"
    HEARTBEAT_TIMEOUT = "heartbeat-timeout"
    START_TIMEOUT = "start-timeout"
    CLUSTER_LOST = "cluster-lost"
    DELIVERY_FAILED = "delivery-failed"
    INTERNAL = "internal"


class Blame(OpenEnum):
    """The cause of an attempt's end; only the user's count against `max_restarts`."""

    USER = "user"
    INFRASTRUCTURE = "infrastructure"
    PLATFORM = "platform"


class StopReason(OpenEnum):
    """Why a running attempt is to stop at its next step boundary."""

    CANCEL = "cancel"
    TIME_LIMIT = "time-limit"
    PAUSE = "pause"
    PREEMPT = "preempt"
    EARLY_STOP = "early-stop"
    RESIZE = "resize"


class ActorKind(OpenEnum):
    """Who caused an event."""

    PERSON = "person"
    DISPATCHER = "dispatcher"
    ATTEMPT = "attempt"
    SEARCH = "search"


class Scale(OpenEnum):
    """How long the trainings of a study are."""

    SMOKE = "smoke"
    SHORT = "short"
    PAPER = "paper"
    OWN = "own"


class StudyMetric(OpenEnum):
    """What a study reports, by the name of its series."""

    TEST_ERROR = "test/error"
    TEST_TOP5_ERROR = "test/top5_error"
    VALIDATION_ERROR = "validation/error"
    TRAIN_ERROR = "train/error"


class NetworkCount(OpenEnum):
    """What a network has without training: millions, billions for one image, and percent."""

    PARAMETERS = "network/parameters"
    MULTIPLY_ADDS = "network/multiply_adds"
    SHARE = "network/share"


class Verdict(OpenEnum):
    """How a mean over seeds compares with the paper's number."""

    REPRODUCED = "reproduced"
    LOWER = "lower"
    HIGHER = "higher"
    TOO_FEW_SEEDS = "too-few-seeds"
    NOT_COMPARABLE = "not-comparable"
    MISSING = "missing"


class WaitReason(OpenEnum):
    """Why a waiting job does not run."""

    HELD = "held"
    PARKED = "parked"
    PAUSED = "paused"
    DEPENDENCY = "dependency"
    BACKOFF = "backoff"
    NO_DISPATCHER = "no-dispatcher"
    TOO_LARGE = "too-large"
    LIMIT = "limit"
    RESOURCES = "resources"
    BEHIND = "behind"
    NEXT = "next"


class BottleneckCode(OpenEnum):
    """What training waits for."""

    DATA_LOADING = "data-loading"
    SYNCHRONIZATION = "synchronization"


class EventKind(OpenEnum):
    SUBMITTED = "submitted"
    STATE = "state"
    STOP_REQUESTED = "stop-requested"
    CHANGED = "changed"
    ATTEMPT = "attempt"
    CHECKPOINT = "checkpoint"
    DRIVER = "driver"  # of a search
    TRIAL = "trial"  # of a search
    REGISTERED = "registered"  # of a model
    PROMOTED = "promoted"  # of a model
    ALIAS_REMOVED = "alias-removed"  # of a model
    VERSION_DELETED = "version-deleted"  # of a model
    PROGRESS = "progress"  # in the stream only; it is not stored and has no number


class LogLevel(OpenEnum):
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class SearchState(OpenEnum):
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return self in {SearchState.SUCCEEDED, SearchState.FAILED, SearchState.CANCELLED}


class SearchEndReason(OpenEnum):
    TRIALS = "trials"  # all trials of its budget have ended
    TARGET = "target-error"
    ITERATIONS = "iterations"
    WALL_TIME = "wall-seconds"
    CANCELLED = "cancelled"
    NO_TRIAL = "no-trial-succeeded"
    DRIVER = "driver-failed"


class DatasetOrigin(OpenEnum):
    BUNDLED = "bundled"  # in an installed package, or generated
    DOWNLOAD = "download"
    FOLDER = "folder"  # class folders under the data directory


class DeliveryState(OpenEnum):
    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


class Progress(Record, frozen=True):
    """`metrics` has the newest value of each series, None where it was not finite.

    Series of `step/` and `machine/` are not in it.
    """

    iteration: int
    iterations: int
    percent: float
    images_per_second: float | None = None
    eta_seconds: float | None = None
    metrics: dict[str, float | None] = {}


class TrainingResult(Record, frozen=True):
    """Errors in percent: top-5 with more than five classes, validation with held-out images."""

    train_error: float | None = None
    test_error: float | None = None
    test_top5_error: float | None = None
    validation_error: float | None = None
    training_seconds: float | None = None
    step_seconds: float | None = None


class FairSharePoints(Record, frozen=True):
    """Points of priority that a job loses for what its owner has used, and what for."""

    points: int
    message: str


class QueueStatus(Record, frozen=True):
    """Why a job waits, and when it is expected to start: half of such jobs by `starts_p50`."""

    code: WaitReason
    message: str
    position: int | None = None
    effective_priority: float | None = None
    fair_share: FairSharePoints | None = None
    starts_p50: Time | None = None
    starts_p90: Time | None = None


class Bottleneck(Record, frozen=True):
    """What training waits for, and in a sentence what to do."""

    code: BottleneckCode
    message: str


class WaitingJob(Record, frozen=True):
    """A row of the queue."""

    job_id: str
    name: str
    state: JobState
    waiting: QueueStatus
    priority: int | None = None


class EstimateBasis(OpenEnum):
    """What an estimate of a duration rests on."""

    SAME = "same"
    OTHER_NETWORKS = "other-networks"
    PROGRESS = "progress"
    MAX_SECONDS = "max-seconds"
    TIME_LIMIT = "time-limit"


class Duration(Record, frozen=True):
    """Minutes: half of such jobs take up to `p50`, nine of ten up to `p90`.

    It rests on `samples` measured attempts: of jobs like it, or of other networks by their
    multiply-adds.
    """

    p50: float
    p90: float
    basis: EstimateBasis | None = None
    samples: int = 0


class Plan(Record, frozen=True):
    """The estimate for a spec; None where nothing comparable has run. Memory is per worker.

    `tensor_bytes`: weights, gradients, momentum and feature maps. `resident_bytes`: of the worker's
    process, with its libraries and the images.
    `epochs`: how often each training image is seen; None where they are not counted.
    `worker_counts`: with how many workers it may run. `notes`: advice about the spec.
    """

    spec: dict[str, Any]
    network: str
    waiting: QueueStatus
    parameters: int | None = None
    multiply_adds: int | None = None
    tensor_bytes: int | None = None
    resident_bytes: int | None = None
    minutes: Duration | None = None
    epochs: float | None = None
    worker_counts: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()

    def _repr_html_(self) -> str:
        return html.plan(self)


class EnvelopeVerdict(OpenEnum):
    """`unknown`: there are too few jobs to compare with, or the job has no evaluation."""

    WITHIN = "within"
    LEFT = "left"
    UNKNOWN = "unknown"


class EnvelopePoint(Record, frozen=True):
    """The expected interval of an evaluation, and the job's value; errors in percent."""

    iteration: int
    low: float
    mean: float
    high: float
    value: float | None = None


class Departure(Record, frozen=True):
    """Where the job left the envelope, `points` above or below it."""

    iteration: int
    value: float | None = None
    points: float | None = None


class Envelope(Record, frozen=True):
    """Whether a job's test errors are as expected from the jobs `job_ids`, with other seeds."""

    verdict: EnvelopeVerdict
    message: str
    looks: int
    job_ids: tuple[str, ...] = ()
    departure: Departure | None = None
    points: tuple[EnvelopePoint, ...] = ()


class ClassProbability(Record, frozen=True):
    """`label`: the number of the class; `probability`: 0 to 1."""

    label: int
    class_name: str
    probability: float


class ImagePrediction(Record, frozen=True):
    """The likeliest classes of an image, highest first; `iteration`: of the checkpoint."""

    job_id: str
    checkpoint_id: str
    iteration: int
    classes: tuple[ClassProbability, ...]


class SigningKey(Record, frozen=True):
    """Verifies result cards. `public_key` in PEM; `fingerprint`: SHA-256 of its DER encoding."""

    algorithm: str
    public_key: str
    fingerprint: str


class Job(Record, frozen=True):
    """`progress`, `parameters` and `environment` are None until the training processes run.

    `num_workers`: of its newest attempt.
    """

    id: str
    name: str
    network: str
    state: JobState
    spec: dict[str, Any]
    created_at: Time
    kind: str = "training"
    reason: Reason | None = None
    message: str | None = None
    user: str | None = None
    note: str = ""
    starred: bool = False
    archived: bool = False
    priority: int | None = None
    waiting: QueueStatus | None = None
    stop_requested: StopReason | None = None
    started_at: Time | None = None
    finished_at: Time | None = None
    attempts: int = 0
    num_workers: int | None = None
    restarts: int = 0
    preemptions: int = 0
    progress: Progress | None = None
    bottleneck: Bottleneck | None = None
    parameters: int | None = None
    environment: dict[str, Any] | None = None
    result: TrainingResult | None = None

    @property
    def is_final(self) -> bool:
        """True also in a final state that only a newer service knows."""
        return self.state.is_final or self.finished_at is not None

    @property
    def is_held_by_service(self) -> bool:
        """Whether its attempts failed repeatedly at one iteration: it waits for a release."""
        return _is_held_by_service(self)

    def read_curve(self) -> html.Points:
        """The test errors until now by iteration; none where the service cannot be asked."""
        if self.connection is None or not self.attempts:
            return ()
        path = f"/v1/jobs/{self.id}/metrics"
        read = self.connection.read_optional(path, {"series": "test/error"}) or {}
        document = read.get("series", {}).get("test/error")
        return () if document is None else html.finite_points(parse(Series, document))

    def _repr_html_(self) -> str:
        return html.job(self, self.read_curve())


class AnalysisJob(Record, frozen=True):
    """An analysis of a job's checkpoint. `numbers` is None before it has a result."""

    job_id: str
    name: str
    kind: str
    state: JobState
    checkpoint_id: str
    iteration: int
    dataset: str = ""
    analysis: dict[str, Any] = {}
    numbers: dict[str, float | None] | None = None


class ResultTable(Record, frozen=True):
    """Each row has a cell for each column; None: not a finite number, or none."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[int | float | str | None, ...], ...]


class AnalysisResult(Record, frozen=True):
    """What an analysis found; errors in percent. `notes`: which images were used, and how."""

    numbers: dict[str, float | None]
    tables: tuple[ResultTable, ...] = ()
    notes: tuple[str, ...] = ()


class Event(Record, frozen=True):
    """`number` counts the events of a job from 1; it is None for progress.

    `actor` is who caused it; of a person, `user` is the name.
    """

    kind: EventKind
    number: int | None = None
    at: Time | None = None
    actor: ActorKind | None = None
    user: str | None = None
    data: dict[str, Any] = {}

    @property
    def is_final(self) -> bool:
        """Whether no event follows."""
        return self.kind == EventKind.STATE and JobState(str(self.data.get("to"))).is_final

    @property
    def is_held_by_service(self) -> bool:
        """Whether the job waits for a release, because its attempts failed repeatedly."""
        is_held = self.kind == EventKind.STATE and self.data.get("to") == JobState.HELD
        return is_held and self.data.get("reason") is not None

    @property
    def progress(self) -> Progress | None:
        """The data of an event of the kind `progress`."""
        return parse(Progress, self.data) if self.kind == EventKind.PROGRESS else None


class LogLine(Record, frozen=True):
    number: int
    attempt: int
    at: Time
    level: LogLevel
    message: str


class Attempt(Record, frozen=True):
    """One execution of a job on the cluster.

    It trained the iterations after `first_iteration` with `num_workers`, until `last_iteration` as
    last reported.
    """

    number: int
    state: AttemptState
    id: str | None = None
    num_workers: int | None = None
    first_iteration: int | None = None
    last_iteration: int | None = None
    reason: Reason | None = None
    blame: Blame | None = None
    message: str | None = None
    created_at: Time | None = None
    started_at: Time | None = None
    ended_at: Time | None = None


class Part(Record, frozen=True):
    """A file of a checkpoint."""

    sha256: str
    size_bytes: int


class Checkpoint(Record, frozen=True):
    """Errors in percent. `selection_error`: the one by which `best` is found, None: by none.

    `names`: in the model registry, by number and by alias.
    """

    id: str
    job_id: str
    attempt: int
    iteration: int
    created_at: Time
    size_bytes: int
    test_error: float | None = None
    selection_error: float | None = None
    train_error: float | None = None
    parts: dict[str, Part] = {}
    names: tuple[str, ...] = ()


class Series(Record, frozen=True):
    """`values[i]` was measured after `iterations[i]` steps; None where it was not finite.

    `seconds[i]`: training time of the job until then; `times[i]`: seconds since 1970.
    """

    iterations: tuple[int, ...]
    values: tuple[float | None, ...]
    seconds: tuple[float, ...]
    times: tuple[float, ...]


class Trial(Record, frozen=True):
    """Parameters of a search, and their jobs: one, or one for each seed with repeats.

    `rank` counts the trials that are better; None without a value. With repeats, `values` are means
    with the standard deviations `stds`, and `job_id` is the job of the first seed.
    """

    number: int
    job_id: str
    state: JobState
    params: dict[str, Any]
    job_ids: tuple[str, ...] = ()
    values: dict[str, float] = {}
    stds: dict[str, float] = {}
    rank: int | None = None
    reason: Reason | None = None
    iteration: int = 0
    stop_reason: str | None = None

    @property
    def is_held_by_service(self) -> bool:
        """Whether its attempts failed repeatedly at one iteration: it waits for a release."""
        return _is_held_by_service(self)


class BudgetUsed(Record, frozen=True):
    trials: int = 0
    iterations: int = 0
    wall_seconds: float | None = None


class MemberJob(Record, frozen=True):
    """A job of a study; None once it is deleted. `result_card`: its path, once completed."""

    seed: int
    job_id: str | None = None
    state: JobState | None = None
    result_card: str | None = None


class SampleStatistics(Record, frozen=True):
    """Over the seeds, percent; the interval is the 95 % interval of the mean."""

    n: int
    mean: float
    std: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    min: float | None = None
    max: float | None = None


class GroupMember(Record, frozen=True):
    """A job of a group."""

    id: str
    name: str
    state: JobState
    seed: int


class Group(Record, frozen=True):
    """Jobs that differ in their seeds. `fields`: the values in which the groups differ.

    `results`: over the jobs that have a result, by its name, such as `test_error`.
    """

    fields: dict[str, Any] = {}
    jobs: tuple[GroupMember, ...] = ()
    results: dict[str, SampleStatistics] = {}


class GroupDifference(Record, frozen=True):
    """Of group `a` against group `b`, by their positions, over `n` pairs of equal seeds.

    `mean`: a minus b in points, with its 95 % interval and p; `text` says it in words.
    """

    a: int
    b: int
    metric: StudyMetric
    n: int
    text: str
    mean: float | None = None
    std: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    p: float | None = None
    is_significant: bool = False


class Groups(Record, frozen=True):
    """`differences`: of the first group against each other."""

    groups: tuple[Group, ...] = ()
    differences: tuple[GroupDifference, ...] = ()


class PaperValue(Record, frozen=True):
    """What the paper prints."""

    value: float
    std: float | None = None
    n: int | None = None


class Cell(Record, frozen=True):
    """A metric of a member. `difference`: ours minus the paper's, where they are comparable."""

    statistics: SampleStatistics | None = None
    paper: PaperValue | None = None
    difference: float | None = None
    verdict: Verdict | None = None


class MemberAnalysis(Record, frozen=True):
    """Of those seeds whose training has succeeded. `numbers`: over the finished analyses."""

    name: str
    jobs: tuple[MemberJob, ...] = ()
    numbers: dict[str, SampleStatistics] = {}


class Member(Record, frozen=True):
    """A network of a study. `gap`: which of its jobs have no result; empty if none."""

    label: str
    network: str
    jobs: tuple[MemberJob, ...] = ()
    results: dict[str, Cell] = {}
    analyses: tuple[MemberAnalysis, ...] = ()
    parameters: int | None = None
    gap: str = ""

    @property
    def all_jobs(self) -> tuple[MemberJob, ...]:
        """Of its trainings and analyses."""
        return (*self.jobs, *(job for analysis in self.analyses for job in analysis.jobs))


class StudyEnsemble(Record, frozen=True):
    """Members whose probabilities are averaged. `jobs`: of the seeds whose trainings succeeded."""

    label: str
    members: tuple[str, ...]
    jobs: tuple[MemberJob, ...] = ()
    results: dict[str, Cell] = {}
    gap: str = ""


class Difference(Record, frozen=True):
    """Of `n` pairs of equal seeds: mean of a minus b in points, 95 % interval, p, and in words."""

    a: str
    b: str
    metric: StudyMetric
    n: int
    text: str
    mean: float | None = None
    std: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    p: float | None = None
    is_significant: bool = False
    agrees: bool | None = None


class Study(Record, frozen=True):
    """A study with its results so far. `finished` of `total` jobs have ended.

    In a list without results.
    """

    id: str
    name: str
    scale: Scale
    dataset: str
    seeds: int
    created_at: Time
    user: str | None = None
    origin: str = ""
    finished: int | None = None
    total: int | None = None
    columns: tuple[str, ...] = ()
    members: tuple[Member, ...] = ()
    ensembles: tuple[StudyEnsemble, ...] = ()
    differences: tuple[Difference, ...] = ()

    @property
    def is_final(self) -> bool:
        """Whether all jobs have ended."""
        return self.finished is not None and self.finished == self.total

    @property
    def has_failed(self) -> bool:
        """Whether it is final and a job has not succeeded, or was deleted."""
        jobs = [job for member in self.members for job in member.all_jobs]
        jobs += [job for ensemble in self.ensembles for job in ensemble.jobs]
        return self.is_final and any(job.state is not JobState.SUCCEEDED for job in jobs)

    @property
    def state(self) -> str:
        return f"unfinished: {self.finished} of {self.total}"

    def _repr_html_(self) -> str:
        return html.study(self)


class Comparison(Record, frozen=True):
    """Two specs over paired seeds, with their difference so far."""

    id: str
    created_at: Time
    finished: int
    total: int
    difference: Difference
    members: tuple[Member, ...] = ()

    def _repr_html_(self) -> str:
        return html.comparison(self)


class Search(Record, frozen=True):
    """`best` is the best trial; with several metrics, all trials of the Pareto front."""

    id: str
    name: str
    state: SearchState
    spec: dict[str, Any]
    created_at: Time
    end_reason: SearchEndReason | None = None
    message: str | None = None
    user: str | None = None
    started_at: Time | None = None
    finished_at: Time | None = None
    best: tuple[Trial, ...] | None = None
    counts: dict[str, int] | None = None
    used: BudgetUsed | None = None

    @property
    def is_final(self) -> bool:
        return self.state.is_final or self.finished_at is not None

    def _repr_html_(self) -> str:
        return html.search(self)


class Importance(Record, frozen=True):
    """The share of each field in a metric's variance; empty with fewer than four trials."""

    trials: int
    shares: dict[str, float] = {}


class Dataset(Record, frozen=True):
    """`height` and `width` are pixels, None where the images decide.

    `class_names` in the order of the logits. `skipped`: files of an upload that are not part of
    the dataset, by what they are.
    `jobs`: that name it. Of an upload, `user` owns it and `stored_bytes` is the size of its images.
    `available`: whether the images are under the data directory of the service.
    """

    name: str
    title: str = ""
    origin: DatasetOrigin | None = None
    classes: int | None = None
    height: int | None = None
    width: int | None = None
    train_images: int | None = None
    test_images: int | None = None
    default_recipe: str | None = None
    available: bool | None = None
    class_names: tuple[str, ...] | None = None
    skipped: dict[str, int] | None = None
    jobs: int = 0
    user: str | None = None
    stored_bytes: int | None = None


class Recipe(Record, frozen=True):
    """`source` is where the recipe comes from; `fields` are its values for ResNet-20."""

    name: str
    source: str = ""
    fields: dict[str, Any] = {}


class Health(Record, frozen=True):
    """Of a service that is ready: its version, and that of its routes."""

    status: str
    version: str = ""
    api_version: str = ""


class Cluster(Record, frozen=True):
    """`cpus` and `gpus` are totals: None until a dispatcher has seen the cluster."""

    cpus: int | None = None
    gpus: int | None = None
    reserved_cpus: int = 0
    reserved_gpus: float = 0
    seen_at: Time | None = None


class Role(OpenEnum):
    """What a person may do, each more than the one before."""

    VIEWER = "viewer"
    MEMBER = "member"
    ADMIN = "admin"


class TokenScope(OpenEnum):
    """What a token may do of what its person may, each more than the one before."""

    SHARED = "shared"
    READ = "read"
    SUBMIT = "submit"
    FULL = "full"


class MembersSee(OpenEnum):
    """Which jobs, searches and studies a member sees."""

    ALL = "all"
    OWN = "own"


class Session(Record, frozen=True):
    """What the person and the token may do together; with `tag`, only with jobs that have it."""

    user: str
    role: Role
    scope: TokenScope
    group: str | None = None
    tag: str | None = None
    expires_at: Time | None = None
    members_see: MembersSee = MembersSee.ALL


class Person(Record, frozen=True):
    """`tokens` is their number; `last_used_at` is of any of them, to the minute."""

    name: str
    role: Role
    created_at: Time
    group: str | None = None
    tokens: int = 0
    last_used_at: Time | None = None


class Token(Record, frozen=True):
    """`secret` is the token itself; only the responses to `create` and `rotate` have it."""

    id: str
    user: str
    label: str
    scope: TokenScope
    tag: str | None = None
    created_at: Time | None = None
    expires_at: Time | None = None
    last_used_at: Time | None = None
    secret: str | None = None


class Share(Record, frozen=True):
    """A link; only the response to `create` has its `secret`."""

    id: str
    user: str
    label: str
    jobs: tuple[str, ...] = ()
    study: str | None = None
    created_at: Time | None = None
    expires_at: Time | None = None
    last_used_at: Time | None = None
    secret: str | None = None


class ModelAlias(Record, frozen=True):
    """A word for a version of a model; `user` moved it there."""

    alias: str
    version: int
    user: str = ""
    note: str = ""
    moved_at: Time | None = None


class Model(Record, frozen=True):
    """A name for weights. `newest_version`: the number of its newest version."""

    id: str
    name: str
    user: str = ""
    newest_version: int = 0
    aliases: tuple[ModelAlias, ...] = ()
    created_at: Time | None = None


class StartMode(OpenEnum):
    """What a job takes from the checkpoint that it starts from."""

    CONTINUE = "continue"
    WEIGHTS = "weights"
    FINE_TUNE = "fine-tune"
    DEEPEN = "deepen"


class ModelSource(Record, frozen=True):
    """What a training began from: a checkpoint of another job, or a file of weights."""

    mode: StartMode
    job: str | None = None
    checkpoint: str | None = None
    iteration: int | None = None
    weights: str | None = None


class ModelLineage(Record, frozen=True):
    """Where the weights of a version came from, as it was known at the registration.

    `source` None: new weights. `dataset_checksum`: `{"sha256", "scope"}`.
    """

    network: str
    dataset: str
    dataset_checksum: dict[str, str] | None = None
    seed: int = 0
    iteration: int = 0
    test_error: float | None = None
    weights_sha256: str = ""
    source: ModelSource | None = None
    training_key: str = ""
    code_version: str | None = None
    code_commit: str | None = None
    training_code_sha256: str | None = None


class ModelVersion(Record, frozen=True):
    """A checkpoint under the name of a model; `user` registered it."""

    model_id: str
    name: str
    version: int
    job_id: str
    checkpoint_id: str
    lineage: ModelLineage
    aliases: tuple[str, ...] = ()
    user: str = ""
    note: str = ""
    created_at: Time | None = None


class Quota(Record, frozen=True):
    """Limits of a person, a group or a tag; None: no limit. `waiting`: jobs in the queue.

    `core_hours`, `gpu_hours`: in the last seven days. `stored_bytes`: of checkpoints and uploaded
    datasets.
    """

    key: str
    jobs: int | None = None
    workers: int | None = None
    gpus: float | None = None
    waiting: int | None = None
    core_hours: float | None = None
    gpu_hours: float | None = None
    stored_bytes: int | None = None


class Usage(Record, frozen=True):
    """What a person or group has used, decayed; `points`: None for groups.

    `relative`: to the most of any person, or group, from 0 to 1.
    """

    key: str
    core_hours: float
    gpu_hours: float
    relative: float
    points: int | None = None


class FairShare(Record, frozen=True):
    """How much past usage counts in the queue; `usage`: what the caller may see, most first."""

    weight: float
    half_life_days: float
    usage: tuple[Usage, ...] = ()


class StoredJob(Record, frozen=True):
    id: str
    name: str = ""
    stored_bytes: int = 0


class Storage(Record, frozen=True):
    """Bytes that are stored for a person. `limit_bytes`: of the person's quota, None: no limit."""

    user: str
    checkpoint_bytes: int = 0
    dataset_bytes: int = 0
    limit_bytes: int | None = None
    largest_jobs: tuple[StoredJob, ...] = ()


class AuditKind(OpenEnum):
    """What the audit log records."""

    SIGN_IN = "sign-in"
    SIGN_IN_FAILED = "sign-in-failed"
    TOKEN_REFUSED = "token-refused"  # noqa: S105
    SIGN_OUT = "sign-out"
    PERSON_ADDED = "person-added"
    ROLE_CHANGED = "role-changed"
    GROUP_CHANGED = "group-changed"
    PERSON_REMOVED = "person-removed"
    TOKEN_CREATED = "token-created"  # noqa: S105 - what happened
    TOKEN_ROTATED = "token-rotated"  # noqa: S105
    TOKEN_REVOKED = "token-revoked"  # noqa: S105
    JOB_DELETED = "job-deleted"
    SEARCH_DELETED = "search-deleted"
    STUDY_DELETED = "study-deleted"
    DATASET_DELETED = "dataset-deleted"
    SHARE_CREATED = "share-created"
    SHARE_OPENED = "share-opened"
    SHARE_REVOKED = "share-revoked"
    QUOTA_SET = "quota-set"
    QUOTA_DELETED = "quota-deleted"
    FAIR_SHARE_SET = "fair-share-set"
    MODEL_PROMOTED = "model-promoted"
    MODEL_ALIAS_REMOVED = "model-alias-removed"
    MODEL_DELETED = "model-deleted"
    MODEL_VERSION_DELETED = "model-version-deleted"


class AuditEntry(Record, frozen=True):
    """`user` did it; None: no person. `subject` is the name of a person, or the id of the rest."""

    id: str
    at: Time
    kind: AuditKind
    user: str | None = None
    subject: str = ""
    data: dict[str, Any] = {}


class Webhook(Record, frozen=True):
    """`secret` signs the deliveries; only the response to `create` has it."""

    id: str
    url: str
    states: tuple[JobState, ...] = ()
    user: str | None = None
    created_at: Time | None = None
    secret: str | None = None


class AlertCondition(OpenEnum):
    """What an alert reports: changes of a job's state, then what time decides."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    HELD = "held"
    DIVERGED = "diverged"
    SILENT = "silent"
    PLATEAU = "plateau"
    QUOTA = "quota"
    QUEUE_STUCK = "queue-stuck"


class AlertChannel(OpenEnum):
    """By what a person is notified."""

    WEBHOOK = "webhook"
    EMAIL = "email"
    SLACK = "slack"
    DISCORD = "discord"


class Alert(Record, frozen=True):
    """`secret` signs the calls of a webhook; only the response to `create` has it."""

    id: str
    channel: AlertChannel
    target: str
    conditions: tuple[AlertCondition, ...] = ()
    tags: tuple[str, ...] = ()
    all_jobs: bool = False
    minutes: int = 5
    evaluations: int = 10
    user: str | None = None
    created_at: Time | None = None
    secret: str | None = None


class Delivery(Record, frozen=True):
    """`status` is that of the last response, `error` why there was none."""

    id: str
    state: DeliveryState
    payload: dict[str, Any] = {}
    tries: int = 0
    status: int | None = None
    error: str | None = None
    created_at: Time | None = None
    delivered_at: Time | None = None


def _is_held_by_service(run: Job | Trial) -> bool:
    """A user's hold has no reason."""
    return run.state == JobState.HELD and run.reason is not None
