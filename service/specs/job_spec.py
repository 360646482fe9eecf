"""What people write: the spec of a job. Frozen, closed, and whole once it is validated."""

import re
from dataclasses import fields
from enum import StrEnum
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from service import ids
from service.catalog import architectures, datasets, recipes
from service.catalog.architectures import (
    Architecture,
    Block,
    Family,
    Shortcut,
    Stem,
    StrideAt,
    ZeroPadding,
)
from service.catalog.datasets import DatasetOrigin
from service.catalog.recipes import Crop, Recipe
from service.errors import InvalidInput
from service.specs.validation import to_field_errors
from service.states import DependencyCondition

# PostgreSQL keeps no NUL in a text, and no name needs another control character.
_NO_CONTROL_CHARACTERS = r"^[^\x00-\x1f\x7f]*$"
_VGG = frozenset({Family.VGG, Family.VGG_BN})
_BATCH_INDEX = re.compile(r"#(0|[1-9][0-9]{0,3})")
_GPU_FRACTIONS = (0.5, 0.25, 0.125, 0.0625)
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/-]{0,62}")


# Higher goes first.
Priority = Annotated[int, Field(strict=True, ge=0, le=100)]


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Resources(_Spec):
    """What each attempt of the job occupies on the cluster.

    `gpus_per_worker` None: one where the cluster has GPUs, else none; a part of one is shared with
    other jobs, and memory with it.
    """

    num_workers: Annotated[int, Field(strict=True, ge=1, le=1024)] = 1
    cpus_per_worker: Annotated[int, Field(strict=True, ge=1, le=256)] = 1
    gpus_per_worker: Annotated[float, Field(strict=True, ge=0, le=1)] | None = None

    @field_validator("gpus_per_worker")
    @classmethod
    def _is_a_part_that_adds_up(cls, gpus: float | None, info: ValidationInfo) -> float | None:
        """Halves of halves: sums of them are exact, and equal ones leave no gap on a GPU."""
        if gpus not in {None, 0.0, 1.0, *_GPU_FRACTIONS}:
            parts = ", ".join(f"{part:g}" for part in _GPU_FRACTIONS)
            raise ValueError(f"is 0, 1, or a part of a GPU: {parts}")
        if gpus in _GPU_FRACTIONS and info.data.get("num_workers", 1) > 1:
            raise ValueError("workers of one job cannot share a GPU: a part goes with one worker")
        return gpus


class Dependency(_Spec):
    """A job that must have ended before; in a batch `#0` is its first job.

    An id alone stands for `{"job": id, "condition": "ok"}`.
    """

    job: Annotated[str, Field(min_length=1, max_length=16)]
    condition: DependencyCondition = DependencyCondition.OK

    @model_validator(mode="before")
    @classmethod
    def _from_an_id(cls, written: Any) -> Any:
        return {"job": written} if isinstance(written, str) else written

    @field_validator("job")
    @classmethod
    def _could_be_a_job(cls, job: str) -> str:
        if not (_BATCH_INDEX.fullmatch(job) or ids.is_id(job)):
            raise ValueError(f"is a job's id, or #0, #1, ... in a batch, received {job!r}")
        return job

    @property
    def place_in_batch(self) -> int | None:
        """None where the job is named by its id."""
        return int(self.job[1:]) if self.job.startswith("#") else None


class StartMode(StrEnum):
    """What is taken over from the checkpoint that a job starts from."""

    CONTINUE = "continue"  # everything: the run goes on where it was
    WEIGHTS = "weights"  # the network's weights; the schedule begins anew
    DEEPEN = "deepen"  # a shallower network's, with identities for the layers between


class StartFrom(_Spec):
    """Another job's checkpoint: `best`, `newest`, or its id."""

    job: Annotated[str, Field(min_length=1, max_length=16)]
    checkpoint: Annotated[str, Field(min_length=1, max_length=16)] = "newest"
    mode: StartMode = StartMode.CONTINUE


class Retention(_Spec):
    """Which checkpoints stay: so many of the best and of the newest, and those of every so many
    iterations. What one rule keeps, no other removes; the newest always stays.
    """

    keep_best: Annotated[int, Field(strict=True, ge=0, le=100)] = 1
    keep_newest: Annotated[int, Field(strict=True, ge=1, le=100)] = 1
    keep_every: Annotated[int, Field(strict=True, ge=1)] | None = None


