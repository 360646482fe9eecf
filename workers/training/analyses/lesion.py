"""How a network's error changes when parts of it are dropped, repeated or put in another order.

Veit, Wilber, Belongie 2016 (arXiv:1605.06431), section 4: of a residual block its branch is
dropped, so that its shortcut stays, also where it changes the shape. In a plain network, a
convolution is dropped with its batch normalization; where it changes the shape it cannot be.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from service.catalog.architectures import Shortcut
from service.specs.analysis_result import AnalysisResult, ResultTable
from service.specs.analysis_spec import LesionSpec
from workers.training.analyses import measuring
from workers.training.analyses.context import AnalysisContext
from workers.training.analyses.measuring import ImageSubset, ReportProgress
from workers.training.data import sampling
from workers.training.data.sampling import Purpose
from workers.training.metric_sums import Means
from workers.training.models.blocks import PreactivatedBlock, ResidualBlock
from workers.training.models.resnet import ResNet


class LesionKind(StrEnum):
    """What is done to the network."""

    NONE = "none"
    DROP = "drop"  # one part
    REPEAT = "repeat"  # one block is computed twice in a row
    DELETE = "delete"  # several parts at once
    SWAP = "swap"  # pairs of blocks of one stage change places, one pair after the other


@dataclass(frozen=True)
class Lesion:
    """`parts`: names of the modules; for swaps, two for each pair. `sample` numbers equal draws."""

    kind: LesionKind
    parts: tuple[str, ...] = ()
    sample: int = 0


@dataclass(frozen=True)
class LesionResult:
    """`means`: None where the part cannot be dropped, since it changes the shape.

    `kendall_tau`: between the order of the blocks and the network's own, 1 if they are equal.
    """

    lesion: Lesion
    means: Means | None
    kendall_tau: float


def analyse(context: AnalysisContext, spec: LesionSpec) -> AnalysisResult:
    images = context.load_images(spec)
    results = study_lesions(
        context.networks[0].model,
        images,
        max_deleted=spec.max_deleted,
        max_pairs=spec.max_pairs,
        samples=spec.samples,
        seed=context.seed,
        report=context.advance,
    )
    by_kind = {kind: [row for row in results if row.lesion.kind is kind] for kind in LesionKind}
    (intact,) = by_kind[LesionKind.NONE]
    errors = [row.means.error for row in by_kind[LesionKind.DROP] if row.means is not None]
    return AnalysisResult(
        numbers={
            "error": measuring.list_means(intact.means)[0],
            "mean_error_of_one_dropped": sum(errors) / len(errors) if errors else None,
            "max_error_of_one_dropped": max(errors, default=None),
        },
        tables=[
            ResultTable(
                name=name,
                columns=["part", "error", "loss"],
                rows=[
                    [*row.lesion.parts, *measuring.list_means(row.means)] for row in by_kind[kind]
                ],
            )
            for name, kind in (("dropped", LesionKind.DROP), ("repeated", LesionKind.REPEAT))
        ]
        + [
            ResultTable(
                name="deleted",
                columns=["parts", "sample", "error", "loss"],
                rows=[
                    [len(row.lesion.parts), row.lesion.sample, *measuring.list_means(row.means)]
                    for row in by_kind[LesionKind.DELETE]
                ],
            ),
            ResultTable(
                name="swapped",
                columns=["pairs", "sample", "kendall_tau", "error", "loss"],
                rows=[
                    [
                        len(row.lesion.parts) // 2,
                        row.lesion.sample,
                        row.kendall_tau,
                        *measuring.list_means(row.means),
                    ]
                    for row in by_kind[LesionKind.SWAP]
                ],
            ),
        ],
        notes=[
            f"errors on {images.describe(context.spec.dataset, context.seed)}",
            "batch norm statistics are those of the checkpoint",
            "of a dropped residual block the shortcut stays",
            "a layer of a plain network that changes the shape is not dropped",
        ],
    )


def study_lesions(
    model: nn.Module,
    images: ImageSubset,
    *,
    max_deleted: int,
    max_pairs: int,
    samples: int,
    seed: int,
    report: ReportProgress,
) -> list[LesionResult]:
    """The network as it is, then each part dropped, each block repeated, and random lesions.

    Args:
        model: a network of any family.
        images: that errors are measured on.
        max_deleted: parts that are deleted at once: 1 to this number, as far as there are parts.
        max_pairs: pairs of blocks that change places: 1 to this number.
        samples: random lesions of each number of parts or pairs.
        seed: of the random lesions.
        report: receives the number of evaluations.
    """
    network = _Parts(model)
    lesions = [
        Lesion(LesionKind.NONE),
        *(Lesion(LesionKind.DROP, (name,)) for name in network.droppable),
        *(Lesion(LesionKind.REPEAT, (name,)) for name in network.movable),
        *_draw_deletions(network, max_deleted, samples, seed),
        *_draw_swaps(network, max_pairs, samples, seed),
    ]
    results = []
    for number, lesion in enumerate(lesions):
        report(number, len(lesions))
        results.append(network.measure(lesion, images))
    report(len(lesions), len(lesions))
    return results


class _Parts:
    """The parts of a network that lesions act on, by name, in the order of the network.

    `droppable`: residual blocks; in a plain network, its convolutions. `movable`: blocks whose
    output has the shape of their input, by their stage: two of the same stage are interchangeable.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self.blocks = _list_blocks(model)
        self.is_residual = isinstance(model, ResNet) and model.network.shortcut is not Shortcut.NONE
        self._layers = {} if self.is_residual else _list_layers(model)
        self.droppable = list(self.blocks if self.is_residual else self._layers)
        self.movable = _list_movable(model) if isinstance(model, ResNet) else {}

    def keeps_shape(self, part: str) -> bool:
        """Whether the part can be dropped."""
        return self.is_residual or _keeps_shape(self._layers[part].conv)

    def measure(self, lesion: Lesion, images: ImageSubset) -> LesionResult:
        if lesion.kind in {LesionKind.DROP, LesionKind.DELETE}:
            if not all(self.keeps_shape(part) for part in lesion.parts):
                return LesionResult(lesion, None, kendall_tau=1.0)
            with self._dropped(lesion.parts):
                return LesionResult(lesion, measuring.measure(self._model, images), kendall_tau=1.0)
        order = list(self.blocks)
        modules: dict[str, nn.Module] = dict(self.blocks)
        if lesion.kind is LesionKind.REPEAT:
            (part,) = lesion.parts
            modules[part] = nn.Sequential(self.blocks[part], self.blocks[part])
        elif lesion.kind is LesionKind.SWAP:
            for first, second in zip(lesion.parts[::2], lesion.parts[1::2], strict=True):
                here, there = order.index(first), order.index(second)
                order[here], order[there] = order[there], order[here]
            modules = {
                place: self.blocks[name] for place, name in zip(self.blocks, order, strict=True)
            }
        with self._replaced(modules):
            means = measuring.measure(self._model, images)
        return LesionResult(lesion, means, kendall_tau=kendall_tau(list(self.blocks), order))

    @contextmanager
    def _dropped(self, parts: Sequence[str]) -> Iterator[None]:
        with ExitStack() as stack:
            for part in parts:
                if self.is_residual:
                    stack.enter_context(_dropped_branch(self.blocks[part]))
                else:
                    stack.enter_context(self._layers[part].dropped())
            yield

    @contextmanager
    def _replaced(self, modules: dict[str, nn.Module]) -> Iterator[None]:
        """Other modules in the places of blocks."""
        try:
            for place, module in modules.items():
                self._model.set_submodule(place, module)
            yield
        finally:
            for place, block in self.blocks.items():
                self._model.set_submodule(place, block)


