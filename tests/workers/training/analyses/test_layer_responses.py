"""Layer responses against values computed by hand."""

import math

import torch
from torch import Tensor, nn

from service.specs.job_spec import parse_job_spec
from workers.training.analyses.layer_responses import measure_responses
from workers.training.models import resnet

# Of one pixel each: a convolution by 2 makes 2, 4, 6, 8.
IMAGES_NCHW = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(4, 1, 1, 1)


def _conv_by(factor: float) -> nn.Conv2d:
    conv = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    nn.init.zeros_(conv.weight)
    with torch.no_grad():
        conv.weight[0, 0, 1, 1] = factor
    return conv


def _norm(*, mean: float, std: float) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(1, eps=0.0)
    norm.running_mean, norm.running_var = torch.tensor([mean]), torch.tensor([std**2])
    return norm


class _Block(nn.Module):
    """A convolution whose response is added to the input in place, as our blocks do."""

    def __init__(self, *, normalizes_sum: bool) -> None:
        super().__init__()
        self.conv, self.bn = _conv_by(2.0), _norm(mean=4.0, std=2.0)
        self.normalizes_sum = normalizes_sum

    def forward(self, maps_NCHW: Tensor) -> Tensor:
        sum_NCHW: Tensor = self.conv(maps_NCHW)
        if not self.normalizes_sum:
            sum_NCHW = self.bn(sum_NCHW)
        sum_NCHW += maps_NCHW
        if self.normalizes_sum:
            sum_NCHW = self.bn(sum_NCHW)
        return nn.functional.relu(sum_NCHW, inplace=True)


def _measure(model: nn.Module) -> list[tuple[str, float, float]]:
    batches = [IMAGES_NCHW[:1], IMAGES_NCHW[1:]]
    return [
        (found.name, found.mean, found.std) for found in measure_responses(model.eval(), batches)
    ]


def test_a_response_is_measured_after_batch_norm_and_before_the_addition() -> None:
    # (2, 4, 6, 8) - 4, divided by 2: -1, 0, 1, 2.
    assert _measure(_Block(normalizes_sum=False)) == [("conv", 0.5, math.sqrt(1.25))]


def test_a_batch_norm_of_the_sum_is_not_the_response() -> None:
    assert _measure(_Block(normalizes_sum=True)) == [("conv", 5.0, math.sqrt(5.0))]


def test_other_kernels_have_no_response() -> None:
    model = nn.Sequential(_conv_by(2.0), nn.ReLU(inplace=True), nn.Conv2d(1, 1, 1))
    assert [name for name, *_ in _measure(model)] == ["0"]


def test_each_3x3_layer_of_a_network_has_one_response_of_its_batch_norm() -> None:
    for order in ("original", "full-preactivation"):
        spec = parse_job_spec(
            {"depth": 8, "shortcut": "B", "dataset": "digits", "activation_order": order}
        )
        model = resnet.build_network(spec, 10).eval()
        found = measure_responses(model, [torch.randn(4, 3, 8, 8)])
        assert [response.name for response in found] == [
            "conv1",
            *(f"layer{stage}.0.conv{number}" for stage in (1, 2, 3) for number in (1, 2)),
        ]
        assert all(response.std > 0 for response in found)
