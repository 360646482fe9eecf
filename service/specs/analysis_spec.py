"""Analyses: what a job computes from checkpoints of other jobs instead of training.

A kind of analysis is a model here, a function of `workers.training.analyses`, which
`workers.training.analyses.run` calls for the model, and, if lines over the first column of its
table do not show it, a drawing in `service.jobs.analysis_figure`.
"""

from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from service.catalog import architectures
from service.catalog.architectures import Architecture, Shortcut
from service.catalog.recipes import BnStatistics, Crop, Recipe, TtaMode
from service.specs.base import MAX_ID_LENGTH, JobId, Spec

# Of a job that trains; that of another job is the kind of its analysis.
TRAINING = "training"

Split = Literal["test", "validation"]
AnySplit = Literal["train", "validation", "test"]
DrawnImages = Annotated[int, Field(strict=True, ge=1)] | None
Steps = Annotated[int, Field(strict=True, ge=2, le=101)]

# Of a trajectory: as many as retention keeps of a long training.
MAX_OTHERS = 200
# Networks of an ensemble, all of which are in memory at once.
MAX_ENSEMBLE = 50


class OtherCheckpoint(Spec):
    """A checkpoint that an analysis uses besides the one of `start_from`."""

    job: JobId
    """Id of its job."""
    checkpoint: Annotated[str, Field(min_length=1, max_length=MAX_ID_LENGTH)] = "best"
    """`newest`, `best`, the id of a checkpoint, or `all` of the job, in their order."""


class _AnalysisBase(Spec):
    """What all kinds have. `max_others`: checkpoints of `others` that the kind uses.

    `needed_others`: what they are, of a kind that needs some.
    """

    max_others: ClassVar[int] = 0
    needed_others: ClassVar[str | None] = None

    others: Annotated[tuple[OtherCheckpoint, ...], Field(max_length=MAX_OTHERS)] = ()
    """Further checkpoints, of kinds that compare several."""

    @field_validator("others")
    @classmethod
    def _check_others(cls, others: tuple[OtherCheckpoint, ...]) -> tuple[OtherCheckpoint, ...]:
        if len(others) > cls.max_others:
            used = f"at most {cls.max_others}" if cls.max_others else "none"
            raise ValueError(f"this kind uses {used}, received {len(others)}")
        return others


class EvaluationSpec(_AnalysisBase):
    """The errors of the weights, measured again, perhaps with other views or other images."""

    kind: Literal["evaluation"]
    """This kind of analysis."""
    split: Split = "test"
    """Images: the `test` set, or those that the training held out for `validation`."""
    test_time_augmentation: TtaMode | None = None
    """Views whose predictions are averaged, as the recipe's field of this name. Null: the
    recipe's."""
    bn_statistics: BnStatistics = BnStatistics.RUNNING
    """`running`: those of the checkpoint; `precise`: computed anew from training images."""


class EnsembleSpec(_AnalysisBase):
    """The errors of several networks together, whose probabilities are averaged (Table 5).

    Each sees the same views of an image; the probabilities of a network are the mean over them.
    """

    max_others = MAX_ENSEMBLE - 1
    needed_others = "the checkpoints of the other networks"

    kind: Literal["ensemble"]
    """This kind of analysis; `others` has the checkpoints of the other networks."""
    split: Split = "test"
    """Images: the `test` set, or those that the training held out for `validation`."""
    test_time_augmentation: TtaMode | None = None
    """Views, as the recipe's field of this name. Null: those of the recipe of the first network."""


class PredictionsSpec(_AnalysisBase):
    """The class of each image, as the network predicts it.

    The images may be of any folders: what is in them, the network has to say.
    """

    kind: Literal["predictions"]
    """This kind of analysis."""
    split: Literal["all", "test"] = "all"
    """Images: `all` of the dataset, or those of its `test` folder."""


