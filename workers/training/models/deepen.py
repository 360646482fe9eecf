"""A deeper network that computes what a trained shallower one does, to be trained on.

He et al. 2015, section 1: "the added layers are identity mapping, and the other layers are copied
from the learned shallower model". What stands in a stage is copied to its head, and new blocks
follow. They see activated maps, which another ReLU leaves as they are, so they are identities:

    residual        the last batch normalisation scales by 0: ReLU(x + 0) = x
    pre-activated   the last convolution is 0: x + 0 = x
    plain           each convolution hands its map on, each batch normalisation is undone

A residual block is the identity in training, too. In a plain network, and on option C's
projections, batch normalisation is undone with the mean and variance of the maps that it will
see, measured on training images: the logits are equal to the last bit where the running statistics
are used, and nearly so where a batch's own are.

Shapes: N batch, C channels, H height, W width.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from service.catalog import architectures
from service.catalog.architectures import Architecture, Shortcut
from workers.training.models.blocks import BasicBlock, Bottleneck, PreactivatedBlock
from workers.training.models.resnet import ResNet

# Of variances, until one has an exact inverse square root.
_TRIES = 64


def deepen_network(
    model: ResNet, weights: Mapping[str, Tensor], shallow: Architecture, images_NCHW: Tensor
) -> None:
    """Makes `model`, fresh from its seed, compute what `weights` of the `shallow` one do.

    `images_NCHW`: some hundreds of training images, as training will see them.
    """
    fault = architectures.find_deepening_mismatch(shallow, model.network)
    assert fault is None, fault
    added = _added(model, shallow)
    prefixes = tuple(f"{name}." for name in added)
    fresh = {
        name: tensor for name, tensor in model.state_dict().items() if name.startswith(prefixes)
    }
    model.load_state_dict({**weights, **fresh}, strict=True)
    needs_statistics = model.network.shortcut in {Shortcut.NONE, Shortcut.C}
    for name, before in added.items():
        block = model.get_submodule(name)
        mean_C, variance_C = None, None
        if needs_statistics:
            mean_C, variance_C = _statistics(model, before, images_NCHW)
        _make_identity(block, mean_C, variance_C)


def _added(model: ResNet, shallow: Architecture) -> dict[str, str]:
    """The new blocks' names, in their order, each with that of its stage's last copied block."""
    added: dict[str, str] = {}
    pairs = zip(shallow.stages, model.network.stages, strict=True)
    for stage, (few, many) in enumerate(pairs, start=1):
        for number in range(few.blocks, many.blocks):
            added[f"layer{stage}.{number}"] = f"layer{stage}.{few.blocks - 1}"
    return added


def _make_identity(block: nn.Module, mean_C: Tensor | None, variance_C: Tensor | None) -> None:
    if isinstance(block, PreactivatedBlock):
        last = block.conv2 if block.conv3 is None else block.conv3
        nn.init.zeros_(last.weight)
        return
    assert isinstance(block, BasicBlock | Bottleneck)
    if block.is_residual:
        silenced = block.bn2 if isinstance(block, BasicBlock) else block.bn3
        nn.init.zeros_(silenced.weight)
        nn.init.zeros_(silenced.bias)
        pairs = [] if block.downsample is None else [tuple(block.downsample.children())]
    else:
        pairs = [(block.conv1, block.bn1), (block.conv2, block.bn2)]
    for convolution, normalisation in pairs:
        assert isinstance(convolution, nn.Conv2d)
        assert isinstance(normalisation, _BatchNorm)
        assert mean_C is not None
        assert variance_C is not None
        nn.init.dirac_(convolution.weight)
        _make_norm_identity(normalisation, mean_C, variance_C)


@torch.no_grad()
def _make_norm_identity(normalisation: _BatchNorm, mean_C: Tensor, variance_C: Tensor) -> None:
    """Makes it scale by 1 and shift by 0, to the last bit on a CPU.

    The scale is gamma times the rounded 1 / sqrt(variance + eps). Gamma is that number's inverse
    or a neighbour, whichever makes it 1; where none does, the variance moves until one does.
    """
    assert normalisation.running_mean is not None
    assert normalisation.running_var is not None
    variance_C, gamma_C = variance_C.clone(), torch.zeros_like(variance_C)
    infinity_C = torch.full_like(variance_C, float("inf"))
    for _ in range(_TRIES):
        inverse_C = torch.rsqrt(variance_C + normalisation.eps)
        nearest_C = 1.0 / inverse_C
        for tried_C in (
            nearest_C,
            torch.nextafter(nearest_C, infinity_C),
            torch.nextafter(nearest_C, -infinity_C),
        ):
            gamma_C = torch.where(tried_C * inverse_C == 1.0, tried_C, gamma_C)
        is_open_C = gamma_C * inverse_C != 1.0
        if not bool(is_open_C.any()):
            break
        # A variance without an exact gamma has neighbours that have one.
        moved_C = torch.nextafter(variance_C + normalisation.eps, infinity_C) - normalisation.eps
        variance_C = torch.where(is_open_C, moved_C, variance_C)
    normalisation.weight.copy_(gamma_C)
    normalisation.bias.copy_(mean_C)
    normalisation.running_mean.copy_(mean_C)
    normalisation.running_var.copy_(variance_C)


@torch.no_grad()
def _statistics(model: ResNet, name: str, images_NCHW: Tensor) -> tuple[Tensor, Tensor]:
    """mean_C and variance_C of what a block hands on in training; the model is left as it was."""
    seen: list[Tensor] = []
    handle = model.get_submodule(name).register_forward_hook(
        lambda _module, _inputs, output: seen.append(output.detach().clone())
    )
    kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
    was_training = model.training
    try:
        model.train()
        model.maps(images_NCHW)
    finally:
        handle.remove()
        model.train(was_training)
        for name_of, buffer in model.named_buffers():
            buffer.copy_(kept[name_of])
    (maps_NCHW,) = seen
    variance_C, mean_C = torch.var_mean(maps_NCHW.float(), dim=(0, 2, 3), correction=0)
    return mean_C, variance_C
