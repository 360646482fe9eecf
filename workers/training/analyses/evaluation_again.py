"""The errors of a checkpoint, measured again: with other views, images or batch statistics.

Shapes: N batch, C channels, H height, W width, K classes.
"""

import copy
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from service.catalog.recipes import BnStatistics
from service.specs.analysis_result import AnalysisResult, ResultTable
from service.specs.analysis_spec import EvaluationSpec
from service.text import count_of
from workers.training import evaluation, metric_sums
from workers.training.analyses.context import AnalysisContext
from workers.training.data.data_source import EvaluationBatches, EvaluationSplit
from workers.training.metric_sums import TOP, Means


def evaluate_again(context: AnalysisContext, spec: EvaluationSpec) -> AnalysisResult:
    """Errors of the split in percent, and of each class."""
    source, split = context.source, EvaluationSplit(spec.split)
    mode = spec.test_time_augmentation or context.spec.recipe.test_time_augmentation
    images = source.test_images if split is EvaluationSplit.TEST else source.validation_images
    model = context.networks[0].model
    statistics = "of the checkpoint"
    if spec.bn_statistics is BnStatistics.PRECISE:
        model = copy.deepcopy(model)
        batches = evaluation.load_precise_bn_batches(source, context.spec.recipe, context.ranks)
        evaluation.measure_precise_bn(model.train(), batches)
        statistics = f"computed anew from training images of {context.spec.dataset}"
    errors = _ClassErrors(source.classes)
    batches_of_split = source.load_evaluation_batches(split, rank=0, world_size=1)
    sums_S = evaluation.evaluate(
        model,
        report_batches(context, batches_of_split, images),
        mode,
        device=context.device,
        record=errors.add,
    )
    model.eval()
    means = metric_sums.compute_means(sums_S)
    return AnalysisResult(
        numbers=name_means(split, means, source.classes) | {"images": images},
        tables=[errors.make_table(source.class_names)],
        notes=[
            f"{count_of(images, f'{split} image')} of {context.spec.dataset}, views: {mode}",
            f"batch norm statistics {statistics}",
        ],
    )


class _ClassErrors:
    """Images and errors by class."""

    def __init__(self, classes: int) -> None:
        self._images = torch.zeros(classes, dtype=torch.int64)
        self._errors = torch.zeros(classes, dtype=torch.int64)

    def add(self, scores_NK: Tensor, labels_N: Tensor) -> None:
        wrong_N = scores_NK.argmax(dim=1) != labels_N
        classes = len(self._images)
        self._images += labels_N.bincount(minlength=classes).cpu()
        self._errors += labels_N[wrong_N].bincount(minlength=classes).cpu()

    def make_table(self, class_names: list[str]) -> ResultTable:
        counted = zip(class_names, self._images.tolist(), self._errors.tolist(), strict=True)
        return ResultTable(
            name="classes",
            columns=["class_name", "images", "error"],
            rows=[
                [name[:200], images, 100 * errors / images if images else None]
                for name, images, errors in counted
            ],
        )


def report_batches(
    context: AnalysisContext, batches: EvaluationBatches, images: int
) -> Iterator[tuple[list[Tensor], Tensor]]:
    """The batches; reports progress before each, and after the last."""
    done = 0
    for views_NCHW, labels_N in batches:
        context.advance(done, images)
        yield views_NCHW, labels_N
        done += len(labels_N)
    context.advance(done, images)


def name_means(split: EvaluationSplit, means: Means, classes: int) -> dict[str, float | None]:
    """As numbers of a result; the top-5 error only where there are more than five classes."""
    named: dict[str, float | None] = {f"{split}_error": means.error}
    if classes > TOP:
        named[f"{split}_top5_error"] = means.top5_error
    # A network that diverged has no finite loss.
    return named | {f"{split}_loss": means.loss if math.isfinite(means.loss) else None}