class LayerResponsesSpec(_AnalysisBase):
    """Standard deviation of each 3x3 convolution's responses (He et al. 2015, Fig. 7).

    After batch normalization, before the nonlinearity and before the addition.
    """

    kind: Literal["layer-responses"]
    """This kind of analysis."""
    split: Split = "test"
    """Images: the `test` set, or those that the training held out for `validation`."""
    images: Annotated[int, Field(strict=True, ge=1)] | None = None
    """Number of images of the split, drawn by the seed. Null: all."""


class LesionSpec(_AnalysisBase):
    """Errors after parts of the network are dropped, repeated or reordered (Veit et al. 2016).

    Parts are residual blocks, whose shortcuts stay; in a plain network, convolutions.
    """

    kind: Literal["lesion"]
    """This kind of analysis."""
    split: AnySplit = "test"
    """Images: `train` without augmentation, `validation`, or `test`."""
    images: DrawnImages = 1_000
    """Number of images of the split, drawn by the seed. Null: all."""
    max_deleted: Annotated[int, Field(strict=True, ge=0, le=200)] = 20
    """Parts that are deleted together: 1 to this number."""
    max_pairs: Annotated[int, Field(strict=True, ge=0, le=200)] = 10
    """Pairs of blocks of one stage that change places: 1 to this number."""
    samples: Annotated[int, Field(strict=True, ge=1, le=20)] = 5
    """Random choices for each number of parts, and for each number of pairs."""


class PathGradientsSpec(_AnalysisBase):
    """Gradients that reach the images through paths of each length (Veit et al. 2016).

    A path takes the branch or the shortcut of each residual block; its length counts branches.
    """

    kind: Literal["path-gradients"]
    """This kind of analysis."""
    split: AnySplit = "train"
    """Images: `train` without augmentation, `validation`, or `test`."""
    images: DrawnImages = 256
    """Number of images of the split, drawn by the seed; each follows a path of each length. Null:
    all."""


class LossLandscapeSpec(_AnalysisBase):
    """Losses around the weights, in filter-normalized random directions (Li et al. 2018)."""

    kind: Literal["loss-landscape"]
    """This kind of analysis."""
    split: AnySplit = "train"
    """Images: `train` without augmentation, `validation`, or `test`."""
    images: DrawnImages = 512
    """Number of images of the split, drawn by the seed. Null: all."""
    dimensions: Literal[1, 2] = 2
    """A line, or a plane."""
    steps: Steps = 21
    """Points along each direction."""
    extent: Annotated[float, Field(gt=0, le=100)] = 1.0
    """Distance to both sides; at 1 each filter has moved by its own norm."""


class InterpolationSpec(_AnalysisBase):
    """Losses on the line through two checkpoints of one network (Goodfellow et al. 2015)."""

    max_others = 1
    needed_others = "the checkpoint at the other end of the line"

    kind: Literal["interpolation"]
    """This kind of analysis; `others` has the checkpoint at 1, the analysed one is at 0."""
    split: AnySplit = "train"
    """Images: `train` without augmentation, `validation`, or `test`."""
    images: DrawnImages = 1_000
    """Number of images of the split, drawn by the seed. Null: all."""
    steps: Steps = 41
    """Points on the line."""
    first: Annotated[float, Field(ge=-10, le=10)] = -0.5
    """Where the line begins."""
    last: Annotated[float, Field(ge=-10, le=10)] = 1.5
    """Where the line ends."""

    @model_validator(mode="after")
    def _check_line(self) -> "InterpolationSpec":
        if self.first >= self.last:
            raise ValueError(f"first must be less than last, received {self.first}, {self.last}")
        return self


class TrajectorySpec(_AnalysisBase):
    """The kept checkpoints on the plane of most of their variance, and losses on it.

    Li et al. 2018, section 7.
    """

    max_others = MAX_OTHERS

    kind: Literal["trajectory"]
    """This kind of analysis; `others` defaults to all checkpoints of the job."""
    split: AnySplit = "train"
    """Images: `train` without augmentation, `validation`, or `test`."""
    images: DrawnImages = 512
    """Number of images of the split, drawn by the seed. Null: all."""
    steps: Steps = 21
    """Points along each axis of the plane."""


