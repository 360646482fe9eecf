"""Training recipes by name: hyperparameters and learning rate schedules, without torch."""

from collections.abc import Callable
from enum import StrEnum
from math import cos, pi
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from service.catalog.architectures import Family
from service.text import format_nearest

MAX_ITERATIONS = 10_000_000
MAX_SECONDS = 90 * 24 * 3600.0  # as long as the longest time limit of a job
# From this depth on, the paper warms up with a learning rate of 0.01 (section 4.2).
WARMUP_DEPTH = 110
# Share of the iterations that this warm-up takes: about 400 of 64,000 (section 4.2).
_WARMUP_SHARE = 400 / 64_000
# Iterations per epoch: 1,281,167 training images in batches of 256.
_IMAGENET_EPOCH = 1_281_167 / 256


class LrSchedule(StrEnum):
    """The learning rate after the warm-up."""

    STEPS = "steps"  # multiplied by `lr_gamma` at each milestone
    PLATEAU = "plateau"  # multiplied by `lr_gamma` when the error of `select_by` stops falling
    LINEAR = "linear"  # linear decay to zero
    COSINE = "cosine"  # cosine decay to zero (Loshchilov and Hutter 2016)


class Precision(StrEnum):
    """Number format of convolutions and linear layers; weights and sums stay float32.

    `auto` is bf16 on devices that support it, else fp32; the job's environment records the choice.
    """

    AUTO = "auto"
    FP32 = "fp32"
    TF32 = "tf32"
    BF16 = "bf16"
    FP16 = "fp16"


class MomentumForm(StrEnum):
    """Caffe (the paper): v = m v + lr g. Torch: v = m v + g, multiplied by lr afterwards.

    They differ for about ten steps after each change of the learning rate.
    """

    CAFFE = "caffe"
    TORCH = "torch"


class WeightDecayScope(StrEnum):
    """Weight decay on weights only (the authors' code), or also on biases and batch norm."""

    WEIGHTS = "weights"
    ALL = "all"


class Crop(StrEnum):
    """Random crop of a training image.

    `pad_crop`: zero padding, then a crop of the original size (section 4.2).
    `scale_jitter`: shorter side resized to [256, 480], then a crop of 224 (section 3.4).
    `random_resized_crop`: 8 to 100 % of the area, aspect ratio 3/4 to 4/3 (Szegedy et al. 2014).
    """

    PAD_CROP = "pad_crop"
    SCALE_JITTER = "scale_jitter"
    RANDOM_RESIZED_CROP = "random_resized_crop"


class Flip(StrEnum):
    """Horizontal flips: at random, or in every second epoch (Jordan 2024)."""

    RANDOM = "random"
    ALTERNATING = "alternating"


class Normalization(StrEnum):
    """Subtract the mean image, or normalize by each channel's mean and standard deviation."""

    PIXEL_MEAN = "pixel_mean"
    CHANNEL = "channel"


class TtaMode(StrEnum):
    """Test-time augmentation: predictions for several views of an image are averaged."""

    NONE = "none"  # the image, or its center crop of 224
    HFLIP = "hflip"  # the image and its horizontal flip; averages logits
    TEN_CROP = "ten_crop"  # corners, center and their flips; averages probabilities
    MULTI_SCALE = "multi_scale"  # fully convolutional at five scales (section 3.4)


class Selection(StrEnum):
    """What the best checkpoint of a run, and a plateau of its schedule, are found by."""

    VALIDATION = "validation"  # lowest error on the held-out training images
    LAST = "last"  # no error: the last checkpoint is the best, as in the paper
    TEST = "test"  # lowest test error, which is then too low an estimate of the error


class BnStatistics(StrEnum):
    """Batch norm statistics for evaluation: running averages, or computed from training images.

    The latter are known as precise BN.
    """

    RUNNING = "running"
    PRECISE = "precise"


class Export(StrEnum):
    """Formats in which the network of a finished training is exported.

    Those for images take the bytes of an image of any size; the others take normalized batches.
    """

    ONNX = "onnx"
    ONNX_IMAGE = "onnx-image"
    PT2 = "pt2"
    PT2_IMAGE = "pt2-image"


Rate = Annotated[float, Field(gt=0, le=100)]
Iterations = Annotated[int, Field(ge=1, le=MAX_ITERATIONS)]


