"""Recipes: how a network is trained, by name. Pure data and pure functions, no torch."""

from collections.abc import Callable
from enum import StrEnum
from math import cos, pi
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from service.catalog.architectures import Family

MAX_ITERATIONS = 10_000_000
# The depth from which the paper warms up before it trains with 0.1 (section 4.2).
WARMUP_DEPTH = 110
# Iterations of an epoch of ImageNet's 1,281,167 training images in batches of 256.
_IMAGENET_EPOCH = 1_281_167 / 256


class LrSchedule(StrEnum):
    """What the learning rate does after the warm-up."""

    STEPS = "steps"  # multiplied by `lr_gamma` at each milestone
    PLATEAU = "plateau"  # multiplied by `lr_gamma` when the test error stops falling
    LINEAR = "linear"  # falls in a straight line to zero at the end
    COSINE = "cosine"  # falls as half a cosine to zero at the end (Loshchilov, Hutter 2016)


class Precision(StrEnum):
    """What convolutions and the classifier are computed in; weights and sums stay float32.

    `auto` is bf16 where the device computes it, else fp32; the run records which it was.
    """

    AUTO = "auto"
    FP32 = "fp32"
    TF32 = "tf32"
    BF16 = "bf16"
    FP16 = "fp16"


class MomentumForm(StrEnum):
    """Caffe's v = m v + lr g, as the paper trained, or torch's v = m v + g with lr outside.

    They differ for some ten steps after the learning rate has changed.
    """

    CAFFE = "caffe"
    TORCH = "torch"


class WeightDecayScope(StrEnum):
    """What weight decay pulls towards zero: weights only (the paper's own code), or all."""

    WEIGHTS = "weights"
    ALL = "all"


class Crop(StrEnum):
    """Which part of an image is seen in training."""

    PAD_CROP = "pad_crop"  # zeros around it, then a crop of its own size (section 4.2)
    SCALE_JITTER = "scale_jitter"  # 224 pixels of it, its shorter side in [256, 480] (section 3.4)
    RANDOM_RESIZED_CROP = (
        "random_resized_crop"  # 8 to 100 % of its area, aspect 3/4 to 4/3 (Szegedy et al. 2014)
    )


class Flip(StrEnum):
    """Mirror images: each drawn by itself, or every second epoch (Jordan 2024)."""

    RANDOM = "random"
    ALTERNATING = "alternating"


class Normalization(StrEnum):
    """What is taken from the bytes: the mean image, or each channel's mean and deviation."""

    PIXEL_MEAN = "pixel_mean"
    CHANNEL = "channel"


class TtaMode(StrEnum):
    """How an image is tested: logits or probabilities of how many views are averaged."""

    NONE = "none"  # the image itself, or its centre crop of 224 pixels
    HFLIP = "hflip"  # the image and its mirror image, logits averaged
    TEN_CROP = "ten_crop"  # corners, centre, their mirror images, probabilities averaged
    MULTI_SCALE = "multi_scale"  # fully convolutional at five scales (section 3.4)


class BnStatistics(StrEnum):
    """Batch normalisation's for testing: moving averages, or exact ones over training images."""

    RUNNING = "running"
    PRECISE = "precise"


class Export(StrEnum):
    """What a finished training leaves beside its weights: for ONNX Runtime, for torch alone."""

    ONNX = "onnx"
    PT2 = "pt2"


Rate = Annotated[float, Field(gt=0, le=100)]
Iterations = Annotated[int, Field(ge=1, le=MAX_ITERATIONS)]


def _linear(progress: float) -> float:
    return 1 - progress


def _cosine(progress: float) -> float:
    return (1 + cos(pi * progress)) / 2


# Of the learning rate, by the share of the run that is done.
DECAY_CURVES: dict[LrSchedule, Callable[[float], float]] = {
    LrSchedule.LINEAR: _linear,
    LrSchedule.COSINE: _cosine,
}


