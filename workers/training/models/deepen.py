"""A deeper network that computes what a trained shallower one does, as a start for training.

He et al. 2015, section 1: "the added layers are identity mapping, and the other layers are copied
from the learned shallower model". The blocks of a stage are copied to its front, and new blocks
follow. New blocks see activated maps, which another ReLU does not change, so they are identities:

    residual        the last batch normalization scales by 0: ReLU(x + 0) = x, or x + 0 = x
    pre-activated   the last convolution is 0: x + 0 = x
    plain           each convolution is the identity, each batch normalization is undone

A residual block is the identity in training, too. In a plain network, and on option C's
projections, batch normalization is undone with the mean and variance of the maps that it will see,
measured on training images: with running statistics the logits agree up to rounding, with a
batch's own statistics approximately.

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


def deepen_network(
    model: ResNet, weights: Mapping[str, Tensor], shallow: Architecture, images_NCHW: Tensor
) -> None:
    """Makes the freshly initialized `model` compute what `weights` of the shallow network do.

    `images_NCHW`: some hundred training images, normalized and augmented as in training.
    """
    mismatch = architectures.find_deepening_mismatch(shallow, model.network)
    assert mismatch is None, mismatch
    added = _list_added_blocks(model, shallow)
    prefixes = tuple(f"{name}." for name in added)
    initial = {
        name: tensor for name, tensor in model.state_dict().items() if name.startswith(prefixes)
    }
    model.load_state_dict({**weights, **initial}, strict=True)
    needs_statistics = model.network.shortcut in {Shortcut.NONE, Shortcut.C}
    for name, previous in added.items():
        block = model.get_submodule(name)
        mean_C, variance_C = None, None
        if needs_statistics:
            mean_C, variance_C = _measure_output(model, previous, images_NCHW)
        _make_identity(block, mean_C, variance_C)


def _list_added_blocks(model: ResNet, shallow: Architecture) -> dict[str, str]:
    """Names of the new blocks in order, each with the last copied block of its stage."""
    added: dict[str, str] = {}
    pairs = zip(shallow.stages, model.network.stages, strict=True)
    for number, (before, after) in enumerate(pairs, start=1):
        for index in range(before.blocks, after.blocks):
            added[f"layer{number}.{index}"] = f"layer{number}.{before.blocks - 1}"
    return added


def _make_identity(block: nn.Module, mean_C: Tensor | None, variance_C: Tensor | None) -> None:
    if isinstance(block, PreactivatedBlock):
        last = block.conv2 if block.conv3 is None else block.conv3
        nn.init.zeros_(last.weight)
        return
    assert isinstance(block, BasicBlock | Bottleneck)
    if block.network.shortcut is not Shortcut.NONE:
        last_norm = block.last_norm
        assert isinstance(last_norm, _BatchNorm)
        nn.init.zeros_(last_norm.weight)
        nn.init.zeros_(last_norm.bias)
        layers = [] if block.downsample is None else [tuple(block.downsample.children())]
    else:
        layers = [(block.conv1, block.bn1), (block.conv2, block.bn2)]
    for conv, norm in layers:
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, _BatchNorm)
        assert mean_C is not None
        assert variance_C is not None
        nn.init.dirac_(conv.weight)
        _make_norm_identity(norm, mean_C, variance_C)


@torch.no_grad()
def _make_norm_identity(norm: _BatchNorm, mean_C: Tensor, variance_C: Tensor) -> None:
    """The scale undoes the division by the deviation, the bias the subtraction of the mean."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.copy_(mean_C)
    norm.running_var.copy_(variance_C)
    norm.weight.copy_(torch.sqrt(variance_C + norm.eps))
    norm.bias.copy_(mean_C)


@torch.no_grad()
def _measure_output(model: ResNet, name: str, images_NCHW: Tensor) -> tuple[Tensor, Tensor]:
    """mean_C and variance_C of a block's output in training mode; the model is not changed."""
    outputs: list[Tensor] = []
    handle = model.get_submodule(name).register_forward_hook(
        lambda _module, _inputs, output: outputs.append(output.detach().clone())
    )
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    was_training = model.training
    try:
        model.train()
        model.forward_features(images_NCHW)
    finally:
        handle.remove()
        model.train(was_training)
        for buffer_name, buffer in model.named_buffers():
            buffer.copy_(buffers[buffer_name])
    (maps_NCHW,) = outputs
    variance_C, mean_C = torch.var_mean(maps_NCHW.float(), dim=(0, 2, 3), correction=0)
    return mean_C, variance_C
