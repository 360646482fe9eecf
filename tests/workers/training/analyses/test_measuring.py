"""Which images an analysis measures on, and with what."""

import pytest
import torch
from torch.nn import functional

from service.catalog.architectures import Shortcut
from tests.workers.training.analyses.support import make_images, make_network
from tests.workers.training.data.test_resident_source import make_images as make_dataset
from tests.workers.training.data.test_resident_source import make_source
from tests.workers.training.models.test_blocks import build
from workers.training.analyses import measuring
from workers.training.analyses.measuring import ImageSubset, NotAnalysable
from workers.training.data.data_source import EvaluationSplit


def load(count: int | None, seed: int = 0) -> ImageSubset:
    images = make_dataset(count=9, height=4, width=4, padding=1, flip=True)
    source = make_source(images, validation_images=2)
    return measuring.load_subset(source, EvaluationSplit.TRAIN, count=count, seed=seed)


def test_images_are_drawn_by_the_seed() -> None:
    complete, drawn = load(None), load(4)
    assert (complete.count, complete.available) == (7, 7)
    assert (drawn.count, drawn.available) == (4, 7)
    all_NCHW = torch.cat([images_NCHW for images_NCHW, _ in complete.batches])
    drawn_NCHW = torch.cat([images_NCHW for images_NCHW, _ in drawn.batches])
    is_same_NN = (drawn_NCHW[:, None] == all_NCHW[None]).flatten(2).all(dim=2)
    places = is_same_NN.int().argmax(dim=1).tolist()
    assert is_same_NN.sum(dim=1).tolist() == [1] * 4
    assert places == sorted(set(places))
    assert torch.equal(drawn_NCHW, torch.cat([batch for batch, _ in load(4).batches]))
    assert not torch.equal(drawn_NCHW, torch.cat([batch for batch, _ in load(4, seed=1).batches]))
    assert load(99).count == 7


def test_more_images_than_fit_in_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "MAX_IMAGE_BYTES", 5 * 4 * 4 * 3 * 4)
    assert load(5).count == 5
    with pytest.raises(NotAnalysable, match="`images` must be at most 5"):
        load(None)


def test_a_job_without_held_out_images_has_none_to_analyse() -> None:
    source = make_source(make_dataset(count=4, height=4, width=4, padding=1, flip=True))
    with pytest.raises(NotAnalysable, match="validation has no images"):
        measuring.load_subset(source, EvaluationSplit.VALIDATION, count=1, seed=0)


@torch.no_grad()
def test_loss_and_error_are_means_over_the_images_with_running_statistics() -> None:
    model = build(make_network(8, Shortcut.A)).train()
    images = make_images(5, batch=3)
    means = measuring.measure(model, images)
    assert all(module.training for module in model.modules()), "the mode is kept"
    images_NCHW, labels_N = (torch.cat(parts) for parts in zip(*images.batches, strict=True))
    logits_NK = model.eval()(images_NCHW)
    assert means.loss == pytest.approx(
        functional.cross_entropy(logits_NK, labels_N).item(), rel=1e-5
    )
    errors = (logits_NK.argmax(dim=1) != labels_N).float().mean().item()
    assert means.error == pytest.approx(100 * errors)