class Recipe(BaseModel):
    """Everything about training that is not the network or the data.

    Lengths are iterations (optimizer steps), errors percent. `batch_size` is global: all workers
    together. A worker computes its share `micro_batch_size` at a time (None: all at once) and adds
    the gradients up; batch normalisation sees one pass, or, `sync_batch_norm`, one pass of all.

    Warm-up: `warmup_learning_rate` holds until the training error is below `warmup_until_error`,
    or for `warmup_iterations`, in which sloping schedules climb from it to `learning_rate`.
    `patience` counts the evaluations without a lower test error that a plateau takes.
    `bias_learning_rate_scale` multiplies the rate of batch normalisation's biases.
    `validation_images` are held out of the training images, and told as a series of their own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    iterations: Iterations
    batch_size: Annotated[int, Field(ge=1, le=65_536)]
    micro_batch_size: Annotated[int, Field(ge=1, le=65_536)] | None = None

    learning_rate: Rate
    schedule: LrSchedule = LrSchedule.STEPS
    milestones: tuple[Annotated[int, Field(ge=1)], ...] = ()
    lr_gamma: Annotated[float, Field(gt=0, le=1)] = 0.1
    patience: Annotated[int, Field(ge=1, le=1_000)] = 5
    warmup_learning_rate: Rate | None = None
    warmup_until_error: Annotated[float, Field(gt=0, le=100)] | None = None
    warmup_iterations: Iterations | None = None

    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    momentum_form: MomentumForm = MomentumForm.CAFFE
    nesterov: bool = False
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = 1e-4
    weight_decay_scope: WeightDecayScope = WeightDecayScope.WEIGHTS
    bias_learning_rate_scale: Rate = 1.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0

    crop: Crop = Crop.PAD_CROP
    flip: Flip = Flip.RANDOM
    pca_lighting: bool = False
    normalization: Normalization = Normalization.PIXEL_MEAN
    validation_images: Annotated[int, Field(ge=0, le=10_000_000)] = 0

    sync_batch_norm: bool = False
    bn_statistics: BnStatistics = BnStatistics.RUNNING
    test_time_augmentation: TtaMode = TtaMode.NONE
    precision: Precision = Precision.AUTO

    evaluate_every: Annotated[int, Field(ge=1)]
    checkpoint_every: Annotated[int, Field(ge=1)]
    exports: tuple[Export, ...] = (Export.ONNX, Export.PT2)

    @model_validator(mode="after")
    def _is_whole(self) -> "Recipe":
        ends = [self.warmup_until_error, self.warmup_iterations]
        if (self.warmup_learning_rate is None) != (ends == [None, None]) or None not in ends:
            raise ValueError(
                "warmup_learning_rate and one of warmup_until_error and warmup_iterations "
                "go together"
            )
        if self.warmup_until_error is not None and self.schedule in DECAY_CURVES:
            raise ValueError(
                f"a {self.schedule} schedule climbs in warmup_iterations; "
                "warmup_until_error has no length"
            )
        if self.warmup_iterations is not None and self.warmup_iterations >= self.iterations:
            raise ValueError(
                f"warmup_iterations must be less than iterations ({self.iterations}), "
                f"received {self.warmup_iterations}"
            )
        if self.batch_size % (self.micro_batch_size or 1) != 0:
            raise ValueError(
                f"micro_batch_size must divide batch_size ({self.batch_size}), "
                f"received {self.micro_batch_size}"
            )
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones must ascend, received {list(self.milestones)}")
        if self.crop is Crop.PAD_CROP and self.test_time_augmentation in {
            TtaMode.TEN_CROP,
            TtaMode.MULTI_SCALE,
        }:
            raise ValueError(
                f"views {self.test_time_augmentation} are of photographs: crop is scaled or resized"
            )
        if self.nesterov and (self.momentum == 0 or self.momentum_form is MomentumForm.CAFFE):
            raise ValueError("nesterov needs momentum above 0 and momentum_form torch")
        return self

    def learning_rate_at(self, iteration: int, *, is_warm: bool = False, drops: int = 0) -> float:
        """Of the step that follows `iteration` finished ones.

        `is_warm`: whether a warm-up by the training error is over; `drops`: how often a plateau
        was seen. They depend on errors, so they are state of the run and lie in its checkpoints.
        """
        warmup = self.warmup_learning_rate
        if warmup is not None and self.warmup_iterations is None and not is_warm:
            return warmup
        if warmup is not None and iteration < (self.warmup_iterations or 0):
            if self.schedule not in DECAY_CURVES:
                return warmup
            assert self.warmup_iterations is not None
            return warmup + (self.learning_rate - warmup) * iteration / self.warmup_iterations
        return self.learning_rate * self._share_of_rate(iteration, drops)

    def _share_of_rate(self, iteration: int, drops: int) -> float:
        if self.schedule is LrSchedule.STEPS:
            return self.lr_gamma ** sum(milestone <= iteration for milestone in self.milestones)
        if self.schedule is LrSchedule.PLATEAU:
            return self.lr_gamma**drops
        return DECAY_CURVES[self.schedule](self._progress(iteration))

    def _progress(self, iteration: int) -> float:
        """In [0, 1], from the end of the warm-up to that of the run."""
        start = self.warmup_iterations or 0
        return min(1.0, (iteration - start) / (self.iterations - start))


def paper_cifar(family: Family, depth: int) -> dict[str, Any]:
    """He et al. 2015, section 4.2: 64k iterations of 128, 0.1 divided by 10 at 32k and 48k.

    From 110 layers on, 0.01 until the training error is below 80 %, then back to 0.1. The paper
    normalised each half of a batch on its own GPU: two workers, or micro_batch_size 64, do so too.
    """
    is_deep = family is Family.CIFAR and depth >= WARMUP_DEPTH
    return {
        "iterations": 64_000,
        "batch_size": 128,
        "learning_rate": 0.1,
        "milestones": (32_000, 48_000),
        "warmup_learning_rate": 0.01 if is_deep else None,
        "warmup_until_error": 80.0 if is_deep else None,
        "evaluate_every": 1_000,
        "checkpoint_every": 1_000,
    }


def paper_imagenet(_family: Family, _depth: int) -> dict[str, Any]:
    """He et al. 2015, section 3.4: 60 x 10^4 iterations of 256, 0.1 divided by 10 at plateaus.

    Shorter side in [256, 480], 224 crop, PCA colour. Batch normalisation over 32 images, as on
    the authors' eight GPUs (KaimingHe/deep-residual-networks). How long a plateau is, the paper
    does not say; `patience` is ours. The 30/60/90 schedule: `schedule` steps, with milestones.
    """
    return {
        "iterations": 600_000,
        "batch_size": 256,
        "micro_batch_size": 32,
        "learning_rate": 0.1,
        "schedule": LrSchedule.PLATEAU,
        "crop": Crop.SCALE_JITTER,
        "pca_lighting": True,
        "bn_statistics": BnStatistics.PRECISE,
        "evaluate_every": 5_000,
        "checkpoint_every": 5_000,
    }


def identity_mappings(_family: Family, _depth: int) -> dict[str, Any]:
    """He et al. 2016 (arXiv:1603.05027), appendix: paper-cifar, and 0.01 for 400 iterations.

    Torch's momentum and decay of every parameter are those of fb.resnet.torch, on which the
    authors' code for this paper is built; its Nesterov momentum is not in the text and is off.
    """
    return paper_cifar(Family.IMAGENET, 0) | {
        "warmup_learning_rate": 0.01,
        "warmup_iterations": 400,
        "momentum_form": MomentumForm.TORCH,
        "weight_decay_scope": WeightDecayScope.ALL,
    }


def torchvision_v1(_family: Family, _depth: int) -> dict[str, Any]:
    """Torchvision's references for its V1 weights: 90 epochs of ImageNet, divided every 30.

    Batches of 256, random resized crops, each channel's mean and deviation, decay of everything.
    """
    return {
        "iterations": round(90 * _IMAGENET_EPOCH),
        "batch_size": 256,
        "micro_batch_size": 32,
        "learning_rate": 0.1,
        "milestones": (round(30 * _IMAGENET_EPOCH), round(60 * _IMAGENET_EPOCH)),
        "momentum_form": MomentumForm.TORCH,
        "weight_decay_scope": WeightDecayScope.ALL,
        "crop": Crop.RANDOM_RESIZED_CROP,
        "normalization": Normalization.CHANNEL,
        "evaluate_every": round(_IMAGENET_EPOCH),
        "checkpoint_every": round(_IMAGENET_EPOCH),
    }


def airbench_like(_family: Family, _depth: int) -> dict[str, Any]:
    """What Jordan 2024 (arXiv:2404.00498) adds that any network can have; not the paper's recipe.

    Changed: batches of 512, a rate that climbs for a fifth of the run and falls to zero, Nesterov
    momentum, label smoothing 0.2, alternating flips, 64 times the rate for batch normalisation's
    biases, 20 epochs, and mirror images averaged in testing. The rates are ours.
    """
    return {
        "iterations": 2_000,
        "batch_size": 512,
        "learning_rate": 0.4,
        "schedule": LrSchedule.LINEAR,
        "warmup_learning_rate": 0.04,
        "warmup_iterations": 400,
        "momentum_form": MomentumForm.TORCH,
        "nesterov": True,
        "weight_decay": 5e-4,
        "bias_learning_rate_scale": 64.0,
        "label_smoothing": 0.2,
        "flip": Flip.ALTERNATING,
        "test_time_augmentation": TtaMode.HFLIP,
        "evaluate_every": 500,
        "checkpoint_every": 500,
    }


def quick(family: Family, depth: int) -> dict[str, Any]:
    """The paper's recipe in small, for demonstrations and tests: 600 iterations, no exports."""
    return paper_cifar(family, depth) | {
        "iterations": 600,
        "milestones": (300, 450),
        "evaluate_every": 100,
        "checkpoint_every": 200,
        "exports": (),
    }


