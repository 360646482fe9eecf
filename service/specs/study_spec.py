"""A study: networks that are compared over seeds, beside what a paper reports.

A definition is data, so that a teacher writes one. A request names a definition, or has its own,
and chooses scale, dataset and seeds.
"""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError, field_validator, model_validator

from service.errors import FieldError, InvalidInput
from service.specs.analysis_spec import (
    MAX_ENSEMBLE,
    AnalysisSpec,
    EnsembleSpec,
    EvaluationSpec,
    LayerResponsesSpec,
    OtherCheckpoint,
    find_analysis_problem,
)
from service.specs.base import MAX_NAME_LENGTH, Spec
from service.specs.fields import merge_patch
from service.specs.job_spec import JobSpec, StartMode, parse_job_spec
from service.specs.validation import to_field_errors, validate

MAX_MEMBERS = 50
MAX_SEEDS = 100
_COMPARED = 2
# Fields that the study itself decides.
_STUDY_FIELDS = frozenset({"seed", "name", "dataset"})

Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:+ -]{0,59}$")]
AnalysisName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")]
Text = Annotated[str, Field(max_length=2_000)]
Seeds = Annotated[int, Field(strict=True, ge=1, le=MAX_SEEDS)]
EnsembleMembers = Annotated[tuple[Label, ...], Field(min_length=2, max_length=MAX_ENSEMBLE)]


class Scale(StrEnum):
    """How long the trainings of a study are."""

    SMOKE = "smoke"  # minutes on two cores: shows that everything works
    SHORT = "short"  # shows the effect, not the paper's numbers
    PAPER = "paper"  # the paper's recipe
    OWN = "own"  # as the members themselves say


class StudyMetric(StrEnum):
    """The last evaluation of a finished job, by the name of its series; percent."""

    TEST_ERROR = "test/error"
    TEST_TOP5_ERROR = "test/top5_error"
    VALIDATION_ERROR = "validation/error"
    TRAIN_ERROR = "train/error"

    @property
    def result_field(self) -> str:
        """Its name in the result of a job."""
        return self.replace("/", "_")

    @property
    def is_of_test(self) -> bool:
        return self in {StudyMetric.TEST_ERROR, StudyMetric.TEST_TOP5_ERROR}

    @property
    def words(self) -> str:
        """In words: "top-5 test error"."""
        return _METRIC_TITLES[self]

    @property
    def heading(self) -> str:
        """With its unit."""
        return f"{self.words}, %"


_METRIC_TITLES = {
    StudyMetric.TEST_ERROR: "test error",
    StudyMetric.TEST_TOP5_ERROR: "top-5 test error",
    StudyMetric.VALIDATION_ERROR: "validation error",
    StudyMetric.TRAIN_ERROR: "training error",
}


class NetworkCount(StrEnum):
    """What a network has without any training, for images of the study's dataset."""

    PARAMETERS = "network/parameters"  # millions
    MULTIPLY_ADDS = "network/multiply_adds"  # billions for one image
    SHARE = "network/share"  # percent of the multiply-adds of another member

    @property
    def heading(self) -> str:
        """With its unit."""
        return _COUNT_TITLES[self]


_COUNT_TITLES = {
    NetworkCount.PARAMETERS: "parameters, millions",
    NetworkCount.MULTIPLY_ADDS: "multiply-adds, billions",
    NetworkCount.SHARE: "share of the multiply-adds, %",
}


class ScaleSpec(Spec):
    """What a study trains at a scale."""

    dataset: Annotated[str, Field(max_length=120)]
    """Dataset of all members, unless the request names another."""
    seeds: Seeds
    """Number of seeds, from 0 on, unless the request says how many."""
    job: dict[str, Any] = Field(default_factory=dict)
    """Fields of all members' specs, such as `recipe`."""
    members: tuple[Label, ...] | None = None
    """Labels of the members that are trained; null: all."""
    analyses: dict[AnalysisName, dict[str, Any]] = Field(default_factory=dict)
    """Fields of the study's analyses that differ at this scale."""


class Panel(Spec):
    """A chart of learning curves: dashed training error, bold test error, as the paper draws.

    With `analysis`, the layer responses that this analysis has measured: in the order of the
    layers, and sorted by magnitude.
    """

    title: Text
    members: Annotated[tuple[Label, ...], Field(min_length=1)]
    analysis: AnalysisName | None = None


class MemberStart(Spec):
    """Where a member starts: at the end of another member's job of the same seed."""

    member: Label
    """Its label; an earlier member."""
    checkpoint: Literal["newest", "best"] = "newest"
    """Which of its checkpoints, when its job has ended."""
    mode: StartMode
    """What is taken, as `start_from.mode` of a job."""


class PaperValue(Spec):
    """What the paper prints: `std` and `n` where it has several runs."""

    value: float
    std: float | None = None
    n: Annotated[int, Field(ge=1)] | None = None