class JobSpec(_Spec):
    """One network to train. `depth`, `shortcut` and `dataset` are enough to write.

    Validation fills in the rest, so that a saved spec says everything about its run and reads
    the same after the defaults have changed.
    """

    # Fields are validated in this order; each may look at those above it.
    dataset: Annotated[str, Field(max_length=120)]
    family: Family
    block: Block
    depth: Annotated[int, Field(strict=True)]
    shortcut: Shortcut
    stem: Stem
    preactivation: Annotated[bool, Field(strict=True)] = False
    stride_at: StrideAt = StrideAt.CONV_1X1
    zero_padding: ZeroPadding = ZeroPadding.END
    zero_init_residual: Annotated[bool, Field(strict=True)] = False
    recipe: Annotated[Recipe, Field(default_factory=lambda data: _default_recipe(data))]  # noqa: PLW0108
    resources: Resources = Resources()
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**31)] = 0
    priority: Priority = 50
    preemptible: bool = False
    hold: bool = False
    after: Annotated[tuple[Dependency, ...], Field(max_length=100)] = ()
    start_from: StartFrom | None = None
    retention: Retention = Retention()
    max_restarts: Annotated[int, Field(strict=True, ge=0, le=100)] = 2
    time_limit_minutes: Annotated[float, Field(gt=0, le=60 * 24 * 90)] = 60 * 24
    name: Annotated[
        str,
        Field(
            min_length=1,
            max_length=120,
            pattern=_NO_CONTROL_CHARACTERS,
            default_factory=lambda data: _default_name(data),  # noqa: PLW0108
        ),
    ]
    tags: Annotated[tuple[str, ...], Field(max_length=20)] = ()

    @model_validator(mode="before")
    @classmethod
    def _fill_in_the_network(cls, written: Any) -> Any:
        """Family, block and stem follow from the data and the depth where they are not written."""
        if not isinstance(written, dict):
            return written
        dataset = datasets.find_dataset(str(written.get("dataset")))
        given = written.get("depth")
        depth = given if isinstance(given, int) else 20  # its own fault is told
        whole = {name: value for name, value in written.items() if value is not None}
        whole.setdefault("family", _default_family(dataset, depth))
        if isinstance(whole["family"], str) and whole["family"] in set(Family):
            family = Family(whole["family"])
            whole.setdefault("block", architectures.get_default_block(family, depth))
            whole.setdefault("stem", architectures.get_default_stem(family))
        else:  # likewise; these two must not be missing beside it
            whole = {"block": Block.BASIC, "stem": Stem.CIFAR} | whole
        return whole

    @field_validator("dataset")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if datasets.find_dataset(name) is None:
            raise PydanticCustomError(
                "dataset-unknown",
                "no data set {name}; there are {known}, and folder:NAME for an image folder",
                {"name": repr(name), "known": ", ".join(sorted(datasets.DATASETS))},
            )
        return name

    @field_validator("depth")
    @classmethod
    def _exists(cls, depth: int, info: ValidationInfo) -> int:
        family, block = info.data.get("family"), info.data.get("block")
        if family is None or block is None or architectures.depth_exists(family, depth, block):
            return depth
        nearest = architectures.find_nearest_depths(family, depth, block)
        kind = f"{family} bottleneck" if block is Block.BOTTLENECK else str(family)
        raise PydanticCustomError(
            "depth-unknown",
            "no {kind} network has {depth} layers: the depth is {rule}; the nearest are {nearest}",
            {
                "kind": kind,
                "depth": depth,
                "rule": architectures.describe_depths(family, depth, block),
                "nearest": " and ".join(str(near) for near in nearest) or "none",
            },
        )

    @field_validator("shortcut")
    @classmethod
    def _suits_the_family(cls, shortcut: Shortcut, info: ValidationInfo) -> Shortcut:
        if info.data.get("family") in _VGG and shortcut is not Shortcut.NONE:
            raise ValueError("a vgg network has no shortcuts: only none is possible")
        return shortcut

    @field_validator("stem")
    @classmethod
    def _leaves_the_thin_network_its_stem(cls, stem: Stem, info: ValidationInfo) -> Stem:
        family = info.data.get("family", Family.IMAGENET)
        if family is not Family.IMAGENET and stem is not architectures.get_default_stem(family):
            raise ValueError("the stem can be chosen in the imagenet family only")
        return stem

    @field_validator("preactivation")
    @classmethod
    def _is_residual(cls, preactivation: bool, info: ValidationInfo) -> bool:
        if preactivation and info.data.get("family") in _VGG:
            raise ValueError("a vgg network cannot be pre-activated")
        return preactivation

    @field_validator("zero_init_residual")
    @classmethod
    def _silences_a_branch(cls, zero_init_residual: bool, info: ValidationInfo) -> bool:
        is_plain = info.data.get("shortcut") is Shortcut.NONE
        if zero_init_residual and (is_plain or info.data.get("preactivation", False)):
            raise ValueError(
                "zero_init_residual sets the last scale of a residual branch to 0: a plain or "
                "pre-activated network has none"
            )
        return zero_init_residual

    @field_validator("recipe", mode="before")
    @classmethod
    def _resolve(cls, written: Any, info: ValidationInfo) -> Any:
        if not isinstance(written, str | dict):
            return written
        family = info.data.get("family", Family.CIFAR)
        if isinstance(written, dict) and "name" not in written:
            dataset = datasets.find_dataset(info.data.get("dataset", "digits"))
            assert dataset is not None, "validated before"
            written = {"name": dataset.default_recipe} | written
        return recipes.resolve_recipe(written, family=family, depth=info.data.get("depth", 20))

    @field_validator("recipe")
    @classmethod
    def _has_photographs(cls, recipe: Recipe, info: ValidationInfo) -> Recipe:
        dataset = datasets.find_dataset(info.data.get("dataset", ""))
        is_streamed = recipe.crop is not Crop.PAD_CROP
        if is_streamed and dataset is not None and dataset.origin is not DatasetOrigin.FOLDER:
            raise ValueError(
                f"crop {recipe.crop} is cut from photographs in a folder; {dataset.name} is "
                "trained on with crop padded"
            )
        return recipe

    @field_validator("resources")
    @classmethod
    def _divides_the_batch(cls, resources: Resources, info: ValidationInfo) -> Resources:
        recipe = info.data.get("recipe")
        if recipe is None:
            return resources
        if recipe.batch_size % resources.num_workers != 0:
            raise PydanticCustomError(
                "batch-indivisible",
                "a global batch of {batch_size} cannot be shared equally by {num_workers} workers",
                {"batch_size": recipe.batch_size, "num_workers": resources.num_workers},
            )
        share = recipe.batch_size // resources.num_workers
        micro_batch_size = min(recipe.micro_batch_size or share, share)
        if share % micro_batch_size != 0:
            raise PydanticCustomError(
                "batch-indivisible",
                "each worker's {share} images do not divide into micro-batches of "
                "{micro_batch_size}",
                {"share": share, "micro_batch_size": micro_batch_size},
            )
        return resources

    @field_validator("after")
    @classmethod
    def _names_each_once(cls, after: tuple[Dependency, ...]) -> tuple[Dependency, ...]:
        named = [one.job for one in after]
        twice = sorted({job for job in named if named.count(job) > 1})
        if twice:
            raise ValueError(f"names {', '.join(twice)} more than once")
        return after

    @field_validator("tags")
    @classmethod
    def _are_words(cls, tags: tuple[str, ...]) -> tuple[str, ...]:
        for tag in tags:
            if not _TAG.fullmatch(tag):
                raise ValueError(
                    f"a tag is 1 to 63 letters, digits or any of _.:/-, received {tag!r}"
                )
        return tuple(dict.fromkeys(tags))

    @property
    def architecture(self) -> Architecture:
        return Architecture(
            **{field.name: getattr(self, field.name) for field in fields(Architecture)}
        )

    @property
    def network(self) -> str:
        """The paper's name of the network: plain-20, resnet-20-A."""
        return self.architecture.label


