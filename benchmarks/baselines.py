"""Training scripts to compare with, in the style of well-known ones.

Each does in every step what the named script does; none is a copy. A script trains one network
and yields after each step.

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
from workers.training import device_context, precision
from workers.training.data.datasets import Images, Split
from workers.training.data.resident_source import ResidentSource
from workers.training.models import resnet
from workers.training.models.blocks import PaddedShortcut

# Workers of a DataLoader: one per core, as the documentation of these scripts advises.
NUM_LOADERS = 2

# Mean and standard deviation by channel.
_CIFAR10_STATISTICS = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
_IMAGENET_STATISTICS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Script(ABC):
    """One training. `steps` yields the number of finished iterations and never ends.

    `test` returns the error in percent.
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
    """torchvision's references/classification: loads single images, trains in float32 and NCHW."""

    statistics = _CIFAR10_STATISTICS
    zero_padding = ZeroPadding.END

    def prepare(self) -> None:
        network = make_architecture(
            Family.CIFAR, self.depth, Shortcut.A, zero_padding=self.zero_padding
        )
        self.model = resnet.create_network(network, classes=self.images.classes)
        for block in self.model.modules():
            shortcut = getattr(block, "downsample", None)
            if isinstance(shortcut, PaddedShortcut):
                block.downsample = _SlicedShortcut(shortcut)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=self.recipe.learning_rate,
            momentum=self.recipe.momentum,
            weight_decay=self.recipe.weight_decay,
        )
        normalize = [transforms.ToTensor(), transforms.Normalize(*self.statistics)]
        augment = [transforms.RandomCrop(32, 4), transforms.RandomHorizontalFlip()]
        self.loader = DataLoader(
            _ImageDataset(self.images.train, transforms.Compose([*augment, *normalize])),
            batch_size=self.recipe.batch_size,
            shuffle=True,
            num_workers=NUM_LOADERS,
            drop_last=True,
        )
        self.test_loader = DataLoader(
            _ImageDataset(self.images.test, transforms.Compose(normalize)), batch_size=512
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
                self.update_meters(loss, logits_NK, labels_N)
                iteration += 1
                yield iteration

    def update_meters(self, loss: Tensor, logits_NK: Tensor, labels_N: Tensor) -> None:
        """In each step, as the script does."""
        errors = (logits_NK.argmax(dim=1) != labels_N).sum()
        self.meters = (loss.item(), errors.item())

    @torch.no_grad()
    def test(self) -> float:
        self.model.eval()
        errors = sum(
            int((self.model(images_NCHW).argmax(dim=1) != labels_N).sum())
            for images_NCHW, labels_N in self.test_loader
        )
        self.model.train()
        return 100 * errors / len(self.images.test)


class AkamasterStyle(TorchvisionStyle):
    """akamaster's pytorch_resnet_cifar10.

    It normalizes with ImageNet's statistics, pads shortcuts with zeros on both sides, and
    initializes all layers, the classifier included, by fan-in.
    """

    statistics = _IMAGENET_STATISTICS
    zero_padding = ZeroPadding.BOTH

    def prepare(self) -> None:
        super().prepare()
        for module in self.model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)


class MinimalLoop(Script):
    """The batches, network and precision of resnetd in a dozen lines that report nothing."""

    def prepare(self) -> None:
        # Without this the loop is slower until its first test, after which glibc keeps memory.
        device_context.retain_freed_memory()
        cpu = torch.device("cpu")
        network = make_architecture(Family.CIFAR, self.depth, Shortcut.A)
        self.model = resnet.create_network(network, classes=self.images.classes)
        self.model.to(memory_format=torch.channels_last)
        self.source = ResidentSource(self.images, self.recipe, seed=0, device=cpu)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=self.recipe.learning_rate,
            momentum=self.recipe.momentum,
            weight_decay=self.recipe.weight_decay,
        )
        self.precision = precision.resolve_precision(self.recipe.precision, cpu)

    def steps(self) -> Iterator[int]:
        iteration, size = 0, self.recipe.batch_size
        while True:
            images_NCHW, labels_N = self.source.load_batch(iteration * size, (iteration + 1) * size)
            for group in self.optimizer.param_groups:
                group["lr"] = self.learning_rate(iteration)
            with precision.autocast(self.precision, torch.device("cpu")):
                loss = functional.cross_entropy(self.model(images_NCHW), labels_N)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            iteration += 1
            yield iteration

    @torch.no_grad()
    def test(self) -> float:
        self.model.eval()
        errors = 0
        for images_NHWC, labels_N in zip(
            torch.split(self.images.test.images_NHWC, 512),
            torch.split(self.images.test.labels_N, 512),
            strict=True,
        ):
            logits_NK = self.model(self.source.normalizer(images_NHWC))
            errors += int((logits_NK.argmax(dim=1) != labels_N).sum())
        self.model.train()
        return 100 * errors / len(self.images.test)


class _SlicedShortcut(nn.Module):
    """Option A for NCHW memory format, as the scripts write it."""

    def __init__(self, shortcut: PaddedShortcut) -> None:
        super().__init__()
        self.stride, self.padding = shortcut.stride, (0, 0, 0, 0, *shortcut.padding)

    def forward(self, maps_NCHW: Tensor) -> Tensor:
        return functional.pad(maps_NCHW[:, :, :: self.stride, :: self.stride], self.padding)


class _ImageDataset(Dataset[tuple[Tensor, int]]):
    """A split as torchvision's CIFAR10 returns it: single images."""

    def __init__(self, split: Split, transform: transforms.Compose) -> None:
        self.images = split.images_NHWC.numpy()
        self.labels = split.labels_N.tolist()
        self.transform = transform

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]

    def __len__(self) -> int:
        return len(self.labels)
