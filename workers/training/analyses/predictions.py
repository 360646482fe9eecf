"""The classes that a network gives to images, whatever folders they are in.

Shapes: N batch, C channels, H height, W width, K classes, T likeliest classes.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from service.catalog.recipes import TtaMode
from service.specs.analysis_result import MAX_CELLS, AnalysisResult, ResultTable
from service.specs.analysis_spec import PredictionsSpec
from service.text import count_of
from workers.training import evaluation, precision
from workers.training.analyses.context import AnalysisContext
from workers.training.analyses.evaluation_again import report_batches
from workers.training.analyses.measuring import NotAnalysable
from workers.training.data.data_source import EvaluationSplit

_IMAGE_COLUMNS = ["image", "class_name", "probability", "second_class"]
_CLASS_COLUMNS = ["class_name", "images"]
_MAX_TEXT = 200  # of a cell


@dataclass(frozen=True)
class _Prediction:
    label: int
    probability: float
    second_label: int


def predict(context: AnalysisContext, spec: PredictionsSpec) -> AnalysisResult:
    """The likeliest classes of each image, in the order of the images' paths."""
    splits = [EvaluationSplit.TEST]
    if spec.split == "all":
        splits.append(EvaluationSplit.TRAIN)
    names = [name for split in splits for name in context.source.list_names(split)]
    class_names = [name[:_MAX_TEXT] for name in context.networks[0].class_names]
    _require_room(len(names), len(class_names))
    predicted = dict(zip(names, _predict(context, splits, len(names)), strict=True))
    counts = Counter(prediction.label for prediction in predicted.values())
    total = sum(prediction.probability for prediction in predicted.values())
    return AnalysisResult(
        numbers={
            "images": len(names),
            "mean_probability": total / len(names),
        },
        tables=[
            ResultTable(
                name="images",
                columns=_IMAGE_COLUMNS,
                rows=[
                    [
                        name[-_MAX_TEXT:],
                        class_names[predicted[name].label],
                        predicted[name].probability,
                        class_names[predicted[name].second_label],
                    ]
                    for name in sorted(names)
                ],
            ),
            ResultTable(
                name="classes",
                columns=_CLASS_COLUMNS,
                rows=[[name, counts[label]] for label, name in enumerate(class_names)],
            ),
        ],
        notes=[f"{count_of(len(names), 'image')} of {context.spec.dataset}, not augmented"],
    )


@torch.no_grad()
def _predict(
    context: AnalysisContext, splits: Sequence[EvaluationSplit], images: int
) -> Iterator[_Prediction]:
    model = context.networks[0].model
    batches_of_splits = (
        batch
        for split in splits
        for batch in context.source.load_evaluation_batches(split, rank=0, world_size=1)
    )
    for views_NCHW, _ in report_batches(context, batches_of_splits, images):
        with precision.exact_float32(context.device):
            scores_NK = evaluation.combine_scores(model, views_NCHW, TtaMode.NONE)
        probabilities_NT, labels_NT = scores_NK.softmax(dim=1).topk(2)
        probabilities_N = probabilities_NT[:, 0].tolist()
        for (label, second), probability in zip(labels_NT.tolist(), probabilities_N, strict=True):
            yield _Prediction(label, probability, second)


def _require_room(images: int, classes: int) -> None:
    most = (MAX_CELLS - len(_CLASS_COLUMNS) * classes) // len(_IMAGE_COLUMNS)
    if images > most:
        raise NotAnalysable(
            f"{count_of(images, 'image')} have no room in a result, which has at most {most:,}; "
            "upload them as several datasets"
        )