def parse_job_spec(written: Any) -> JobSpec:
    """The spec behind decoded JSON. InvalidInput with a fault for each wrong place."""
    try:
        return JobSpec.model_validate(written)
    except ValidationError as error:
        faults = to_field_errors(error.errors(include_url=False))
        raise InvalidInput("the job's spec is not valid", field_errors=faults) from error


def _default_family(dataset: datasets.Dataset | None, depth: int) -> Family:
    """Small images take the paper's CIFAR shape, image folders its ImageNet shape.

    50, 152 and 200 exist in both; a depth that exists in one only settles it.
    """
    is_folder = dataset is not None and dataset.origin is DatasetOrigin.FOLDER
    first, second = (
        (Family.IMAGENET, Family.CIFAR) if is_folder else (Family.CIFAR, Family.IMAGENET)
    )
    if architectures.depth_exists(second, depth) and not architectures.depth_exists(first, depth):
        return second
    return first


def _default_recipe(validated: dict[str, Any]) -> Recipe:
    dataset = datasets.find_dataset(validated.get("dataset", "digits"))
    assert dataset is not None
    return recipes.build_recipe(
        dataset.default_recipe,
        family=validated.get("family", Family.CIFAR),
        depth=validated.get("depth", 20),
    )


def _default_name(validated: dict[str, Any]) -> str:
    names = [field.name for field in fields(Architecture)]
    if not {"dataset", *names} <= validated.keys():
        return "unnamed"
    network = Architecture(**{name: validated[name] for name in names})
    return f"{network.label} on {validated['dataset']}"
