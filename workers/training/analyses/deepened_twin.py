"""Whether a deeper network computes what the shallower one does that it was built from.

He et al. 2015, section 1, argue that it can, since added layers can be identities;
workers.training.models.deepen builds it.

Shapes: N batch, C channels, H height, W width, K classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from service.specs.analysis_result import AnalysisResult, ResultTable
from service.specs.analysis_spec import DeepenedTwinSpec
from service.specs.job_spec import JobSpec
from workers.training import precision
from workers.training.analyses import measuring
from workers.training.analyses.analysed_network import AnalysedNetwork
from workers.training.analyses.context import AnalysisContext
from workers.training.analyses.measuring import ImageSubset, ReportProgress
from workers.training.metric_sums import Means
from workers.training.models import deepen, resnet, weight_init
from workers.training.models.resnet import ResNet


@dataclass(frozen=True)
class TwinResult:
    """`max_logit_difference`: to the shallower network, the largest over all images and classes.

    `agreement`: percent of the images that both assign to the same class.
    """

    means: Means
    max_logit_difference: float
    agreement: float


def analyse(context: AnalysisContext, spec: DeepenedTwinSpec) -> AnalysisResult:
    """Of a job that started from a shallower network, or of one that has not been deepened yet."""
    images = context.load_images(spec)
    twins: dict[str, nn.Module] = {}
    if spec.depth is None:
        trained, shallow = context.networks
        twins["before_training"] = _build_twin(context, shallow, trained.spec)
        twins["after_training"] = trained.model
    else:
        (shallow,) = context.networks
        deep = shallow.spec.model_copy(update={"depth": spec.depth})
        twins["before_training"] = _build_twin(context, shallow, deep)
    means, found = compare_twins(shallow.model, twins, images, report=context.advance)
    before = found["before_training"]
    return AnalysisResult(
        numbers={
            "error_of_shallow": means.error,
            "error_before_training": before.means.error,
            "max_logit_difference": measuring.finite(before.max_logit_difference),
        },
        tables=[
            ResultTable(
                name="networks",
                columns=["network", "error", "loss", "max_logit_difference", "agreement"],
                rows=[
                    ["shallow", *measuring.list_means(means), 0.0, 100.0],
                    *(
                        [
                            name,
                            *measuring.list_means(twin.means),
                            measuring.finite(twin.max_logit_difference),
                            twin.agreement,
                        ]
                        for name, twin in found.items()
                    ),
                ],
            )
        ],
        notes=[
            f"errors on {images.describe(context.spec.dataset, context.seed)}",
            f"the shallow network is {shallow.spec.network} at iteration {shallow.iteration:,}",
            "differences and agreement in percent are to it",
        ],
    )


def _build_twin(context: AnalysisContext, shallow: AnalysedNetwork, deep: JobSpec) -> nn.Module:
    """As a job of that spec begins that starts from the shallow network's weights."""
    twin = resnet.build_network(deep, len(shallow.class_names))
    assert isinstance(twin, ResNet), "checked at submission"
    twin = twin.to(context.device)
    images_NCHW = weight_init.load_statistics_images(deep, context.source, context.ranks)
    weights = shallow.model.state_dict()
    deepen.deepen_network(twin, weights, shallow.spec.architecture, images_NCHW)
    return twin


def compare_twins(
    shallow: nn.Module,
    twins: Mapping[str, nn.Module],
    images: ImageSubset,
    *,
    report: ReportProgress,
) -> tuple[Means, dict[str, TwinResult]]:
    """The loss and errors of the shallow network, and how each of the others differs from it."""
    report(0, 1 + len(twins))
    means = measuring.measure(shallow, images)
    found = {}
    for number, (name, twin) in enumerate(twins.items(), start=1):
        report(number, 1 + len(twins))
        difference, agreement = _compare_logits(shallow, twin, images)
        found[name] = TwinResult(measuring.measure(twin, images), difference, agreement)
    report(1 + len(twins), 1 + len(twins))
    return means, found


@torch.no_grad()
def _compare_logits(
    shallow: nn.Module, twin: nn.Module, images: ImageSubset
) -> tuple[float, float]:
    differences, agreeing = [], 0
    with measuring.keeping_modes(shallow), measuring.keeping_modes(twin):
        shallow.eval()
        twin.eval()
        for images_NCHW, _ in images.batches:
            with precision.exact_float32(images_NCHW.device):
                first_NK, second_NK = shallow(images_NCHW), twin(images_NCHW)
            differences.append((first_NK - second_NK).abs().max().item())
            agreeing += int((first_NK.argmax(dim=1) == second_NK.argmax(dim=1)).sum())
    return max(differences), 100 * agreeing / images.count
