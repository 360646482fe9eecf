"""Plain training scripts to measure against, written in the manner of well-known ones.

Each trains one network, and yields after every step. None is copied: they do what the named
ones do, step by step, and nothing else.

Shapes: N batch, C channels, H height, W width, K classes.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from service.catalog.architectures import Family, Shortcut, ZeroPadding, make_architecture
from service.catalog.recipes import Recipe
from workers.training import memory, precision
from workers.training.data.augmentation import BatchAugmenter, Normalizer
from workers.training.data.datasets import Images, Split
from workers.training.models import resnet
from workers.training.models.blocks import PaddedShortcut

# Of a DataLoader: both cores, as the scripts' documentation advises.
LOADERS = 2

_BYTES = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # CIFAR-10's
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Script(ABC):
    """One network under way. `steps` yields the finished iterations; the caller stops.

    `test` gives the error in percent.
    """

    model: nn.Module

    def __init__(self, images: Images, recipe: Recipe, depth: int) -> None:
        self.images = images
        self.recipe = recipe
        self.depth = depth
        torch.manual_seed(0)
        self.prepare()

    @abstractmethod
    def prepare(self) -> None: ...

    @abstractmethod
    def steps(self) -> Iterator[int]: ...

    @abstractmethod
    def test(self) -> float: ...

    def learning_rate(self, iteration: int) -> float:
        return self.recipe.learning_rate_at(iteration, is_warm=True)


class TorchvisionStyle(Script):
    """As torchvision's references/classification: an image at a time, float32, NCHW."""

    normalisation = _BYTES
    zero_padding = ZeroPadding.END

    def prepare(self) -> None:
        network = make_architecture(
            Family.CIFAR, self.depth, Shortcut.A, zero_padding=self.zero_padding
        )
        self.model = resnet.create_network(network, classes=self.images.classes)
        for block in self.model.modules():
            shortcut = getattr(block, "downsample", None)
            if isinstance(shortcut, PaddedShortcut):
                block.downsample = _Sliced(shortcut)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=self.recipe.learning_rate,
            momentum=self.recipe.momentum,
            weight_decay=self.recipe.weight_decay,
        )
        normal = [transforms.ToTensor(), transforms.Normalize(*self.normalisation)]
        cut = [transforms.RandomCrop(32, 4), transforms.RandomHorizontalFlip()]
        self.loader = DataLoader(
            _Pictures(self.images.train, transforms.Compose([*cut, *normal])),
            batch_size=self.recipe.batch_size,
            shuffle=True,
            num_workers=LOADERS,
            drop_last=True,
        )
        self.test_loader = DataLoader(
            _Pictures(self.images.test, transforms.Compose(normal)), batch_size=512
        )

    def steps(self) -> Iterator[int]:
        iteration = 0
        while True:
            for images_NCHW, labels_N in self.loader:
                for group in self.optimizer.param_groups:
                    group["lr"] = self.learning_rate(iteration)
                logits_NK = self.model(images_NCHW)
                loss = functional.cross_entropy(logits_NK, labels_N)
                self.optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                self.optimizer.step()
                self.log(loss, logits_NK, labels_N)
                iteration += 1
                yield iteration

    def log(self, loss: Tensor, logits_NK: Tensor, labels_N: Tensor) -> None:
        """Every step, as the scripts' meters do."""
        wrong = (logits_NK.argmax(dim=1) != labels_N).sum()
        self.told = (loss.item(), wrong.item())

    @torch.no_grad()
    def test(self) -> float:
        self.model.eval()
        wrong = sum(
            int((self.model(images_NCHW).argmax(dim=1) != labels_N).sum())
            for images_NCHW, labels_N in self.test_loader
        )
        self.model.train()
        return 100 * wrong / len(self.images.test)


class AkamasterStyle(TorchvisionStyle):
    """As akamaster's reproduction for CIFAR: ImageNet's mean and deviation, zeros on both sides.

    Its fan-in initialisation of every layer, the classifier's among them.
    """

    normalisation = _IMAGENET
    zero_padding = ZeroPadding.BOTH

    def prepare(self) -> None:
        super().prepare()
        for module in self.model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)


class BareLoop(Script):
    """Ours without us: the same batches, network and precision in a dozen lines, told to nobody."""

    def prepare(self) -> None:
        # Else it would be slower until its first test, from which glibc learns to keep memory.
        memory.keep_for_the_next_step()
        cpu = torch.device("cpu")
        network = make_architecture(Family.CIFAR, self.depth, Shortcut.A)
        self.model = resnet.create_network(network, classes=self.images.classes)
        self.model.to(memory_format=torch.channels_last)
        self.normaliser = Normalizer.of(self.images.train, self.recipe.normalization, cpu)
        self.augmenter = BatchAugmenter(self.images, self.normaliser, seed=0, device=cpu)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=self.recipe.learning_rate,
            momentum=self.recipe.momentum,
            weight_decay=self.recipe.weight_decay,
        )
        self.computed_in = precision.resolve_precision(self.recipe.precision, cpu)

    def steps(self) -> Iterator[int]:
        iteration, size = 0, self.recipe.batch_size
        while True:
            images_NCHW, labels_N = self.augmenter.batch(iteration * size, (iteration + 1) * size)
            for group in self.optimizer.param_groups:
                group["lr"] = self.learning_rate(iteration)
            with precision.autocast(self.computed_in, torch.device("cpu")):
                loss = functional.cross_entropy(self.model(images_NCHW), labels_N)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            iteration += 1
            yield iteration

    @torch.no_grad()
    def test(self) -> float:
        self.model.eval()
        wrong = 0
        for images_NHWC, labels_N in zip(
            torch.split(self.images.test.images_NHWC, 512),
            torch.split(self.images.test.labels_N, 512),
            strict=True,
        ):
            logits_NK = self.model(self.normaliser(images_NHWC))
            wrong += int((logits_NK.argmax(dim=1) != labels_N).sum())
        self.model.train()
        return 100 * wrong / len(self.images.test)


class _Sliced(nn.Module):
    """Option A as scripts have it, whose maps lie in memory channel by channel."""

    def __init__(self, shortcut: PaddedShortcut) -> None:
        super().__init__()
        self.stride, self.padding = shortcut.stride, (0, 0, 0, 0, *shortcut.padding)

    def forward(self, maps_NCHW: Tensor) -> Tensor:
        return functional.pad(maps_NCHW[:, :, :: self.stride, :: self.stride], self.padding)


class _Pictures(Dataset[tuple[Tensor, int]]):
    """A split as torchvision's CIFAR10 hands it out: one picture after another."""

    def __init__(self, split: Split, transform: transforms.Compose) -> None:
        self.images = split.images_NHWC.numpy()
        self.labels = split.labels_N.tolist()
        self.transform = transform

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]

    def __len__(self) -> int:
        return len(self.labels)
