"""Analyses: what a job computes from checkpoints of other jobs instead of training.

A kind of analysis is a model here, a function of `workers.training.analyses`, which
`workers.training.analyses.run` calls for the model, and, if lines over the first column of its
table do not show it, a drawing in `service.jobs.analysis_figure`.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from service.catalog.recipes import BnStatistics, Crop, Recipe, TtaMode
from service.specs.base import MAX_ID_LENGTH, JobId, Spec

# Of a job that trains; that of another job is the kind of its analysis.
TRAINING = "training"

Split = Literal["test", "validation"]


# Of a trajectory: as many as retention keeps of a long training.
MAX_OTHERS = 200


class OtherCheckpoint(Spec):
    """A checkpoint that an analysis uses besides the one of `start_from`."""

    job: JobId
    """Id of its job."""
    checkpoint: Annotated[str, Field(min_length=1, max_length=MAX_ID_LENGTH)] = "best"
    """`newest`, `best`, the id of a checkpoint, or `all` of the job, in their order."""


class _AnalysisBase(Spec):
    """What all kinds have. `max_others`: checkpoints of `others` that the kind uses."""

    max_others: ClassVar[int] = 0

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


class LayerResponsesSpec(_AnalysisBase):
    """Standard deviation of each 3x3 convolution's responses (He et al. 2015, Fig. 7).

    After batch normalization, before the nonlinearity and before the addition.
    """

    kind: Literal["layer-responses"]
    """This kind of analysis."""
    split: Split = "test"
    """Images: the `test` set, or those that the training held out for `validation`."""
    images: Annotated[int, Field(strict=True, ge=1)] | None = None
    """Number of images, the first of the split. Null: all."""


ANALYSES = (EvaluationSpec, LayerResponsesSpec)
AnalysisSpec = Annotated[EvaluationSpec | LayerResponsesSpec, Field(discriminator="kind")]


def find_analysis_problem(analysis: AnalysisSpec, recipe: Recipe) -> str | None:
    """Why the analysis cannot be computed for a network of that recipe; None: it can."""
    if analysis.split == "validation" and recipe.validation_images == 0:
        return "split must be test: the training held out no images for validation"
    if not isinstance(analysis, EvaluationSpec):
        return None
    views = analysis.test_time_augmentation
    if views in {TtaMode.TEN_CROP, TtaMode.MULTI_SCALE} and recipe.crop is Crop.PAD_CROP:
        return (
            f"test_time_augmentation {views} needs a training with recipe.crop "
            f"{Crop.SCALE_JITTER} or {Crop.RANDOM_RESIZED_CROP}; this one has {recipe.crop}"
        )
    return None