# Learning rate relative to its peak, as a function of the run's progress in [0, 1].
_DECAY_CURVES: dict[LrSchedule, Callable[[float], float]] = {
    LrSchedule.LINEAR: lambda progress: 1 - progress,
    LrSchedule.COSINE: lambda progress: (1 + cos(pi * progress)) / 2,
}


class Recipe(BaseModel):
    """Hyperparameters: everything about a training but the network and the data.

    Lengths are in iterations (optimizer steps), errors in percent.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """Recipe whose values the other fields have by default."""
    iterations: Iterations
    """Length of the training. Milestones and warm-up that are not given scale with it."""
    max_seconds: Annotated[float, Field(gt=0, le=MAX_SECONDS)] | None = None
    """The training ends after the step in which it has trained for this long, over all attempts;
    evaluations and checkpoints do not count, compilation does. Null: no limit."""
    target_error: Annotated[float, Field(ge=0, lt=100)] | None = None
    """The training ends with the first evaluation whose error is at most this: the error that
    `select_by` names. Null: no target."""
    batch_size: Annotated[int, Field(ge=1, le=65_536)]
    """Images of an optimizer step, of all workers together."""
    micro_batch_size: Annotated[int, Field(ge=1, le=65_536)] | None = None
    """Images of a worker's forward pass, which batch norm normalizes; gradients accumulate.

    Null: the worker's complete share of the batch.
    """

    learning_rate: Rate
    """Peak learning rate."""
    schedule: LrSchedule = LrSchedule.STEPS
    """`steps`, `plateau`, `linear` or `cosine`."""
    milestones: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Schedule `steps`: iterations at which the learning rate is multiplied by `lr_gamma`."""
    lr_gamma: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Factor of the learning rate at a milestone or plateau."""
    patience: Annotated[int, Field(ge=1, le=1_000)] = 5
    """Schedule `plateau`: evaluations without a lower error before the rate drops."""
    warmup_learning_rate: Rate | None = None
    """Learning rate of the warm-up. Null: no warm-up."""
    warmup_until_error: Annotated[float, Field(gt=0, le=100)] | None = None
    """The warm-up ends when the training error is below this."""
    warmup_iterations: Iterations | None = None
    """The warm-up ends after this number of iterations.

    Schedules `linear` and `cosine` then rise linearly to `learning_rate`.
    """

    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of SGD."""
    momentum_form: MomentumForm = MomentumForm.CAFFE
    """`caffe` (the paper) or `torch`: they differ after the learning rate changes."""
    nesterov: bool = False
    """Nesterov momentum; needs `momentum_form` `torch`."""
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = 1e-4
    """L2 penalty."""
    weight_decay_scope: WeightDecayScope = WeightDecayScope.WEIGHTS
    """`weights` (the authors' code), or `all`: also biases and batch norm."""
    bias_learning_rate_scale: Rate = 1.0
    """Factor of the learning rate for the biases of batch norm."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the target that all classes get."""

    crop: Crop = Crop.PAD_CROP
    """`pad_crop` (section 4.2), `scale_jitter` (3.4) or `random_resized_crop` (Szegedy)."""
    flip: Flip = Flip.RANDOM
    """`random`, or `alternating`: every second epoch."""
    pca_lighting: bool = False
    """Add noise along the principal components of color (Krizhevsky et al. 2012)."""
    normalization: Normalization = Normalization.PIXEL_MEAN
    """`pixel_mean`: subtract the mean image. `channel`: mean and deviation per channel."""
    validation_images: Annotated[int, Field(ge=0, le=10_000_000)] = 0
    """Training images to hold out; evaluated as `validation/error` and `/loss`."""
    select_by: Annotated[
        Selection, Field(default_factory=lambda data: _default_selection(data))  # noqa: PLW0108
    ]
    """What the best checkpoint and plateaus are found by: the error on held-out images
    (`validation`) or on the `test` set, or nothing: the `last` checkpoint is the best. Default:
    `validation` with held-out images, else `last`."""

    sync_batch_norm: bool = False
    """Batch norm normalizes the micro-batches of all workers together."""
    bn_statistics: BnStatistics = BnStatistics.RUNNING
    """`running` averages, or `precise`: computed from training images per evaluation."""
    test_time_augmentation: TtaMode = TtaMode.NONE
    """`none`, `hflip`; with crops from files also `ten_crop`, `multi_scale`."""
    precision: Precision = Precision.AUTO
    """`auto` is `bf16` on devices that support it, else `fp32`; or `tf32`, `fp16`."""

    evaluate_every: Annotated[int, Field(ge=1)]
    """Iterations between evaluations on the test set."""
    checkpoint_every: Annotated[int, Field(ge=1)]
    """Iterations between checkpoints."""
    exports: tuple[Export, ...] = tuple(Export)
    """Formats of the finished network; `-image` formats have the preprocessing inside."""

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        _require_known(name)
        return name

    @model_validator(mode="after")
    def _check_combinations(self) -> "Recipe":
        ends = [self.warmup_until_error, self.warmup_iterations]
        if (self.warmup_learning_rate is None) != (ends == [None, None]) or None not in ends:
            raise ValueError(
                "a warm-up needs warmup_learning_rate and either warmup_until_error or "
                "warmup_iterations"
            )
        if self.warmup_until_error is not None and self.schedule in _DECAY_CURVES:
            raise ValueError(
                f'schedule "{self.schedule}" needs warmup_iterations, not warmup_until_error'
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
            raise ValueError(f"milestones must be ascending, received {list(self.milestones)}")
        if self.crop is Crop.PAD_CROP and self.test_time_augmentation in {
            TtaMode.TEN_CROP,
            TtaMode.MULTI_SCALE,
        }:
            raise ValueError(
                f"test_time_augmentation {self.test_time_augmentation} needs crop "
                f"{Crop.SCALE_JITTER} or {Crop.RANDOM_RESIZED_CROP}, received {self.crop}"
            )
        if self.nesterov and (self.momentum == 0 or self.momentum_form is MomentumForm.CAFFE):
            raise ValueError(
                f"nesterov needs momentum above 0 and momentum_form {MomentumForm.TORCH}, "
                f"received {self.momentum:g} and {self.momentum_form}"
            )
        return self

    @model_validator(mode="after")
    def _check_selection(self) -> "Recipe":
        if self.select_by is Selection.VALIDATION and self.validation_images == 0:
            raise ValueError("select_by validation needs held-out images: validation_images is 0")
        if self.schedule is LrSchedule.PLATEAU and self.select_by is Selection.LAST:
            raise ValueError(
                'schedule "plateau" needs an error to watch: hold out validation_images, or set '
                "select_by to test"
            )
        if self.target_error is not None and self.select_by is Selection.LAST:
            raise ValueError(
                "target_error needs an error to watch: hold out validation_images, or set "
                "select_by to test"
            )
        return self

    def learning_rate_at(self, iteration: int, *, is_warm: bool = False, drops: int = 0) -> float:
        """The learning rate of the step after `iteration` finished steps.

        `is_warm`: whether a warm-up with `warmup_until_error` is over. `drops`: number of plateaus
        so far. Both depend on measured errors, so checkpoints save them.
        """
        warmup = self.warmup_learning_rate
        if warmup is not None and self.warmup_iterations is None and not is_warm:
            return warmup
        if warmup is not None and iteration < (self.warmup_iterations or 0):
            if self.schedule not in _DECAY_CURVES:
                return warmup
            assert self.warmup_iterations is not None
            return warmup + (self.learning_rate - warmup) * iteration / self.warmup_iterations
        return self.learning_rate * self._decay(iteration, drops)

    @property
    def has_budget(self) -> bool:
        """Whether the training may end before its last iteration."""
        return self.max_seconds is not None or self.target_error is not None

    def selection_error(
        self, *, test_error: float | None, validation_error: float | None
    ) -> float | None:
        """The error that `select_by` names; None if it names none."""
        errors = {Selection.VALIDATION: validation_error, Selection.TEST: test_error}
        return errors.get(self.select_by)

    def _decay(self, iteration: int, drops: int) -> float:
        if self.schedule is LrSchedule.STEPS:
            return self.lr_gamma ** sum(milestone <= iteration for milestone in self.milestones)
        if self.schedule is LrSchedule.PLATEAU:
            return self.lr_gamma**drops
        return _DECAY_CURVES[self.schedule](self._progress(iteration))

    def _progress(self, iteration: int) -> float:
        """Share of the run after its warm-up that is done, in [0, 1]."""
        start = self.warmup_iterations or 0
        return min(1.0, (iteration - start) / (self.iterations - start))


def _default_selection(validated: dict[str, Any]) -> Selection:
    return Selection.VALIDATION if validated.get("validation_images") else Selection.LAST


def paper_cifar(family: Family, depth: int) -> dict[str, Any]:
    """He et al. 2015, section 4.2: 64k iterations, batch size 128, lr 0.1, / 10 at 32k and 48k.

    From 110 layers on, lr 0.01 until the training error is below 80 %, then 0.1. The authors
    used two GPUs with 64 images each: 2 workers or micro_batch_size 64 give the same batch norm.
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
    """He et al. 2015, section 3.4: 600k iterations, batch size 256, lr 0.1, / 10 at plateaus.

    Shorter side in [256, 480], crop of 224, PCA lighting. Batch norm over 32 images, as on the
    authors' eight GPUs (KaimingHe/deep-residual-networks). The paper does not define a plateau;
    `patience` is our choice, and the error is the one that the paper reports: that of the test
    images, unless `validation_images` are held out. For a fixed schedule set `schedule` to steps
    and `milestones`.
    """
    return {
        "iterations": 600_000,
        "batch_size": 256,
        "micro_batch_size": 32,
        "learning_rate": 0.1,
        "schedule": LrSchedule.PLATEAU,
        "select_by": Selection.TEST,
        "crop": Crop.SCALE_JITTER,
        "pca_lighting": True,
        "bn_statistics": BnStatistics.PRECISE,
        "evaluate_every": 5_000,
        "checkpoint_every": 5_000,
    }


def identity_mappings(_family: Family, _depth: int) -> dict[str, Any]:
    """He et al. 2016 (arXiv:1603.05027), appendix: paper-cifar with lr 0.01 for 400 iterations.

    Momentum and the scope of weight decay are those of fb.resnet.torch, on which the authors'
    code is based. Its Nesterov momentum is not in the paper and is off.
    """
    return paper_cifar(Family.IMAGENET, 0) | {
        "warmup_learning_rate": 0.01,
        "warmup_iterations": 400,
        "momentum_form": MomentumForm.TORCH,
        "weight_decay_scope": WeightDecayScope.ALL,
    }


def torchvision_v1(_family: Family, _depth: int) -> dict[str, Any]:
    """Torchvision's reference recipe of its V1 weights: 90 epochs, lr 0.1, / 10 every 30 epochs.

    Batch size 256, random resized crops, normalization per channel, weight decay on all parameters.
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
    """Techniques of Jordan 2024 (arXiv:2404.00498) that apply to any network; not He et al.

    Batch size 512, 20 epochs, linear warm-up for a fifth of the run and linear decay to zero,
    Nesterov momentum, label smoothing 0.2, alternating flips, 64x learning rate for the biases of
    batch norm, flipped images averaged in evaluation. The learning rates are our choice.
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
    """paper-cifar shortened to 600 iterations and without exports, for demos and tests."""
    return paper_cifar(family, depth) | {
        "iterations": 600,
        "milestones": (300, 450),
        "evaluate_every": 100,
        "checkpoint_every": 200,
        "exports": (),
    }


def fine_tune(family: Family, _depth: int) -> dict[str, Any]:
    """Adapts trained weights to a small dataset: 500 iterations, batch size 64, lr 0.01.

    Cosine decay after a linear warm-up. The length is that of Kolesnikov et al. 2020
    (arXiv:1912.11370, section 3.3) for less than 20,000 images; the rates are our choice. Use it
    with `start_from` in mode fine-tune.
    """
    return {
        "iterations": 500,
        "batch_size": 64,
        "learning_rate": 0.01,
        "schedule": LrSchedule.COSINE,
        "warmup_learning_rate": 0.001,
        "warmup_iterations": 50,
        "momentum_form": MomentumForm.TORCH,
        "crop": Crop.PAD_CROP if family is Family.CIFAR else Crop.RANDOM_RESIZED_CROP,
        "normalization": Normalization.CHANNEL,
        "evaluate_every": 100,
        "checkpoint_every": 100,
    }


RECIPES: dict[str, Callable[[Family, int], dict[str, Any]]] = {
    "paper-cifar": paper_cifar,
    "paper-imagenet": paper_imagenet,
    "identity-mappings": identity_mappings,
    "torchvision-v1": torchvision_v1,
    "airbench-like": airbench_like,
    "quick": quick,
    "fine-tune": fine_tune,
}


def _require_known(name: str) -> None:
    if name not in RECIPES:
        raise ValueError(
            f"unknown recipe {name!r}{format_nearest(name, RECIPES)}; "
            f"known are {', '.join(sorted(RECIPES))}"
        )


def build_recipe(
    written: str | dict[str, Any], *, family: Family, depth: int, num_workers: int = 1
) -> Recipe:
    """The complete recipe of a network. Raises ValueError as `resolve_recipe` and Recipe do."""
    fields = resolve_recipe(written, family=family, depth=depth, num_workers=num_workers)
    return Recipe.model_validate(fields)


def resolve_recipe(
    written: str | dict[str, Any], *, family: Family, depth: int, num_workers: int = 1
) -> dict[str, Any]:
    """Fields of the named recipe, replaced by those in `written`; not validated by themselves.

    Fields that are not in `written` follow those that are: milestones and warm-up the number of
    iterations, the micro-batch the batch and its shares, the end of a warm-up the schedule. Raises
    ValueError where `written` is an unknown name.
    """
    fields = {"name": written} if isinstance(written, str) else dict(written)
    name = fields.get("name")
    if isinstance(written, str):
        _require_known(written)
    # Recipe refuses an unknown name, and with it whatever else is wrong in the fields.
    make_base = RECIPES.get(name, paper_cifar) if isinstance(name, str) else paper_cifar
    base = make_base(family, depth)
    iterations = fields.get("iterations")
    if isinstance(iterations, int) and 1 <= iterations <= MAX_ITERATIONS:
        base |= _rescale(base, iterations)
    base |= _adapt_micro_batch(base, fields, num_workers) | _adapt_warmup(base, fields)
    if fields.get("validation_images") or fields.get("schedule", LrSchedule.PLATEAU) != "plateau":
        # The recipe's own choice is for a plateau without held-out images.
        base.pop("select_by", None)
    return base | fields


def _adapt_micro_batch(
    base: dict[str, Any], fields: dict[str, Any], num_workers: int
) -> dict[str, Any]:
    """The largest micro-batch, up to the recipe's own, that divides the batch and its shares.

    A share that is smaller is one micro-batch.
    """
    largest = base.get("micro_batch_size")
    batch_size = fields.get("batch_size", base["batch_size"])
    if largest is None or not isinstance(batch_size, int):
        return {}
    # Shares that are not equal are an error of the batch.
    share = batch_size if batch_size % num_workers else batch_size // num_workers
    fitting = (
        n for n in range(largest, 0, -1) if batch_size % n == 0 and (n > share or share % n == 0)
    )
    return {"micro_batch_size": next(fitting)}


def _adapt_warmup(base: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    """The end of the recipe's own warm-up, where a written field does not permit it."""
    ends = {"warmup_until_error", "warmup_iterations"}
    if "warmup_learning_rate" in fields and fields["warmup_learning_rate"] is None:
        return dict.fromkeys(ends)
    written = {name for name in ends if fields.get(name) is not None}
    if written:
        return dict.fromkeys(ends - written)
    schedule, iterations = fields.get("schedule"), fields.get("iterations", base["iterations"])
    is_decay = isinstance(schedule, str) and schedule in _DECAY_CURVES
    if not is_decay or base.get("warmup_until_error") is None or not isinstance(iterations, int):
        return {}
    length = round(iterations * _WARMUP_SHARE)
    changed = {"warmup_until_error": None, "warmup_iterations": length or None}
    return changed if length > 0 else changed | {"warmup_learning_rate": None}


def _rescale(base: dict[str, Any], iterations: int) -> dict[str, Any]:
    """Milestones and warm-up for a run of this length."""
    scale = iterations / base["iterations"]
    scaled: dict[str, Any] = {}
    if "milestones" in base:
        scaled["milestones"] = tuple(
            sorted({max(1, round(milestone * scale)) for milestone in base["milestones"]})
        )
    if base.get("warmup_iterations") is not None:
        length = min(round(base["warmup_iterations"] * scale), iterations - 1)
        scaled["warmup_iterations"] = length if length > 0 else None
        scaled["warmup_learning_rate"] = base["warmup_learning_rate"] if length > 0 else None
    return scaled
