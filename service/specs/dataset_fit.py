"""Whether a recipe and a network can be trained on the images of a dataset."""

from service.catalog.architectures import Architecture
from service.catalog.datasets import CROP_SIZE, MAX_DECODED_BYTES, Dataset, DatasetOrigin
from service.catalog.recipes import Crop, Recipe
from service.errors import FieldError, InvalidInput
from service.text import count_of


def get_input_size(recipe: Recipe, dataset: Dataset, network: Architecture) -> int:
    """Height and width in pixels of the images that the network is trained on."""
    return dataset.image_size(network.stem) if recipe.crop is Crop.PAD_CROP else CROP_SIZE


def find_recipe_problem(recipe: Recipe, dataset: Dataset, network: Architecture) -> str | None:
    """What is wrong with the recipe; None: nothing, as far as the images are known."""
    is_folder = dataset.origin is DatasetOrigin.FOLDER
    if recipe.crop is not Crop.PAD_CROP and not is_folder:
        return (
            f"crop must be {Crop.PAD_CROP} for dataset {dataset.name}, received {recipe.crop}: "
            "other crops need an image folder"
        )
    size = get_input_size(recipe, dataset, network)
    if size < network.min_image_size:
        return (
            f"{network.label} needs images of at least {network.min_image_size}x"
            f"{network.min_image_size} pixels; those of {dataset.name} are {size}x{size}"
        )
    train_images, test_images = dataset.train_images, dataset.test_images
    if train_images is None or test_images is None:
        return None
    if recipe.validation_images >= train_images:
        return (
            f"validation_images must be less than the number of training images of {dataset.name}, "
            f"{train_images:,}; received {recipe.validation_images:,}"
        )
    images = train_images + test_images
    decoded_bytes = images * size * size * 3
    if is_folder and recipe.crop is Crop.PAD_CROP and decoded_bytes > MAX_DECODED_BYTES:
        return (
            f"crop {Crop.PAD_CROP} keeps all images in memory: {count_of(images, 'image')} of "
            f"{size}x{size} pixels take {decoded_bytes / 2**30:.1f} GiB, and at most "
            f"{MAX_DECODED_BYTES / 2**30:.1f} GiB are allowed; choose {Crop.SCALE_JITTER} or "
            f"{Crop.RANDOM_RESIZED_CROP}"
        )
    return None


def require_fit(recipe: Recipe, dataset: Dataset, network: Architecture) -> None:
    """InvalidInput where `find_recipe_problem` finds one."""
    problem = find_recipe_problem(recipe, dataset, network)
    if problem is not None:
        field_error = FieldError(pointer="/recipe", message=problem)
        raise InvalidInput("the job's spec is not valid", field_errors=(field_error,))


def find_batch_norm_problem(
    recipe: Recipe, dataset: Dataset, network: Architecture, *, num_workers: int
) -> str | None:
    """Batch norm cannot normalize a single value: it needs several images or positions."""
    share = recipe.batch_size // num_workers
    images = min(recipe.micro_batch_size or share, share)
    if recipe.sync_batch_norm:
        images *= num_workers
    map_size = network.last_map_size(get_input_size(recipe, dataset, network))
    if not network.has_batch_norm or images * map_size**2 > 1:
        return None
    return (
        f"batch norm of {network.label} would normalize a single value: its last feature map is "
        "1x1 and each worker computes 1 image at a time; increase recipe.batch_size or "
        "recipe.micro_batch_size"
    )