Column = StudyMetric | NetworkCount


class ExpectedDifference(Spec):
    """Two members, paired by seed, and which of them the paper finds to have the lower value."""

    a: Label
    b: Label
    metric: StudyMetric = StudyMetric.TEST_ERROR
    lower: Label | None = None
    """`a` or `b`; null: the paper makes no claim."""

    @model_validator(mode="after")
    def _check_labels(self) -> "ExpectedDifference":
        if self.a == self.b:
            raise ValueError("a and b must differ")
        if self.lower is not None and self.lower not in {self.a, self.b}:
            raise ValueError(f"lower must be {self.a!r} or {self.b!r}, received {self.lower!r}")
        return self


class StudyDefinition(Spec):
    """Members, scales, panels and the paper's numbers."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "plain-or-residual",
                    "title": "Do shortcuts help at 20 layers?",
                    "members": {
                        "plain-20": {"depth": 20, "shortcut": "none"},
                        "resnet-20": {"depth": 20, "shortcut": "A"},
                    },
                    "scales": {"smoke": {"dataset": "digits", "seeds": 2}},
                    "comparisons": [{"a": "resnet-20", "b": "plain-20", "lower": "resnet-20"}],
                }
            ]
        }
    )

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")]
    """Short name: lower-case letters, digits and hyphens."""
    title: Annotated[str, Field(min_length=1, max_length=MAX_NAME_LENGTH)]
    """What the study shows."""
    notes: Text = ""
    """What a reader of the report must know."""
    members: Annotated[dict[Label, dict[str, Any]], Field(min_length=1, max_length=MAX_MEMBERS)]
    """Fields of a job's spec by label; seed, name and dataset are the study's."""
    starts: dict[Label, MemberStart] = Field(default_factory=dict)
    """Members that start from another one, by label."""
    scales: Annotated[dict[Scale, ScaleSpec], Field(min_length=1)]
    """What is trained at each scale that the study has."""
    metrics: tuple[StudyMetric, ...] = (StudyMetric.TEST_ERROR,)
    """Columns of the report's table. A study without any trains nothing, and has `counts`."""
    counts: tuple[NetworkCount, ...] = ()
    """Columns of what the networks have without training."""
    share_of: Label | None = None
    """Member whose multiply-adds are 100 % of `network/share`."""
    analyses: Annotated[dict[AnalysisName, dict[str, Any]], Field(max_length=10)] = Field(
        default_factory=dict
    )
    """Analyses of the last checkpoint of each job, by name: kind and parameters."""
    evaluated_by: AnalysisName | None = None
    """Name of an evaluation whose test errors the report has in place of the trainings' own."""
    ensembles: Annotated[dict[Label, EnsembleMembers], Field(max_length=10)] = Field(
        default_factory=dict
    )
    """Members whose probabilities are averaged, by a label of the ensemble: one of each seed, with
    the views of `evaluated_by`. At a scale: of those members that it trains."""
    panels: tuple[Panel, ...] = ()
    """Charts. Null: one with all members."""
    comparisons: tuple[ExpectedDifference, ...] = ()
    """Pairs of members whose difference is tested."""
    paper: dict[Label, dict[Column, PaperValue]] = Field(default_factory=dict)
    """What the paper prints, by label; a number is short for `{"value": number}`."""
    paper_dataset: str | None = None
    """Dataset of the paper's numbers; they are compared with results on no other."""
    source: Text = ""
    """Where the paper's numbers stand."""

    @field_validator("paper", mode="before")
    @classmethod
    def _accept_numbers(cls, written: Any) -> Any:
        if not isinstance(written, dict):
            return written
        return {
            label: {
                metric: {"value": value} if isinstance(value, int | float) else value
                for metric, value in values.items()
            }
            if isinstance(values, dict)
            else values
            for label, values in written.items()
        }

    @field_validator("members")
    @classmethod
    def _check_members(cls, members: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for label, fields in members.items():
            if given := sorted(_STUDY_FIELDS & fields.keys()):
                raise ValueError(
                    f"{label}: {', '.join(given)} belong to the study, not to a member"
                )
        return members

    @model_validator(mode="after")
    def _check_labels(self) -> "StudyDefinition":
        named = {
            "panels": [label for panel in self.panels for label in panel.members],
            "comparisons": [label for pair in self.comparisons for label in (pair.a, pair.b)],
            "paper": list(self.paper),
            "scales": [label for scale in self.scales.values() for label in scale.members or ()],
            "ensembles": [label for labels in self.ensembles.values() for label in labels],
            "share_of": [] if self.share_of is None else [self.share_of],
        }
        for field, labels in named.items():
            # The paper's table also has networks that the study does not train.
            unknown = sorted(set(labels) - self.members.keys()) if field != "paper" else []
            if unknown:
                raise ValueError(f"{field}: no member is called {', '.join(unknown)}")
        if not self.metrics and not self.counts:
            raise ValueError("metrics: needs at least one, or counts")
        if (NetworkCount.SHARE in self.counts) != (self.share_of is not None):
            raise ValueError(f"share_of: needed if counts has {NetworkCount.SHARE}, and only then")
        if shared := sorted(self.ensembles.keys() & self.members.keys()):
            raise ValueError(f"ensembles: {', '.join(shared)} is the label of a member")
        for label, members in self.ensembles.items():
            if len(set(members)) < len(members):
                raise ValueError(f"ensembles: {label} has a member twice")
        self._check_starts()
        analyses = [panel.analysis for panel in self.panels if panel.analysis is not None]
        analyses += [name for scale in self.scales.values() for name in scale.analyses]
        analyses += [] if self.evaluated_by is None else [self.evaluated_by]
        if unknown := sorted(set(analyses) - self.analyses.keys()):
            raise ValueError(f"no analysis is called {', '.join(unknown)}")
        return self

    def _check_starts(self) -> None:
        order = list(self.members)
        for label, start in self.starts.items():
            if label not in order or start.member not in order[: order.index(label)]:
                raise ValueError(
                    f"starts: {label} must be a member, and {start.member} one before it"
                )
            for scale, chosen in self.scales.items():
                members = chosen.members or ()
                if label in members and start.member not in members:
                    raise ValueError(
                        f"starts: scale {scale} has {label} without {start.member}, which it "
                        "starts from"
                    )


class StudyRequest(Spec):
    """What `POST /v1/studies` takes."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"study": "fig6", "scale": "smoke", "seeds": 2}]}
    )

    study: Annotated[str, Field(max_length=40)] | None = None
    """Name of a definition of the service, as `GET /v1/study-definitions` lists them."""
    definition: StudyDefinition | None = None
    """A definition of one's own."""
    scale: Scale = Scale.SMOKE
    """`smoke`, `short` or `paper`."""
    seeds: Seeds | None = None
    """Number of seeds, from 0 on. Null: the scale's."""
    dataset: Annotated[str, Field(max_length=120)] | None = None
    """Dataset of all members. Null: the scale's."""
    job: dict[str, Any] = Field(default_factory=dict)
    """Fields of all members' specs, such as `priority` or `resources`."""

    @model_validator(mode="after")
    def _check_source(self) -> "StudyRequest":
        if (self.study is None) == (self.definition is None):
            raise ValueError("needs either study, a name, or definition")
        return self


class StudySpec(Spec):
    """A study as it is stored: a definition at a scale, with dataset and seeds."""

    definition: StudyDefinition
    scale: Scale
    dataset: str
    seeds: int
    first_seed: int = 0
    job: dict[str, Any] = Field(default_factory=dict)

    @property
    def labels(self) -> tuple[str, ...]:
        """Of the members that are trained, in the order of the definition."""
        chosen = self.definition.scales[self.scale].members
        return tuple(
            label for label in self.definition.members if chosen is None or label in chosen
        )

    @property
    def generations(self) -> list[tuple[str, ...]]:
        """Labels of the members that start with new weights, of those that start from them, ..."""
        found: list[tuple[str, ...]] = []
        placed: set[str] = set()
        while len(placed) < len(self.labels):
            ready = tuple(
                label
                for label in self.labels
                if label not in placed
                and ((start := self.definition.starts.get(label)) is None or start.member in placed)
            )
            found.append(ready)
            placed |= set(ready)
        return found

    @property
    def analyses(self) -> tuple[str, ...]:
        """Names of the analyses of each job."""
        return tuple(self.definition.analyses)

    @property
    def all_seeds(self) -> range:
        """Of each member."""
        return range(self.first_seed, self.first_seed + self.seeds)

    @property
    def columns(self) -> tuple[Column, ...]:
        """Of the report's table."""
        return (*self.definition.counts, *self.definition.metrics)

    @property
    def is_training(self) -> bool:
        """Whether the study has jobs."""
        return bool(self.definition.metrics)

    @property
    def ensembles(self) -> dict[str, tuple[str, ...]]:
        """Labels of the members of each ensemble that this scale trains, at least two."""
        chosen = {
            label: tuple(member for member in members if member in self.labels)
            for label, members in self.definition.ensembles.items()
        }
        return {label: members for label, members in chosen.items() if len(members) > 1}

    @property
    def is_paper_comparable(self) -> bool:
        """Whether results may stand beside the paper's: its recipe and its dataset.

        Counts need no recipe.
        """
        is_paper = self.scale is Scale.PAPER or not self.is_training
        return is_paper and self.dataset == self.definition.paper_dataset

    def make_member(self, label: str, seed: int) -> JobSpec:
        """The spec of a member's job but for what it starts from. InvalidInput names the member."""
        document: dict[str, Any] = {}
        for fields in (
            self.definition.scales[self.scale].job,
            self.definition.members[label],
            self.job,
        ):
            document = _merge_fields(document, fields)
        name = f"{self.definition.name} {label} seed {seed}"[:MAX_NAME_LENGTH]
        document |= {"dataset": self.dataset, "seed": seed, "name": name}
        try:
            spec = parse_job_spec(document)
        except InvalidInput as error:
            field_errors = tuple(
                FieldError(pointer=f"/members/{label}{field.pointer}", message=field.message)
                for field in error.field_errors
            )
            message = f"member {label} is not a valid job"
            raise InvalidInput(message, field_errors=field_errors) from error
        if spec.analysis is not None:
            message = "the members of a study train"
            field_error = FieldError(pointer=f"/members/{label}/analysis", message=message)
            raise InvalidInput(f"member {label} is an analysis", field_errors=(field_error,))
        return spec

    def make_analysis(self, name: str) -> AnalysisSpec:
        """What `POST /v1/analyses` would take. InvalidInput names the analysis."""
        fields = self.definition.analyses[name]
        changed = self.definition.scales[self.scale].analyses.get(name, {})
        try:
            return _Analysis.model_validate({"analysis": fields | changed}).analysis
        except ValidationError as error:
            field_errors = tuple(
                FieldError(
                    pointer=field.pointer.replace("/analysis", f"/analyses/{name}", 1),
                    message=field.message,
                )
                for field in to_field_errors(error.errors(include_url=False))
            )
            message = f"analysis {name} is not valid"
            raise InvalidInput(message, field_errors=field_errors) from error

    def make_ensemble(self, others: tuple[OtherCheckpoint, ...]) -> EnsembleSpec:
        """Of a job and `others`, with the views of `evaluated_by`."""
        views = None
        if self.definition.evaluated_by is not None:
            evaluation = self.make_analysis(self.definition.evaluated_by)
            assert isinstance(evaluation, EvaluationSpec), "checked when the study was resolved"
            views = evaluation.test_time_augmentation
        return EnsembleSpec(kind="ensemble", others=others, test_time_augmentation=views)


class _Analysis(Spec):
    analysis: AnalysisSpec


def resolve_study(request: StudyRequest, definition: StudyDefinition) -> StudySpec:
    """The study to store. InvalidInput where a member's spec is not valid."""
    scale = definition.scales.get(request.scale)
    if scale is None:
        known = ", ".join(sorted(definition.scales))
        message = f"study {definition.name} has no scale {request.scale}; it has {known}"
        raise InvalidInput(message, field_errors=(FieldError(pointer="/scale", message=message),))
    study = StudySpec(
        definition=definition,
        scale=request.scale,
        dataset=request.dataset or scale.dataset,
        seeds=request.seeds or scale.seeds,
        job=request.job,
    )
    for label in study.labels:
        _require_analysable(study, study.make_member(label, seed=0))
    return study


def parse_study_request(written: Any) -> StudyRequest:
    """InvalidInput with one field error per invalid field."""
    return validate(StudyRequest, written, message="the study is not valid")


def parse_study_definition(written: Any) -> StudyDefinition:
    """InvalidInput with one field error per invalid field."""
    return validate(StudyDefinition, written, message="the definition of the study is not valid")


def _require_analysable(study: StudySpec, member: JobSpec) -> None:
    """InvalidInput where an analysis cannot be computed for the member, or has the wrong kind."""
    drawn = {panel.analysis for panel in study.definition.panels}
    for name in study.analyses:
        analysis = study.make_analysis(name)
        problem = find_analysis_problem(analysis, member.recipe, member.architecture)
        if name == study.definition.evaluated_by and not isinstance(analysis, EvaluationSpec):
            problem = "evaluated_by must name an analysis of kind evaluation"
        if name in drawn and not isinstance(analysis, LayerResponsesSpec):
            problem = "panels draw analyses of kind layer-responses only"
        if problem is not None:
            field_errors = (FieldError(pointer=f"/analyses/{name}", message=problem),)
            raise InvalidInput(f"analysis {name} is not valid", field_errors=field_errors)


def _merge_fields(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """`second` over `first`; objects are merged."""
    merged: dict[str, Any] = merge_patch(first, second)
    if "recipe" in second:
        merged["recipe"] = _merge_recipes(first.get("recipe"), second["recipe"])
    return merged


def _merge_recipes(first: Any, second: Any) -> Any:
    """A name in `second` begins a recipe anew; fields without one change the first."""
    if isinstance(first, str):
        first = {"name": first}
    if not isinstance(second, dict) or "name" in second or not isinstance(first, dict):
        return second
    return first | second
