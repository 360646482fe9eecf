import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from service.catalog.recipes import TtaMode
from workers.training import evaluation


class Constant(nn.Module):
    """Returns the first two numbers of an image as its logits."""

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        return images_NCHW[:, :2, 0, 0]


def view(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers).view(1, 2, 1, 1)


def test_hflip_averages_logits_and_ten_crop_averages_probabilities() -> None:
    views = [view(8.0, 0.0), view(0.0, 2.0), view(0.0, 2.0)]
    logits_NK = evaluation.combine_scores(Constant(), views, TtaMode.HFLIP)
    assert logits_NK.argmax().item() == 0  # 8 against 4
    scores_NK = evaluation.combine_scores(Constant(), views, TtaMode.TEN_CROP)
    mean_NK = torch.stack([view_NCHW.flatten(1).softmax(dim=1) for view_NCHW in views]).mean(dim=0)
    assert torch.allclose(scores_NK.softmax(dim=1), mean_NK)
    assert scores_NK.argmax().item() == 1  # 0.41 against 0.59


def test_errors_are_counted_and_the_model_is_in_training_mode_afterwards() -> None:
    model = nn.Sequential(Constant(), nn.BatchNorm1d(2))
    labels_N = torch.tensor([0, 1])
    images_NCHW = torch.cat([view(3.0, 0.0), view(3.0, 0.0)])
    sums_S = evaluation.evaluate(
        model,
        [([images_NCHW], labels_N)] * 2,
        TtaMode.NONE,
        device=torch.device("cpu"),
    )
    assert sums_S[1:].tolist() == [2, 0, 0, 4]
    assert model.training


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, nn.SyncBatchNorm])
def test_precise_batch_norm_statistics_are_means_over_all_batches(kind: type[_BatchNorm]) -> None:
    model = nn.Sequential(kind(3))
    batches = [torch.randn(16, 3, 4, 4) + shift for shift in (0.0, 1.0, 5.0)]
    before = model.state_dict()["0.running_mean"].clone()
    evaluation.measure_precise_bn(model, batches)
    norm = model[0]
    assert isinstance(norm, kind)
    assert norm.running_mean is not None
    assert not torch.equal(norm.running_mean, before)
    expected_C = torch.stack([batch.mean(dim=(0, 2, 3)) for batch in batches]).mean(dim=0)
    assert torch.allclose(norm.running_mean, expected_C, atol=1e-5)
    assert norm.momentum == pytest.approx(0.1)
