"""A deepened network beside the shallower one that it computes the function of."""

import copy

import pytest
import torch

from service.catalog.architectures import Shortcut
from tests.workers.training.analyses.support import (
    Reports,
    check_unchanged,
    copy_state,
    make_images,
    make_network,
)
from tests.workers.training.models.test_blocks import build
from workers.training.analyses import deepened_twin, measuring
from workers.training.models import deepen
from workers.training.models.resnet import ResNet


@torch.no_grad()
def test_a_twin_computes_the_same_until_it_is_trained() -> None:
    shallow = build(make_network(8, Shortcut.A))
    twin = ResNet(make_network(14, Shortcut.A), classes=10).eval()
    images = make_images()
    deepen.deepen_network(twin, shallow.state_dict(), shallow.network, images.batches[0][0])
    trained = copy.deepcopy(twin)
    trained.fc.bias[3] += 0.5
    before, reports = copy_state(twin), Reports()
    means, found = deepened_twin.compare_twins(
        shallow, {"before": twin, "after": trained}, images, report=reports
    )
    reports.check_complete()
    check_unchanged(twin, before)
    assert means == measuring.measure(shallow, images)
    assert found["before"].max_logit_difference < 1e-5
    assert found["before"].agreement == 100.0
    assert found["before"].means.error == means.error
    assert found["after"].max_logit_difference == pytest.approx(0.5, abs=1e-4)
    both = torch.cat([shallow(images_NCHW) for images_NCHW, _ in images.batches])
    moved = both + 0.5 * (torch.arange(10) == 3)
    agreeing = (both.argmax(dim=1) == moved.argmax(dim=1)).float().mean().item()
    assert found["after"].agreement == pytest.approx(100 * agreeing)