class LayerStatisticsSpec(_AnalysisBase):
    """Gradient norms and batch normalization of each layer, at the kept checkpoints."""

    max_others = MAX_OTHERS

    kind: Literal["layer-statistics"]
    """This kind of analysis; `others` defaults to all checkpoints of the job."""
    split: AnySplit = "train"
    """Images: `train` without augmentation, `validation`, or `test`."""
    images: DrawnImages = 512
    """Number of images of the split, drawn by the seed. Null: all."""
    near_zero: Annotated[float, Field(gt=0, le=1)] = 0.01
    """A channel of batch normalization whose scale is smaller counts as near zero."""


class DeepenedTwinSpec(_AnalysisBase):
    """Whether a deeper network computes what the shallower one does that it was built from.

    Of a job that started with `start_from.mode: deepen`: before and after its training. Of another
    job: of the network of `depth` that would be built from it.
    """

    max_others = 1

    kind: Literal["deepened-twin"]
    """This kind of analysis."""
    depth: Annotated[int, Field(strict=True, ge=1)] | None = None
    """Depth of the network to build. Null: that of the job, which was deepened."""
    split: AnySplit = "test"
    """Images: `train` without augmentation, `validation`, or `test`."""
    images: DrawnImages = 1_000
    """Number of images of the split, drawn by the seed. Null: all."""


ANALYSES = (
    EvaluationSpec,
    EnsembleSpec,
    PredictionsSpec,
    LayerResponsesSpec,
    LesionSpec,
    PathGradientsSpec,
    LossLandscapeSpec,
    InterpolationSpec,
    TrajectorySpec,
    LayerStatisticsSpec,
    DeepenedTwinSpec,
)
AnalysisSpec = Annotated[
    EvaluationSpec
    | EnsembleSpec
    | PredictionsSpec
    | LayerResponsesSpec
    | LesionSpec
    | PathGradientsSpec
    | LossLandscapeSpec
    | InterpolationSpec
    | TrajectorySpec
    | LayerStatisticsSpec
    | DeepenedTwinSpec,
    Field(discriminator="kind"),
]


def find_analysis_problem(
    analysis: AnalysisSpec, recipe: Recipe, network: Architecture
) -> str | None:
    """Why the analysis cannot be computed for the network of that recipe; None: it can."""
    if analysis.split == "validation" and recipe.validation_images == 0:
        return "split must be test: the training held out no images for validation"
    if analysis.needed_others is not None and not analysis.others:
        return f"needs {analysis.needed_others} in others"
    match analysis:
        case EvaluationSpec() | EnsembleSpec():
            return _find_view_problem(analysis, recipe)
        case PathGradientsSpec() if network.shortcut is Shortcut.NONE:
            return f"needs a network with shortcuts; {network.label} has a single path"
        case DeepenedTwinSpec():
            return _find_twin_problem(analysis, network)
        case _:
            return None


def _find_twin_problem(analysis: DeepenedTwinSpec, network: Architecture) -> str | None:
    depth = analysis.depth
    if (depth is None) != bool(analysis.others):
        return (
            "needs depth, unless the job was deepened from another one; then others has the "
            "checkpoint that it started from"
        )
    if depth is None:
        return None
    if not architectures.depth_exists(network.family, depth, network.block):
        known = architectures.describe_depths(network.family, depth, network.block)
        return f"depth must be {known}, received {depth}"
    return architectures.find_deepening_mismatch(network, replace(network, depth=depth))


def _find_view_problem(analysis: EvaluationSpec | EnsembleSpec, recipe: Recipe) -> str | None:
    views = analysis.test_time_augmentation
    if views in {TtaMode.TEN_CROP, TtaMode.MULTI_SCALE} and recipe.crop is Crop.PAD_CROP:
        return (
            f"test_time_augmentation {views} needs a training with recipe.crop "
            f"{Crop.SCALE_JITTER} or {Crop.RANDOM_RESIZED_CROP}; this one has {recipe.crop}"
        )
    return None
