"""The spec of a job: what users write, with defaults filled in by validation."""

import re
from dataclasses import fields
from enum import StrEnum
from typing import Annotated, Any

from pydantic import (
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from service import ids
from service.catalog import architectures, datasets, recipes
from service.catalog.architectures import (
    FORM_PARAMETERS,
    PLAIN_ORDERS,
    ZERO_INIT_ORDERS,
    ActivationOrder,
    Architecture,
    Block,
    Family,
    Shortcut,
    ShortcutForm,
    Stem,
    StrideAt,
    ZeroPadding,
)
from service.catalog.datasets import DatasetOrigin
from service.catalog.recipes import Precision, Recipe
from service.specs import analysis_spec, dataset_fit
from service.specs.analysis_spec import AnalysisSpec
from service.specs.base import MAX_ID_LENGTH, MAX_NAME_LENGTH, JobId, Name, Seed, Spec
from service.specs.labels import Tags
from service.specs.model_reference import ModelReference
from service.specs.validation import validate
from service.states import DependencyCondition
from service.text import format_nearest

_BATCH_INDEX = re.compile(r"#(0|[1-9][0-9]{0,3})")
# Powers of two: their sums are exact, and equal fractions fill a GPU without a rest.
_GPU_FRACTIONS = (0.5, 0.25, 0.125, 0.0625)
# Used while an invalid field keeps the real value from being known.
_ANY_DEPTH = 20

Priority = Annotated[int, Field(strict=True, ge=0, le=100)]
WorkerCount = Annotated[int, Field(strict=True, ge=1, le=1024)]


class WorkerRange(Spec):
    """Bounds of the number of workers of an elastic job."""

    min: WorkerCount
    """The job waits until it can start with as many."""
    max: WorkerCount
    """The job takes up to as many where they are free."""

    @field_validator("max")
    @classmethod
    def _check_max(cls, largest: int, info: ValidationInfo) -> int:
        if largest < info.data.get("min", 1):
            raise ValueError(f"must be at least min ({info.data['min']})")
        return largest


def _tag_num_workers(value: Any) -> str:
    return "range" if isinstance(value, dict | WorkerRange) else "count"


class Resources(Spec):
    """Resources that each attempt of the job reserves on the cluster.

    Jobs with a fraction of a GPU share it and its memory.
    """

    num_workers: Annotated[
        Annotated[WorkerCount, Tag("count")] | Annotated[WorkerRange, Tag("range")],
        Discriminator(_tag_num_workers),
    ] = 1
    """Training processes (DDP ranks). `{"min": 1, "max": 8}`: an elastic job, whose attempts have
    as many as are free, of those counts that share the batch equally."""
    cpus_per_worker: Annotated[int, Field(strict=True, ge=1, le=256)] = 1
    """CPUs of each worker; it runs as many threads."""
    gpus_per_worker: Annotated[float, Field(strict=True, ge=0, le=1)] | None = None
    """0, 1, or 0.5, 0.25, 0.125, 0.0625 of a GPU. Null: 1 if the cluster has GPUs, else 0."""

    @field_validator("gpus_per_worker")
    @classmethod
    def _check_gpu_fraction(cls, gpus: float | None, info: ValidationInfo) -> float | None:
        if gpus not in {None, 0.0, 1.0, *_GPU_FRACTIONS}:
            fractions = ", ".join(f"{fraction:g}" for fraction in _GPU_FRACTIONS)
            raise ValueError(f"must be 0, 1, or a fraction of a GPU: {fractions}")
        if gpus in _GPU_FRACTIONS and _bounds_of(info.data.get("num_workers", 1))[1] > 1:
            raise ValueError("must be 0 or 1 with several workers: workers cannot share a GPU")
        return gpus

    @field_validator("num_workers")
    @classmethod
    def _simplify_num_workers(cls, num_workers: int | WorkerRange) -> int | WorkerRange:
        """A range of one number is that number."""
        smallest, largest = _bounds_of(num_workers)
        return largest if smallest == largest else num_workers

    @property
    def max_workers(self) -> int:
        return _bounds_of(self.num_workers)[1]

    @property
    def is_elastic(self) -> bool:
        return isinstance(self.num_workers, WorkerRange)


def _bounds_of(num_workers: int | WorkerRange) -> tuple[int, int]:
    if isinstance(num_workers, WorkerRange):
        return num_workers.min, num_workers.max
    return num_workers, num_workers


class Dependency(Spec):
    """A job that must end first."""

    job: JobId
    """Id of the job; in a batch, `#0` is the first job."""
    condition: DependencyCondition = DependencyCondition.OK
    """`ok`: the job must succeed. `any`: it must end."""

    @model_validator(mode="before")
    @classmethod
    def _accept_id(cls, written: Any) -> Any:
        return {"job": written} if isinstance(written, str) else written

    @field_validator("job")
    @classmethod
    def _check_job(cls, job: str) -> str:
        if not (_BATCH_INDEX.fullmatch(job) or ids.is_id(job)):
            raise ValueError("must be a job id, or #0, #1, ... in a batch")
        return job

    @property
    def batch_index(self) -> int | None:
        """Index of the job in its batch; None if `job` is an id."""
        return int(self.job[1:]) if self.job.startswith("#") else None


class StartMode(StrEnum):
    """What a job takes from the checkpoint that it starts from."""

    CONTINUE = "continue"  # everything: the training resumes
    WEIGHTS = "weights"  # the weights; the schedule starts from iteration 0
    FINE_TUNE = "fine-tune"  # the weights but the classifier's, for other classes
    DEEPEN = "deepen"  # the weights of a shallower network; added blocks are identities


class StartFrom(Spec):
    """A checkpoint of another job, a registered model, or a file of published weights."""

    job: JobId | None = None
    """Id of the other job."""
    model: ModelReference | None = None
    """`NAME@ALIAS`, `NAME@NUMBER` or `NAME` of a registered model. At the submission it is replaced
    by the job and the checkpoint of that version."""
    weights: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")] | None = None
    """Name of a file in the directory `weights` of the data directory: torchvision's, a CIFAR
    checkpoint like akamaster's, or weights of this service."""
    checkpoint: Annotated[str, Field(min_length=1, max_length=MAX_ID_LENGTH)] = "newest"
    """`newest`, `best` (by `recipe.select_by` of the job), or the id of a checkpoint. Of a job in
    `after`, the one that is the newest or the best when that job has ended."""
    mode: Annotated[StartMode, Field(default_factory=lambda data: _default_start_mode(data))]  # noqa: PLW0108
    """What is taken: the run, the weights, the weights without the classifier's, or a shallower
    network's weights. By default of a job the run, else the weights without the classifier's."""

    @model_validator(mode="after")
    def _check_source(self) -> "StartFrom":
        if [self.job, self.model, self.weights].count(None) != 2:  # noqa: PLR2004 - all but one
            raise ValueError("needs either job, model or weights")
        if self.model is not None and "checkpoint" in self.model_fields_set:
            raise ValueError("needs no checkpoint with model: a version of it is a checkpoint")
        modes = (StartMode.WEIGHTS, StartMode.FINE_TUNE)
        if self.weights is not None and self.mode not in modes:
            raise ValueError(
                f"mode must be {' or '.join(modes)} with weights, received {self.mode}"
            )
        return self


class Retention(Spec):
    """A checkpoint is deleted if no rule keeps it; the newest is never deleted."""

    keep_best: Annotated[int, Field(strict=True, ge=0, le=100)] = 1
    """Number of checkpoints with the lowest error of `recipe.select_by` to keep."""
    keep_newest: Annotated[int, Field(strict=True, ge=1, le=100)] = 1
    """Number of newest checkpoints to keep."""
    keep_every: Annotated[int, Field(strict=True, ge=1)] | None = None
    """Keep the checkpoints of the multiples of this iteration."""


class JobSpec(Spec):
    """A network to train; only `depth`, `shortcut` and `dataset` are required.

    Validation fills in all other fields, so a stored spec does not change with later defaults.
    """

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"depth": 20, "shortcut": "A", "dataset": "cifar10"}]}
    )

    # Validated in this order: a validator can read the fields above its own.
    dataset: Annotated[str, Field(max_length=120)]
    """A name of `resnetd dataset list`, or `folder:NAME`."""
    family: Family
    """Default: follows from the dataset and depth."""
    block: Block
    """Default: follows from the family and depth."""
    depth: Annotated[int, Field(strict=True)]
    """Number of weighted layers, as in the paper."""
    shortcut: Shortcut
    """`A`, `B` or `C` of the paper; `none`: a plain network."""
    stem: Stem
    """First layers; write `cifar` for ImageNet depths on small images. Default: by family."""
    shortcut_form: ShortcutForm = ShortcutForm.IDENTITY
    """What a block does with its shortcut before the addition (He et al. 2016, Table 1).

    Table 1's 1x1 convolution is shortcut `C`.
    """
    shortcut_scale: Annotated[
        float | None,
        Field(ge=0, le=10, default_factory=lambda data: _default_parameter(data, "shortcut_scale")),
    ]
    """Form `constant-scaling`: factor of the shortcut, 0.5 by default."""
    residual_scale: Annotated[
        float | None,
        Field(gt=0, le=10, default_factory=lambda data: _default_parameter(data, "residual_scale")),
    ]
    """Form `constant-scaling`: factor of the residual branch, 0.5 by default."""
    gate_bias: Annotated[
        float | None,
        Field(ge=-100, le=100, default_factory=lambda data: _default_parameter(data, "gate_bias")),
    ]
    """Forms with gating: initial bias of the gate, -6 by default; it starts near sigmoid(bias)."""
    dropout_rate: Annotated[
        float | None,
        Field(gt=0, lt=1, default_factory=lambda data: _default_parameter(data, "dropout_rate")),
    ]
    """Form `dropout`: share of the shortcut's values that a step sets to 0; 0.5 by default."""
    activation_order: ActivationOrder = ActivationOrder.ORIGINAL
    """Where a block normalizes and activates (He et al. 2016, Table 2)."""
    survival: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Stochastic depth (Huang et al. 2016): probability that a step keeps the last residual branch.

    It falls linearly from 1 with the depth. 1: all branches are kept.
    """
    stride_at: StrideAt = StrideAt.CONV_1X1
    """Convolution of a bottleneck that halves the map: `1x1` (paper), `3x3` (torchvision)."""
    zero_padding: ZeroPadding = ZeroPadding.END
    """Where option A puts its zero channels: `end` (paper) or `both` sides."""
    zero_init_residual: Annotated[bool, Field(strict=True)] = False
    """Initialize the last batch norm of each residual branch with scale 0."""
    resources: Resources = Resources()
    """Workers, CPUs and GPUs."""
    recipe: Annotated[
        Recipe,
        Field(validate_default=True, default_factory=lambda data: _default_recipe(data)),  # noqa: PLW0108
    ]
    """Name of a recipe, or an object with `name` and changed fields."""
    seed: Seed = 0
    """Seed of the weights, the order of the images and their augmentation."""
    priority: Priority = 50
    """Higher values start first."""
    preemptible: bool = False
    """A job with a higher priority may preempt this one."""
    hold: bool = False
    """Keep the job from starting until it is released."""
    after: Annotated[tuple[Dependency, ...], Field(max_length=100)] = ()
    """Jobs that must end first; an id is short for `{"job": id, "condition": "ok"}`."""
    start_from: StartFrom | None = None
    """A checkpoint of another job to start from."""
    analysis: AnalysisSpec | None = None
    """What to compute from the checkpoint of `start_from`; null: the job trains."""
    retention: Retention = Retention()
    """Which checkpoints are kept."""
    max_restarts: Annotated[int, Field(strict=True, ge=0, le=100)] = 2
    """Number of attempts that may fail by the user's fault before the job fails."""
    time_limit_minutes: Annotated[float, Field(gt=0, le=60 * 24 * 90)] = 60 * 24
    """Training time over all attempts after which the job is stopped."""
    name: Annotated[Name, Field(default_factory=lambda data: _default_name(data))]  # noqa: PLW0108
    """Display name. Default: network and dataset."""
    tags: Tags = ()
    """Words to filter by: letters, digits and `_.:/-`, at most 63 characters each."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in_network(cls, written: Any) -> Any:
        """Derives family, block and stem from dataset and depth if they are not given."""
        if not isinstance(written, dict):
            return written
        dataset = datasets.find_dataset(str(written.get("dataset")))
        given_depth = written.get("depth")
        depth = given_depth if isinstance(given_depth, int) else _ANY_DEPTH
        filled = {name: value for name, value in written.items() if value is not None}
        filled.setdefault("family", _default_family(dataset, depth))
        if isinstance(filled["family"], str) and filled["family"] in set(Family):
            family = Family(filled["family"])
            filled.setdefault("block", architectures.get_default_block(family, depth))
            filled.setdefault("stem", architectures.get_default_stem(family))
        else:  # The family is reported as invalid; these must not be reported as missing.
            filled = {"block": Block.BASIC, "stem": Stem.CIFAR} | filled
        return filled

    @field_validator("dataset")
    @classmethod
    def _check_dataset(cls, name: str) -> str:
        if datasets.find_dataset(name) is None:
            known = ", ".join(sorted(datasets.DATASETS))
            raise ValueError(
                f"must be one of {known}, or folder:NAME for an image folder"
                f"{format_nearest(name, datasets.DATASETS)}"
            )
        return name

    @field_validator("depth")
    @classmethod
    def _check_depth(cls, depth: int, info: ValidationInfo) -> int:
        family, block = info.data.get("family"), info.data.get("block")
        if family is None or block is None or architectures.depth_exists(family, depth, block):
            return depth
        rule = architectures.describe_depths(family, depth, block)
        nearest = architectures.find_nearest_depths(family, depth, block)
        kind = f"{family} bottleneck" if block is Block.BOTTLENECK else str(family)
        raise ValueError(
            f"must be {rule} for a {kind} network; nearest: {' and '.join(map(str, nearest))}"
        )

    @field_validator("shortcut")
    @classmethod
    def _check_shortcut(cls, shortcut: Shortcut, info: ValidationInfo) -> Shortcut:
        if _is_vgg(info) and shortcut is not Shortcut.NONE:
            raise ValueError(f"must be {Shortcut.NONE} for a VGG network")
        return shortcut

    @field_validator("stem")
    @classmethod
    def _check_stem(cls, stem: Stem, info: ValidationInfo) -> Stem:
        family = info.data.get("family", Family.IMAGENET)
        default = architectures.get_default_stem(family)
        if family is not Family.IMAGENET and stem is not default:
            raise ValueError(f"must be {default} in family {family}")
        return stem

    @field_validator("shortcut_form")
    @classmethod
    def _check_shortcut_form(cls, form: ShortcutForm, info: ValidationInfo) -> ShortcutForm:
        if form is not ShortcutForm.IDENTITY and info.data.get("shortcut") is Shortcut.NONE:
            raise ValueError(f"must be {ShortcutForm.IDENTITY} for a network without shortcuts")
        return form

    @field_validator("shortcut_scale", "residual_scale", "gate_bias", "dropout_rate")
    @classmethod
    def _check_form_parameter(cls, value: float | None, info: ValidationInfo) -> float | None:
        form = info.data.get("shortcut_form")
        if value is None or form is None or info.field_name in FORM_PARAMETERS[form]:
            return value
        forms = [other for other, names in FORM_PARAMETERS.items() if info.field_name in names]
        raise ValueError(
            f"must be null with shortcut_form {form}: only {' and '.join(forms)} use it"
        )

    @field_validator("activation_order")
    @classmethod
    def _check_activation_order(
        cls, order: ActivationOrder, info: ValidationInfo
    ) -> ActivationOrder:
        if order is not ActivationOrder.ORIGINAL and _is_vgg(info):
            raise ValueError(f"must be {ActivationOrder.ORIGINAL} for a VGG network")
        if order not in PLAIN_ORDERS and info.data.get("shortcut") is Shortcut.NONE:
            raise ValueError(
                f"must be {' or '.join(PLAIN_ORDERS)} for a plain network: without an addition "
                f"{order} computes the same as {ActivationOrder.ORIGINAL}"
            )
        return order

    @field_validator("survival")
    @classmethod
    def _check_survival(cls, survival: float, info: ValidationInfo) -> float:
        if survival < 1 and info.data.get("shortcut") is Shortcut.NONE:
            raise ValueError("must be 1 for a network without shortcuts: each layer is needed")
        return survival

    @field_validator("zero_init_residual")
    @classmethod
    def _check_zero_init_residual(cls, zero_init_residual: bool, info: ValidationInfo) -> bool:
        is_plain = info.data.get("shortcut") is Shortcut.NONE
        order = info.data.get("activation_order", ActivationOrder.ORIGINAL)
        if zero_init_residual and (is_plain or order not in ZERO_INIT_ORDERS):
            raise ValueError(
                "must be false unless residual branches end in batch norm: with a shortcut and "
                f"activation_order {' or '.join(ZERO_INIT_ORDERS)}"
            )
        return zero_init_residual

    @field_validator("recipe", mode="before")
    @classmethod
    def _resolve_recipe(cls, written: Any, info: ValidationInfo) -> Any:
        if not isinstance(written, str | dict):
            return written
        family = info.data.get("family", Family.CIFAR)
        if isinstance(written, dict) and "name" not in written:
            written = {"name": _find_default_recipe(info.data)} | written
        return recipes.resolve_recipe(
            written,
            family=family,
            depth=info.data.get("depth", _ANY_DEPTH),
            num_workers=info.data.get("resources", Resources()).max_workers,
        )

    @field_validator("recipe")
    @classmethod
    def _check_recipe(cls, recipe: Recipe, info: ValidationInfo) -> Recipe:
        resources: Resources | None = info.data.get("resources")
        counts: list[int] = []
        if resources is not None:
            counts = _list_equal_shares(recipe, resources)
        dataset = datasets.find_dataset(info.data.get("dataset", ""))
        network = _find_architecture(info.data)
        if dataset is None or network is None:
            return recipe
        problem = dataset_fit.find_recipe_problem(recipe, dataset, network)
        if problem is None and counts:
            # The fewest workers have the most images each.
            problem = dataset_fit.find_batch_norm_problem(
                recipe, dataset, network, num_workers=counts[0]
            )
        if problem is not None:
            raise ValueError(problem)
        return recipe

    @field_validator("after")
    @classmethod
    def _check_after(cls, after: tuple[Dependency, ...]) -> tuple[Dependency, ...]:
        jobs = [dependency.job for dependency in after]
        repeated = sorted({job for job in jobs if jobs.count(job) > 1})
        if repeated:
            raise ValueError(f"must name a job once, received twice: {', '.join(repeated)}")
        return after

    @field_validator("analysis")
    @classmethod
    def _check_analysis(
        cls, analysis: AnalysisSpec | None, info: ValidationInfo
    ) -> AnalysisSpec | None:
        if analysis is None:
            return None
        if "start_from" in info.data:
            start: StartFrom | None = info.data["start_from"]
            if start is None or start.job is None or start.mode is not StartMode.WEIGHTS:
                raise ValueError(f"needs start_from with a job and mode {StartMode.WEIGHTS}")
        resources: Resources | None = info.data.get("resources")
        if resources is not None and resources.max_workers > 1:
            raise ValueError(
                f"needs resources.num_workers 1, received {_format_workers(resources)}: an "
                "analysis is not divided among workers"
            )
        recipe: Recipe | None = info.data.get("recipe")
        network = _find_architecture(info.data)
        if recipe is None or network is None:
            return analysis
        problem = analysis_spec.find_analysis_problem(analysis, recipe, network)
        if problem is not None:
            raise ValueError(problem)
        return analysis

    @property
    def starts_at_end(self) -> bool:
        """Whether its checkpoint is chosen when a job of `after` has ended."""
        start = self.start_from
        if start is None or start.checkpoint not in {"newest", "best"}:
            return False
        return any(dependency.job == start.job for dependency in self.after)

    @property
    def worker_counts(self) -> tuple[int, ...]:
        """With how many workers it may run, ascending: one, or several of an elastic job."""
        counts = _list_equal_shares(self.recipe, self.resources)
        dataset = datasets.find_dataset(self.dataset)
        if len(counts) > 1 and dataset is not None:
            counts = [
                count
                for count in counts
                if dataset_fit.find_batch_norm_problem(
                    self.recipe, dataset, self.architecture, num_workers=count
                )
                is None
            ]
        return tuple(counts)

    @property
    def kind(self) -> str:
        """`training`, or the kind of the analysis."""
        return analysis_spec.TRAINING if self.analysis is None else self.analysis.kind

    @property
    def architecture(self) -> Architecture:
        return Architecture(
            **{field.name: getattr(self, field.name) for field in fields(Architecture)}
        )

    @property
    def network(self) -> str:
        """The network's name in the paper: plain-20, resnet-20-A."""
        return self.architecture.label

    @property
    def default_name(self) -> str:
        return _format_name(self.architecture, self.dataset, self.analysis)


