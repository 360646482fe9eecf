"""Job specs: defaults, round trips, and an error for each invalid field."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.catalog import architectures, datasets
from service.catalog.architectures import Family
from service.errors import FieldError, InvalidInput
from service.specs import dataset_fit
from service.specs.job_spec import JobSpec, parse_job_spec
from tests.support.core import written

_PREACT = "full-preactivation"


def _errors(**fields: Any) -> list[FieldError]:
    with pytest.raises(InvalidInput) as caught:
        parse_job_spec(written(**fields))
    return list(caught.value.field_errors)


def _error(**fields: Any) -> FieldError:
    (error,) = _errors(**fields)
    return error


def test_depth_shortcut_and_dataset_are_sufficient() -> None:
    spec = parse_job_spec({"depth": 20, "shortcut": "A", "dataset": "digits"})
    assert spec.name == "resnet-20-A on digits"
    assert spec.family is Family.CIFAR
    assert spec.recipe.iterations > 0
    assert spec.resources.num_workers == 1


depths = st.sampled_from(
    [(Family.CIFAR, 6 * n + 2) for n in range(1, 201)]
    + [(Family.IMAGENET, depth) for depth in architectures.IMAGENET_STAGES]
)


@given(
    kind=depths,
    shortcut=st.sampled_from(["none", "A", "B", "C"]),
    dataset=st.sampled_from(["digits", "cifar10", "fake", "folder:birds"]),
    seed=st.integers(0, 2**31 - 1),
    priority=st.integers(0, 100),
    minutes=st.floats(0.01, 1000),
    tags=st.lists(st.from_regex(r"[a-z0-9][a-z0-9_.:/-]{0,20}", fullmatch=True), max_size=5),
    iterations=st.integers(1, 100_000),
)
def test_a_stored_spec_is_parsed_to_the_same_spec(
    kind: tuple[Family, int],
    shortcut: str,
    dataset: str,
    seed: int,
    priority: int,
    minutes: float,
    tags: list[str],
    iterations: int,
) -> None:
    family, depth = kind
    spec = parse_job_spec(
        {
            "family": family,
            "depth": depth,
            "shortcut": shortcut,
            "dataset": dataset,
            "seed": seed,
            "priority": priority,
            "time_limit_minutes": minutes,
            "tags": tags,
            "recipe": {"name": "quick", "iterations": iterations},
        }
    )
    assert JobSpec.model_validate(spec.model_dump(mode="json")) == spec
    assert JobSpec.model_validate_json(spec.model_dump_json()) == spec


@given(depth=st.integers(-10, 2000))
def test_a_cifar_depth_is_valid_or_the_error_names_the_nearest(depth: int) -> None:
    fields = written(depth=depth, family="cifar")
    if architectures.depth_exists(Family.CIFAR, depth):
        assert parse_job_spec(fields).depth == depth
        return
    error = _error(depth=depth, family="cifar")
    assert error.pointer == "/depth"
    nearest = architectures.find_nearest_depths(Family.CIFAR, depth)
    assert all(str(near) in error.message for near in nearest)


def test_an_invalid_depth_is_explained() -> None:
    assert _error(depth=33) == FieldError(
        pointer="/depth",
        message="must be 6n+2 for a cifar network; nearest: 32 and 38; received 33",
    )


def test_bottlenecks_have_their_own_depths() -> None:
    assert _error(depth=50, dataset="cifar10", block="bottleneck").message == (
        "must be 9n+2 for a cifar bottleneck network; nearest: 47 and 56; received 50"
    )
    error = _error(depth=34, family="imagenet", block="bottleneck")
    assert "must be one of 50, 101, 152, 200" in error.message


def test_depths_164_and_1001_default_to_bottlenecks() -> None:
    assert parse_job_spec(written(depth=164, shortcut="B")).network == "resnet-164-bottleneck-B"
    assert parse_job_spec(written(depth=164, block="basic")).network == "resnet-164-A"
    spec = parse_job_spec(written(depth=1001, shortcut="B", activation_order=_PREACT))
    assert spec.network == "preact-1001-bottleneck-B"


def test_variants_default_to_the_paper() -> None:
    spec = parse_job_spec(written(depth=50, family="imagenet", shortcut="B"))
    assert (spec.stride_at, spec.zero_padding, spec.stem) == ("1x1", "end", "imagenet")
    assert spec.network == "resnet-50-B"
    chosen = parse_job_spec(written(depth=50, family="imagenet", shortcut="B", stride_at="3x3"))
    assert chosen.network == "resnet-50-B-v1.5"


@pytest.mark.parametrize(
    ("form", "network", "parameters"),
    [
        ({"shortcut_form": "identity"}, "resnet-110-A", {}),
        (
            {"shortcut_form": "constant-scaling"},
            "resnet-110-A-scaled-0.5-0.5",
            {"shortcut_scale": 0.5, "residual_scale": 0.5},
        ),
        (
            {"shortcut_form": "constant-scaling", "residual_scale": 1},
            "resnet-110-A-scaled-0.5-1",
            {"shortcut_scale": 0.5, "residual_scale": 1.0},
        ),
        (
            {"shortcut_form": "constant-scaling", "shortcut_scale": 0, "residual_scale": 1},
            "resnet-110-A-scaled-0-1",
            {"shortcut_scale": 0.0, "residual_scale": 1.0},
        ),
        (
            {"shortcut_form": "exclusive-gating", "gate_bias": -7},
            "resnet-110-A-exclusive-gating-b-7",
            {"gate_bias": -7.0},
        ),
        (
            {"shortcut_form": "exclusive-gating", "gate_bias": None},
            "resnet-110-A-exclusive-gating-b-6",
            {"gate_bias": -6.0},
        ),
        (
            {"shortcut_form": "shortcut-only-gating", "gate_bias": 0},
            "resnet-110-A-shortcut-only-gating-b0",
            {"gate_bias": 0.0},
        ),
        ({"shortcut": "C"}, "resnet-110-C", {}),
        ({"shortcut_form": "dropout"}, "resnet-110-A-dropout-0.5", {"dropout_rate": 0.5}),
    ],
)
def test_each_row_of_table_1_is_a_spec(
    form: dict[str, Any], network: str, parameters: dict[str, float]
) -> None:
    spec = parse_job_spec(written(depth=110, **form))
    assert spec.network == network
    names = ("shortcut_scale", "residual_scale", "gate_bias", "dropout_rate")
    assert spec.model_dump(include=set(names)) == dict.fromkeys(names) | parameters
    assert JobSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(
    ("order", "network"),
    [
        ("original", "resnet-110-A"),
        ("bn-after-addition", "resnet-110-A-bn-after-addition"),
        ("relu-before-addition", "resnet-110-A-relu-before-addition"),
        ("relu-only-preactivation", "resnet-110-A-relu-only-preactivation"),
        ("full-preactivation", "preact-110-A"),
    ],
)
def test_each_row_of_table_2_is_a_spec(order: str, network: str) -> None:
    spec = parse_job_spec(written(depth=110, activation_order=order, survival=0.5))
    assert spec.network == f"{network}-survival-0.5"


def test_a_parameter_of_another_form_is_refused_with_the_forms_that_have_it() -> None:
    message = _error(shortcut_form="dropout", gate_bias=-6).message
    assert message == (
        "must be null with shortcut_form dropout: only exclusive-gating and shortcut-only-gating "
        "use it; received -6"
    )


def test_an_order_that_changes_nothing_in_a_plain_network_is_refused() -> None:
    message = _error(shortcut="none", activation_order="relu-before-addition").message
    assert "without an addition relu-before-addition computes the same as original" in message


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"family": "vgg-bn", "depth": 16}, "/shortcut"),
        (
            {
                "family": "vgg",
                "depth": 16,
                "shortcut": "none",
                "activation_order": _PREACT,
            },
            "/activation_order",
        ),
        ({"stem": "imagenet"}, "/stem"),
        ({"shortcut": "none", "zero_init_residual": True}, "/zero_init_residual"),
        (
            {"activation_order": _PREACT, "zero_init_residual": True},
            "/zero_init_residual",
        ),
        (
            {"activation_order": "relu-before-addition", "zero_init_residual": True},
            "/zero_init_residual",
        ),
        ({"shortcut": "none", "shortcut_form": "dropout"}, "/shortcut_form"),
        ({"shortcut_form": "conv-1x1"}, "/shortcut_form"),
        ({"shortcut_form": "constant-scaling", "gate_bias": 0}, "/gate_bias"),
        ({"shortcut_form": "exclusive-gating", "shortcut_scale": 0.5}, "/shortcut_scale"),
        ({"residual_scale": 0.5}, "/residual_scale"),
        ({"shortcut_form": "constant-scaling", "residual_scale": 0}, "/residual_scale"),
        ({"shortcut_form": "dropout", "dropout_rate": 1}, "/dropout_rate"),
        ({"shortcut": "none", "activation_order": "bn-after-addition"}, "/activation_order"),
        ({"shortcut": "none", "survival": 0.5}, "/survival"),
        ({"family": "vgg", "depth": 16, "shortcut": "none", "survival": 0.5}, "/survival"),
        ({"survival": 0}, "/survival"),
        ({"recipe": {"micro_batch_size": 48}}, "/recipe"),
        ({"recipe": "paper-imagenet"}, "/recipe"),
        ({"recipe": {"test_time_augmentation": "ten_crop"}}, "/recipe"),
        (
            {
                "recipe": {"batch_size": 96, "micro_batch_size": 32},
                "resources": {"num_workers": 2},
            },
            "/recipe",
        ),
    ],
)
def test_incompatible_fields_are_refused(fields: dict[str, Any], pointer: str) -> None:
    assert _error(**fields).pointer == pointer


@pytest.mark.parametrize(
    ("fields", "pointer", "message"),
    [
        (
            {"depth": 18, "shortcut": "B", "recipe": {"name": "quick", "batch_size": 1}},
            "/recipe",
            "batch norm of resnet-18-B would normalize a single value",
        ),
        (
            {
                "depth": 18,
                "shortcut": "B",
                "recipe": {"name": "quick", "batch_size": 4, "micro_batch_size": 1},
                "resources": {"num_workers": 2},
            },
            "/recipe",
            "1 image at a time",
        ),
        (
            {"family": "vgg", "depth": 16, "shortcut": "none"},
            "/recipe",
            "vgg-16 needs images of at least 32x32 pixels; those of digits are 8x8",
        ),
        (
            {"recipe": {"validation_images": 1437}},
            "/recipe",
            "less than the number of training images of digits, 1,437; received 1,437",
        ),
        (
            {"dataset": "imagenet", "depth": 18, "recipe": {"crop": "pad_crop"}},
            "/recipe",
            "1,331,167 images of 224x224 pixels take 186.6 GiB",
        ),
        (
            {"recipe": {"precision": "tf32"}, "resources": {"gpus_per_worker": 0}},
            "/recipe",
            "precision tf32 needs a GPU",
        ),
    ],
)
def test_what_would_fail_in_training_is_refused(
    fields: dict[str, Any], pointer: str, message: str
) -> None:
    error = _error(**fields)
    assert error.pointer == pointer
    assert message in error.message


@pytest.mark.parametrize(
    "fields",
    [
        {"recipe": {"batch_size": 1}},
        {"depth": 18, "recipe": {"batch_size": 2}},
        {
            "depth": 18,
            "recipe": {"batch_size": 2, "sync_batch_norm": True},
            "resources": {"num_workers": 2},
        },
        {"depth": 18, "dataset": "cifar100", "recipe": {"batch_size": 2}},
        {"family": "vgg", "depth": 16, "shortcut": "none", "dataset": "cifar10"},
        {"recipe": {"validation_images": 1436}},
    ],
)
def test_what_can_be_trained_is_accepted(fields: dict[str, Any]) -> None:
    parse_job_spec(written(**fields))


@pytest.mark.parametrize(
    ("fields", "dataset", "recipe"),
    [
        ({"depth": 18}, "folder:birds", "paper-imagenet"),
        ({"depth": 18, "stem": "cifar"}, "folder:birds", "paper-cifar"),
        ({"depth": 20}, "folder:birds", "paper-cifar"),
        ({"depth": 18}, "cifar10", "paper-cifar"),
        ({"depth": 20}, "imagenet", "paper-cifar"),
        ({"depth": 50}, "imagenet", "paper-imagenet"),
        ({"depth": 18}, "digits", "quick"),
    ],
)
def test_the_default_recipe_follows_from_the_images_and_the_stem(
    fields: dict[str, Any], dataset: str, recipe: str
) -> None:
    spec = parse_job_spec({"shortcut": "A", "dataset": dataset} | fields)
    assert spec.recipe.name == recipe


def test_a_folder_is_read_at_the_size_of_the_stem() -> None:
    spec = parse_job_spec(written(depth=18, stem="cifar", dataset="folder:birds"))
    dataset = datasets.find_dataset(spec.dataset)
    assert dataset is not None
    assert dataset_fit.get_input_size(spec.recipe, dataset, spec.architecture) == 32


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ({}, "needs either job, model or weights"),
        ({"job": "0" * 16, "weights": "a.pth"}, "needs either job, model or weights"),
        ({"model": "a@b", "weights": "a.pth"}, "needs either job, model or weights"),
        ({"model": "a@b", "checkpoint": "best"}, "needs no checkpoint with model"),
        ({"model": "a@B"}, "must be NAME@ALIAS, NAME@NUMBER or NAME"),
        ({"weights": "a.pth", "mode": "continue"}, "mode must be weights or fine-tune"),
        ({"weights": "../a.pth"}, "pattern"),
    ],
)
def test_a_start_has_one_source_and_a_mode_that_it_permits(
    start: dict[str, Any], message: str
) -> None:
    assert message in _error(start_from=start).message


def test_a_default_name_is_cut_to_its_limit() -> None:
    spec = parse_job_spec(
        {
            "depth": 18,
            "shortcut": "A",
            "dataset": "folder:" + 99 * "x",
            "activation_order": _PREACT,
        }
    )
    assert spec.name == f"preact-18-A on folder:{99 * 'x'}"[:120]


def test_a_depth_of_a_single_family_determines_the_family() -> None:
    assert parse_job_spec(written(depth=34)).family is Family.IMAGENET


@pytest.mark.parametrize(
    ("dataset", "family"), [("cifar10", Family.CIFAR), ("folder:birds", Family.IMAGENET)]
)
def test_the_dataset_determines_the_family_of_depth_50(dataset: str, family: Family) -> None:
    assert parse_job_spec(written(depth=50, dataset=dataset)).family is family


def test_an_unknown_dataset_is_refused_with_the_known_names() -> None:
    error = _error(dataset="imagenet-21k")
    assert error.pointer == "/dataset"
    assert "digits" in error.message
    assert "'imagenet-21k'" in error.message


@pytest.mark.parametrize("folder", ["..", ".hidden", "a/b", "", "a\x00", "x" * 101])
def test_a_folder_outside_the_data_dir_is_refused(folder: str) -> None:
    assert _error(dataset=f"folder:{folder}").pointer == "/dataset"


def test_an_unknown_field_is_named() -> None:
    assert _error(dept=20) == FieldError(pointer="/dept", message="is not a known field")


def test_a_missing_field_is_named_once() -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_job_spec({"depth": 20, "shortcut": "A"})
    assert [error.pointer for error in caught.value.field_errors] == ["/dataset"]


def test_all_invalid_fields_are_named() -> None:
    pointers = {error.pointer for error in _errors(seed=-1, priority="high", shortcut="D")}
    assert pointers == {"/seed", "/priority", "/shortcut"}


def test_a_pointer_is_escaped() -> None:
    assert _error(**{"a/b~c": 1}).pointer == "/a~1b~0c"


def test_the_number_of_workers_divides_the_batch_size() -> None:
    error = _error(resources={"num_workers": 3})
    assert error.pointer == "/recipe"
    assert error.message == (
        "batch_size must be a multiple of resources.num_workers (3), received 128"
    )


@pytest.mark.parametrize(
    ("num_workers", "recipe", "counts"),
    [
        (2, {}, (2,)),
        ({"min": 2, "max": 2}, {}, (2,)),
        ({"min": 1, "max": 8}, {"batch_size": 128}, (1, 2, 4, 8)),
        ({"min": 1, "max": 8}, {"batch_size": 100}, (1, 2, 4, 5)),
        ({"min": 3, "max": 8}, {"batch_size": 100}, (4, 5)),
        ({"min": 1, "max": 8}, {"batch_size": 128, "micro_batch_size": 64}, (1, 2, 4, 8)),
        ({"min": 1, "max": 8}, {"batch_size": 120, "micro_batch_size": 40}, (1, 3, 4, 5, 6, 8)),
    ],
)
def test_an_elastic_job_may_have_each_number_of_workers_that_shares_its_batch_equally(
    num_workers: int | dict[str, int], recipe: dict[str, int], counts: tuple[int, ...]
) -> None:
    spec = parse_job_spec(written(resources={"num_workers": num_workers}, recipe=recipe))
    assert spec.worker_counts == counts
    assert spec.resources.is_elastic == (len(counts) > 1)
    assert parse_job_spec(spec.model_dump(mode="json")) == spec


@pytest.mark.parametrize(
    ("num_workers", "pointer", "message"),
    [
        ({"min": 3, "max": 2}, "/max", "must be at least min (3); received 2"),
        ({"min": 0, "max": 2}, "/min", "Input should be greater than or equal to 1; received 0"),
        ({"max": 2}, "/min", "is required"),
        ({"min": 1, "max": 2, "step": 1}, "/step", "is not a known field"),
        ("many", "", "Input should be a valid integer; received 'many'"),
    ],
)
def test_a_range_of_workers_that_is_none_is_refused_at_its_field(
    num_workers: Any, pointer: str, message: str
) -> None:
    error = _error(resources={"num_workers": num_workers})
    assert (error.pointer, error.message) == (f"/resources/num_workers{pointer}", message)


def test_one_number_of_a_range_must_share_the_batch() -> None:
    error = _error(resources={"num_workers": {"min": 5, "max": 7}})
    assert error.pointer == "/recipe"
    assert error.message == (
        "batch_size must be a multiple of resources.num_workers (5 to 7), received 128"
    )


@pytest.mark.parametrize(
    ("batch_size", "num_workers", "micro_batch_size"),
    [(16, 1, 16), (16, 2, 16), (256, 8, 32), (256, 16, 32), (200, 5, 20), (108, 3, 18)],
)
def test_the_micro_batch_of_a_recipe_follows_the_shares_of_the_workers(
    batch_size: int, num_workers: int, micro_batch_size: int
) -> None:
    spec = parse_job_spec(
        written(
            depth=18,
            dataset="folder:birds",
            recipe={"name": "paper-imagenet", "batch_size": batch_size},
            resources={"num_workers": num_workers},
        )
    )
    assert spec.recipe.micro_batch_size == micro_batch_size


def test_the_micro_batch_of_the_default_recipe_follows_the_shares_of_the_workers() -> None:
    fields = {"depth": 18, "dataset": "folder:birds", "resources": {"num_workers": 5}}
    spec = parse_job_spec(written(**fields, recipe={"batch_size": 200}))
    assert spec.recipe.micro_batch_size == 20
    again = parse_job_spec(spec.model_dump(mode="json"))
    assert again == spec


def test_an_invalid_field_of_a_recipe_is_named() -> None:
    assert _error(recipe={"name": "quick", "lr_gamma": 7}).pointer == "/recipe/lr_gamma"


@pytest.mark.parametrize(
    "fields",
    [
        {"depth": "20"},
        {"depth": 20.0},
        {"depth": True},
        {"seed": 2**31},
        {"priority": 101},
        {"max_restarts": -1},
        {"time_limit_minutes": 0},
        {"time_limit_minutes": float("nan")},
        {"time_limit_minutes": float("inf")},
        {"name": ""},
        {"name": "a\x00b"},
        {"name": "a\nb"},
        {"name": "\ud800"},
        {"name": "x" * 121},
        {"tags": ["with a space"]},
        {"tags": ["x" * 64]},
        {"tags": [f"t{n}" for n in range(21)]},
        {"recipe": 7},
        {"recipe": {"name": ["quick"]}},
        {"recipe": {"name": "quick", "iterations": 10**400}},
        {"resources": {"gpus_per_worker": 2}},
        {"resources": {"gpus_per_worker": True}},
        {"resources": {"gpus_per_worker": float("nan")}},
        {"family": "alexnet"},
        {"depth": 10**400},
    ],
)
def test_a_field_outside_its_range_is_refused(fields: dict[str, Any]) -> None:
    assert {error.pointer.split("/")[1] for error in _errors(**fields)} == set(fields)


@pytest.mark.parametrize("body", [None, [], "x", 7, {"depth": {}}])
def test_a_body_that_is_not_a_spec_is_refused(body: Any) -> None:
    with pytest.raises(InvalidInput):
        parse_job_spec(body)


@pytest.mark.parametrize("gpus", [0, 1, 1.0, 0.5, 0.25, 0.125, 0.0625])
def test_a_worker_has_a_gpu_a_fraction_or_none(gpus: float) -> None:
    assert (
        parse_job_spec(written(resources={"gpus_per_worker": gpus})).resources.gpus_per_worker
        == gpus
    )


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        (
            {"gpus_per_worker": 0.3},
            "must be 0, 1, or a fraction of a GPU: 0.5, 0.25,",
        ),
        ({"gpus_per_worker": 0.5, "num_workers": 2}, "workers cannot share a GPU"),
    ],
)
def test_other_fractions_of_a_gpu_are_refused(resources: dict[str, float], message: str) -> None:
    error = _error(resources=resources)
    assert error.pointer == "/resources/gpus_per_worker"
    assert message in error.message


def test_repeated_tags_are_removed() -> None:
    assert parse_job_spec(written(tags=["b", "a", "b"])).tags == ("b", "a")


def test_a_plain_network_is_named_as_in_the_paper() -> None:
    assert parse_job_spec(written(depth=20, shortcut="none")).network == "plain-20"


def test_a_recipe_without_a_name_modifies_the_datasets_default() -> None:
    written = {"depth": 20, "shortcut": "A", "dataset": "digits", "recipe": {"iterations": 60}}
    recipe = parse_job_spec(written).recipe
    assert (recipe.name, recipe.iterations, recipe.milestones) == ("quick", 60, (30, 45))
