"""Layer responses: standard deviations of the outputs of 3x3 convolutions (He et al. 2015, Fig. 7).

"The responses are the outputs of each 3x3 layer, after BN and before other nonlinearity
(ReLU/addition)." A convolution without a batch normalization right behind it, as in VGG networks or
at the end of a pre-activated branch, is measured as it is.

Shapes: N batch, C channels, H height, W width.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from service.specs.analysis_result import AnalysisResult, ResultTable
from service.specs.analysis_spec import LayerResponsesSpec
from service.text import count_of
from workers.training import precision
from workers.training.analyses import measuring
from workers.training.analyses.context import AnalysisContext
from workers.training.data.data_source import EvaluationSplit

_KERNEL = (3, 3)


@dataclass
class LayerResponse:
    """Of a convolution: mean and standard deviation over images, positions and channels."""

    name: str
    mean: float
    std: float


def analyse(context: AnalysisContext, spec: LayerResponsesSpec) -> AnalysisResult:
    source, split = context.source, EvaluationSplit(spec.split)
    available = measuring.count_images(source, split)
    chosen = measuring.choose_images(available, count=spec.images, seed=context.seed)
    images = available if chosen is None else len(chosen)

    def load() -> Iterable[Tensor]:
        # Batch by batch: all images of ImageNet do not fit in memory.
        done = 0
        batches = source.load_evaluation_batches(split, rank=0, world_size=1, chosen=chosen)
        for (images_NCHW, *_), _ in batches:
            context.advance(done, images)
            yield images_NCHW
            done += len(images_NCHW)
        context.advance(images, images)

    responses = measure_responses(context.networks[0].model, load())
    values = [response.std for response in responses]
    return AnalysisResult(
        numbers={
            "layers": len(values),
            "mean_std": sum(values) / len(values) if values else None,
            "max_std": max(values, default=None),
        },
        tables=[
            ResultTable(
                name="layers",
                columns=["layer", "name", "std", "mean"],
                rows=[
                    [number, response.name, response.std, response.mean]
                    for number, response in enumerate(responses, start=1)
                ],
            )
        ],
        notes=[f"responses to {count_of(images, f'{split} image')} of {context.spec.dataset}"],
    )


@torch.no_grad()
def measure_responses(model: nn.Module, batches: Iterable[Tensor]) -> list[LayerResponse]:
    """Of each 3x3 convolution in the order in which the network computes them.

    `batches`: images_NCHW. The model must be in evaluation mode.
    """
    sums = _Sums()
    remaining = iter(batches)
    first_NCHW = next(remaining)
    responding = _find_responding_modules(model, first_NCHW[:1])
    handles = [
        module.register_forward_hook(sums.make_hook(name)) for name, module in responding.items()
    ]
    try:
        for images_NCHW in (first_NCHW, *remaining):
            with precision.exact_float32(images_NCHW.device):
                model(images_NCHW)
    finally:
        for handle in handles:
            handle.remove()
    return [sums.describe(name) for name in responding]


def _find_responding_modules(model: nn.Module, image_NCHW: Tensor) -> dict[str, nn.Module]:
    """By the name of the convolution: the batch normalization that takes its output, or itself."""
    outputs: dict[str, tuple[Tensor, int]] = {}
    found: dict[str, nn.Module] = {}

    def record_convolution(name: str, module: nn.Module, output: Tensor) -> None:
        outputs[name], found[name] = (output, output._version), module  # noqa: SLF001

    def record_norm(module: nn.Module, norm_input: Tensor) -> None:
        for name, (output, version) in outputs.items():
            # A shortcut is added to the tensor in place, which counts its versions.
            if output is norm_input and output._version == version:  # noqa: SLF001
                found[name] = module

    handles = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == _KERNEL:
            handles.append(
                module.register_forward_hook(
                    lambda conv, _, output, name=name: record_convolution(name, conv, output)
                )
            )
        elif isinstance(module, _BatchNorm):
            handles.append(
                module.register_forward_pre_hook(lambda norm, inputs: record_norm(norm, *inputs))
            )
    try:
        model(image_NCHW)
    finally:
        for handle in handles:
            handle.remove()
    return found


@dataclass
class _Sums:
    """In float64 on the device: count, sum and sum of squares of each layer's responses."""

    by_name: dict[str, Tensor] = field(default_factory=dict)

    def make_hook(self, name: str) -> Any:
        def add(_module: nn.Module, _inputs: object, output_NCHW: Tensor) -> None:
            values_NCHW = output_NCHW.double()
            count = torch.full_like(values_NCHW[0, 0, 0, 0], values_NCHW.numel())
            sums = torch.stack([count, values_NCHW.sum(), values_NCHW.square().sum()])
            self.by_name[name] = self.by_name.get(name, torch.zeros_like(sums)) + sums

        return add

    def describe(self, name: str) -> LayerResponse:
        count, total, squares = self.by_name[name].tolist()
        mean = total / count
        return LayerResponse(name, mean, max(0.0, squares / count - mean**2) ** 0.5)