def parse_job_spec(written: Any) -> JobSpec:
    """The spec of decoded JSON. InvalidInput with one field error per invalid field."""
    return validate(JobSpec, written, message="the job's spec is not valid")


def _list_equal_shares(recipe: Recipe, resources: Resources) -> list[int]:
    """The numbers of workers that can share the batch, ascending.

    ValueError where there is none, or where the workers' device does not have the precision.
    """
    if recipe.precision is Precision.TF32 and resources.gpus_per_worker == 0:
        raise ValueError("precision tf32 needs a GPU, and resources.gpus_per_worker is 0")
    smallest, largest = _bounds_of(resources.num_workers)
    dividing = [n for n in range(smallest, largest + 1) if recipe.batch_size % n == 0]
    if not dividing:
        raise ValueError(
            "batch_size must be a multiple of resources.num_workers "
            f"({_format_workers(resources)}), received {recipe.batch_size}"
        )
    counts = [n for n in dividing if _is_share_divisible(recipe, recipe.batch_size // n)]
    if not counts:
        share = recipe.batch_size // dividing[-1]
        raise ValueError(
            f"micro_batch_size must divide each worker's share of the batch ({share}), "
            f"received {min(recipe.micro_batch_size or share, share)}"
        )
    return counts


def _is_share_divisible(recipe: Recipe, share: int) -> bool:
    return share % min(recipe.micro_batch_size or share, share) == 0


def _format_workers(resources: Resources) -> str:
    smallest, largest = _bounds_of(resources.num_workers)
    return f"{smallest} to {largest}" if resources.is_elastic else str(largest)


def _default_start_mode(validated: dict[str, Any]) -> StartMode:
    return StartMode.FINE_TUNE if validated.get("job") is None else StartMode.CONTINUE


def _default_family(dataset: datasets.Dataset | None, depth: int) -> Family:
    """ImageNet for image folders, CIFAR for other datasets, unless only the other has the depth.

    Depths 50, 152 and 200 exist in both.
    """
    is_folder = dataset is not None and dataset.origin is DatasetOrigin.FOLDER
    preferred, other = (
        (Family.IMAGENET, Family.CIFAR) if is_folder else (Family.CIFAR, Family.IMAGENET)
    )
    has_depth = architectures.depth_exists
    return other if has_depth(other, depth) and not has_depth(preferred, depth) else preferred


def _is_vgg(info: ValidationInfo) -> bool:
    family: Family | None = info.data.get("family")
    return family is not None and family.is_vgg


def _default_parameter(validated: dict[str, Any], parameter: str) -> float | None:
    """The default of a parameter of the shortcut's form; None where the form has none such."""
    form = validated.get("shortcut_form", ShortcutForm.IDENTITY)
    return FORM_PARAMETERS[form].get(parameter)


def _default_recipe(validated: dict[str, Any]) -> Recipe:
    return recipes.build_recipe(
        _find_default_recipe(validated),
        family=validated.get("family", Family.CIFAR),
        depth=validated.get("depth", _ANY_DEPTH),
        num_workers=validated.get("resources", Resources()).max_workers,
    )


def _find_default_recipe(validated: dict[str, Any]) -> str:
    dataset = datasets.find_dataset(validated.get("dataset", "digits"))
    assert dataset is not None, "validated before"
    return dataset.choose_recipe(validated.get("stem", Stem.CIFAR))


def _default_name(validated: dict[str, Any]) -> str:
    network = _find_architecture(validated)
    if network is None or "dataset" not in validated:
        return "unnamed"
    return _format_name(network, validated["dataset"], validated.get("analysis"))


def _format_name(network: Architecture, dataset: str, analysis: AnalysisSpec | None) -> str:
    analysed = "" if analysis is None else f"{analysis.kind.replace('-', ' ')} of "
    return f"{analysed}{network.label} on {dataset}"[:MAX_NAME_LENGTH]


def _find_architecture(validated: dict[str, Any]) -> Architecture | None:
    """None if one of its fields is invalid."""
    names = [field.name for field in fields(Architecture)]
    if not validated.keys() >= set(names):
        return None
    return Architecture(**{name: validated[name] for name in names})