@contextmanager
def _dropped_branch(block: ResidualBlock) -> Iterator[None]:
    """As in a step of a network with stochastic depth that drops this branch."""
    block.is_dropped = True
    try:
        yield
    finally:
        block.is_dropped = None


@dataclass(frozen=True)
class _Layer:
    """A convolution of a plain network; computed from `first` to `last`, without its ReLU."""

    conv: nn.Conv2d
    first: nn.Module
    last: nn.Module

    @contextmanager
    def dropped(self) -> Iterator[None]:
        """What comes in at `first` leaves `last`."""
        inputs: list[Tensor] = []

        def keep_input(_module: nn.Module, arguments: tuple[Any, ...]) -> None:
            inputs.append(arguments[0])

        def return_input(_module: nn.Module, _arguments: Any, _output: Tensor) -> Tensor:
            return inputs.pop()

        handles = [
            self.first.register_forward_pre_hook(keep_input),
            self.last.register_forward_hook(return_input),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _list_blocks(model: nn.Module) -> dict[str, ResidualBlock]:
    return {
        name: module for name, module in model.named_modules() if isinstance(module, ResidualBlock)
    }


def _list_layers(model: nn.Module) -> dict[str, _Layer]:
    """The convolutions of a plain network without those of its stem."""
    blocks = _list_blocks(model)
    layers: dict[str, _Layer] = {}
    for name, block in blocks.items():
        for number in (1, 2, 3):
            conv = getattr(block, f"conv{number}", None)
            if isinstance(conv, nn.Conv2d):
                norm = getattr(block, f"bn{number}")
                is_norm_first = isinstance(block, PreactivatedBlock)
                first, last = (norm, conv) if is_norm_first else (conv, norm)
                layers[f"{name}.conv{number}"] = _Layer(conv, first, last)
    if not blocks:
        layers |= _list_vgg_layers(model)
    return layers


def _list_vgg_layers(model: nn.Module) -> dict[str, _Layer]:
    features = model.get_submodule("features")
    assert isinstance(features, nn.Sequential)
    modules = list(features)
    layers = {}
    for index, module in enumerate(modules):
        if isinstance(module, nn.Conv2d):
            follower = modules[index + 1]
            last = follower if isinstance(follower, nn.BatchNorm2d) else module
            layers[f"features.{index}"] = _Layer(module, module, last)
    return layers


def _keeps_shape(conv: nn.Conv2d) -> bool:
    return conv.in_channels == conv.out_channels and conv.stride == (1, 1)


def _list_movable(model: ResNet) -> dict[str, str]:
    """The stage of each block that another block of its stage can replace."""
    movable = {}
    channels = model.network.stem_width
    for name, stage in zip(model.stages, model.network.stages, strict=True):
        blocks = model.get_submodule(name)
        assert isinstance(blocks, nn.Sequential)
        for index, block in enumerate(blocks):
            assert isinstance(block, ResidualBlock)
            changes_shape = index == 0 and (stage.stride != 1 or channels != stage.out_channels)
            # The first pre-activated block activates its shortcut's input, too.
            is_special = index == 0 and isinstance(block, PreactivatedBlock)
            if not changes_shape and not is_special:
                movable[f"{name}.{index}"] = name
        channels = stage.out_channels
    return movable


def _draw_deletions(network: _Parts, most: int, samples: int, seed: int) -> Iterator[Lesion]:
    parts = [part for part in network.droppable if network.keeps_shape(part)]
    for count in range(1, min(most, len(parts)) + 1):
        for sample in range(samples):
            words = _draw(seed, LesionKind.DELETE, len(parts), count, sample)
            chosen = np.sort(np.argsort(words, kind="stable")[:count])
            yield Lesion(LesionKind.DELETE, tuple(parts[index] for index in chosen), sample)


def _draw_swaps(network: _Parts, most: int, samples: int, seed: int) -> Iterator[Lesion]:
    """Each pair is drawn from all pairs of blocks of one stage."""
    stages = network.movable
    pairs = [
        (first, second)
        for number, first in enumerate(stages)
        for second in list(stages)[number + 1 :]
        if stages[first] == stages[second]
    ]
    for count in range(1, most + 1 if pairs else 1):
        for sample in range(samples):
            words = _draw(seed, LesionKind.SWAP, count, count, sample)
            chosen = [pairs[int(word % np.uint64(len(pairs)))] for word in words]
            yield Lesion(LesionKind.SWAP, tuple(name for pair in chosen for name in pair), sample)


def _draw(seed: int, kind: LesionKind, words: int, count: int, sample: int) -> NDArray[np.uint64]:
    """Random words that depend on nothing else that is drawn."""
    purposes = {LesionKind.DELETE: Purpose.DELETED_PARTS, LesionKind.SWAP: Purpose.SWAPPED_BLOCKS}
    return sampling.random_words(seed, purposes[kind], words, epoch=count, image=sample)


def kendall_tau(order: Sequence[str], permuted: Sequence[str]) -> float:
    """Rank correlation of two orders of the same names: 1 equal, -1 reversed (Kendall 1938)."""
    rank = {name: index for index, name in enumerate(order)}
    ranks = [rank[name] for name in permuted]
    pairs = len(ranks) * (len(ranks) - 1) // 2
    if pairs == 0:
        return 1.0
    inversions = sum(
        later < earlier for index, earlier in enumerate(ranks) for later in ranks[index + 1 :]
    )
    return 1 - 2 * inversions / pairs
