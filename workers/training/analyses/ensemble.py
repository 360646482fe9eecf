"""The errors of several networks together, whose probabilities are averaged.

As in Table 5 of He et al. 2015.

Shapes: N batch, J networks, K classes, S sums, H height, W width, C channels.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from service.specs.analysis_result import AnalysisResult, ResultTable
from service.specs.analysis_spec import EnsembleSpec
from service.text import count_of
from workers.training import evaluation, metric_sums, precision
from workers.training.analyses import measuring
from workers.training.analyses.context import AnalysisContext
from workers.training.analyses.evaluation_again import name_means, report_batches
from workers.training.analyses.measuring import NotAnalysable
from workers.training.data.data_source import EvaluationSplit
from workers.training.data.normalization import Normalizer
from workers.training.metric_sums import Means


@torch.no_grad()
def analyse(context: AnalysisContext, spec: EnsembleSpec) -> AnalysisResult:
    """Errors of the ensemble in percent, and of each of its networks.

    NotAnalysable where the networks were not trained on images normalized alike.
    """
    source, split = context.source, EvaluationSplit(spec.split)
    mode = spec.test_time_augmentation or context.spec.recipe.test_time_augmentation
    images = source.test_images if split is EvaluationSplit.TEST else source.validation_images
    networks = list(context.networks)
    for network in networks[1:]:
        _require_equal(networks[0].normalizer, network.normalizer)
    sums_JS = [metric_sums.zero_sums(context.device) for _ in networks]
    sums_S = metric_sums.zero_sums(context.device)
    batches = source.load_evaluation_batches(split, rank=0, world_size=1)
    for views_NCHW, labels_N in report_batches(context, batches, images):
        with precision.exact_float32(context.device):
            log_probs_JNK = torch.stack(
                [
                    evaluation.combine_scores(network.model, views_NCHW, mode).log_softmax(dim=1)
                    for network in networks
                ]
            )
        for index, log_probs_NK in enumerate(log_probs_JNK):
            sums_JS[index] += _sum_batch(log_probs_NK, labels_N)
        mean_NK = log_probs_JNK.logsumexp(dim=0) - math.log(len(networks))
        sums_S += _sum_batch(mean_NK, labels_N)
    means_J = [metric_sums.compute_means(network_sums_S) for network_sums_S in sums_JS]
    return AnalysisResult(
        numbers=name_means(split, metric_sums.compute_means(sums_S), source.classes)
        | {
            "mean_error_of_networks": sum(means.error for means in means_J) / len(means_J),
            "networks": len(networks),
            "images": images,
        },
        tables=[
            ResultTable(
                name="networks",
                columns=["network", "iteration", "error", "top5_error", "loss"],
                rows=[
                    [network.spec.architecture.label, network.iteration, *_list_cells(means)]
                    for network, means in zip(networks, means_J, strict=True)
                ],
            )
        ],
        notes=[
            f"{count_of(images, f'{split} image')} of {context.spec.dataset}, views: {mode}",
            f"mean of the probabilities of {len(networks)} networks",
        ],
    )


def _require_equal(first: Normalizer, other: Normalizer) -> None:
    same_mean = first.mean_HWC.shape == other.mean_HWC.shape and torch.equal(
        first.mean_HWC, other.mean_HWC
    )
    if not same_mean or not torch.equal(first.std_C, other.std_C):
        raise NotAnalysable(
            "the networks were not trained on images normalized alike: recipe.normalization, "
            "recipe.validation_images and the dataset must be equal"
        )


def _sum_batch(log_probs_NK: Tensor, labels_N: Tensor) -> Tensor:
    total_loss = functional.nll_loss(log_probs_NK, labels_N, reduction="sum")
    return metric_sums.sum_batch(log_probs_NK, labels_N, total_loss)


def _list_cells(means: Means) -> list[float | None]:
    return [means.error, means.top5_error, measuring.finite(means.loss)]