RECIPES: dict[str, Callable[[Family, int], dict[str, Any]]] = {
    "paper-cifar": paper_cifar,
    "paper-imagenet": paper_imagenet,
    "identity-mappings": identity_mappings,
    "torchvision-v1": torchvision_v1,
    "airbench-like": airbench_like,
    "quick": quick,
}


def full_recipe(name: str, *, family: Family, depth: int) -> dict[str, Any]:
    """Every field that the recipe has for the network, defaults among them."""
    return Recipe(name=name, **RECIPES[name](family, depth)).model_dump()


def resolve(written: str | dict[str, Any], *, family: Family, depth: int) -> dict[str, Any]:
    """The whole recipe behind a name, or behind a name and the fields that differ.

    Where `iterations` differs, milestones and warm-up that are not given keep their share of the
    run. ValueError for a name that no recipe has.
    """
    fields = {"name": written} if isinstance(written, str) else dict(written)
    name = fields.get("name")
    if not isinstance(name, str) or name not in RECIPES:
        raise ValueError(f"no recipe {name!r}; there are {', '.join(sorted(RECIPES))}")
    base = RECIPES[name](family, depth)
    iterations = fields.get("iterations")
    if isinstance(iterations, int) and 1 <= iterations <= MAX_ITERATIONS:
        base |= _rescale(base, iterations)
    if fields.get("warmup_learning_rate", "kept") is None:
        base["warmup_until_error"] = base["warmup_iterations"] = None
    return base | fields


def _rescale(base: dict[str, Any], iterations: int) -> dict[str, Any]:
    """What hangs on the length of the run, for another length."""
    share = iterations / base["iterations"]
    scaled: dict[str, Any] = {}
    if "milestones" in base:
        scaled["milestones"] = tuple(
            sorted({max(1, round(milestone * share)) for milestone in base["milestones"]})
        )
    if base.get("warmup_iterations") is not None:
        length = min(round(base["warmup_iterations"] * share), iterations - 1)
        scaled["warmup_iterations"] = length if length > 0 else None
        scaled["warmup_learning_rate"] = base["warmup_learning_rate"] if length > 0 else None
    return scaled
