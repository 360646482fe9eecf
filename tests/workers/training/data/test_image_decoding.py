import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor
from torchcodec.decoders import decode_jpeg  # type: ignore[attr-defined] # public, unmarked

from service.catalog import recipes
from service.catalog.architectures import Family
from service.catalog.recipes import Recipe
from service.specs.job_spec import parse_job_spec
from tests.workers.training.support import CPU, run
from workers.training import cuda_graphs
from workers.training.data import image_decoding, image_folders
from workers.training.data.streaming_source import StreamingSource
from workers.training.device_context import DeviceContext
from workers.training.errors import DatasetUnusable

CLASSES = ("robin", "wren")
# Files of each kind that is decoded differently, in each class.
KINDS = ("color", "gray", "cmyk", "rotated", "png")


def make_image(number: int) -> Image.Image:
    coarse = np.random.RandomState(number).randint(0, 256, (6, 8, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((80, 60), Image.Resampling.BICUBIC)


def save(image: Image.Image, path: Path, kind: str) -> None:
    options: dict[str, Any] = {}
    if kind == "color":
        # Decoders differ in how they upsample chroma.
        options["subsampling"] = 0
    if kind == "rotated":
        options["exif"] = Image.Exif()
        options["exif"][ExifTags.Base.Orientation] = 6
    modes = {"gray": "L", "cmyk": "CMYK"}
    image.convert(modes.get(kind, "RGB")).save(
        path.with_suffix(".png" if kind == "png" else ".jpg"), **options
    )


@pytest.fixture(scope="module")
def jpeg_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "jpegs"
    for split in ("train", "test"):
        for name in CLASSES:
            (folder / split / name).mkdir(parents=True)
            for number, kind in enumerate(KINDS):
                save(make_image(number), folder / split / name / kind, kind)
    return folder


def recipe() -> Recipe:
    fields = {"name": "paper-imagenet", "batch_size": 4, "micro_batch_size": None}
    return recipes.build_recipe(fields, family=Family.IMAGENET, depth=18)


def load_batches(
    folder: Path, *, decodes_on_device: bool, num_processes: int = 0, device: torch.device = CPU
) -> list[tuple[Tensor, Tensor]]:
    source = StreamingSource(
        folder,
        recipe(),
        seed=0,
        device=device,
        num_processes=num_processes,
        decodes_on_device=decodes_on_device,
    )
    return [source.load_batch(4 * number, 4 * number + 4) for number in range(6)]


def max_difference(
    batches: list[tuple[Tensor, Tensor]], others: list[tuple[Tensor, Tensor]]
) -> float:
    assert all(
        torch.equal(labels_N.cpu(), other_N.cpu())
        for (_, labels_N), (_, other_N) in zip(batches, others, strict=True)
    )
    return max(
        float((images_NCHW.cpu() - other_NCHW.cpu()).abs().max())
        for (images_NCHW, _), (other_NCHW, _) in zip(batches, others, strict=True)
    )


@pytest.mark.parametrize("num_processes", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_device_decodes_the_same_batches_as_reader_processes(
    jpeg_folder: Path, num_processes: int
) -> None:
    expected = load_batches(jpeg_folder, decodes_on_device=False)
    found = load_batches(jpeg_folder, decodes_on_device=True, num_processes=num_processes)
    assert max_difference(found, expected) == 0


def test_only_upright_rgb_and_gray_jpegs_are_decoded_on_the_device(jpeg_folder: Path) -> None:
    folder = jpeg_folder / "train" / "wren"
    for path in folder.iterdir():
        jpeg = image_decoding.read_jpeg(path)
        assert (jpeg is not None) is (path.stem in {"color", "gray"}), path
        if jpeg is not None:
            decoded_CHW = image_decoding.open_image(path)
            assert (jpeg.height, jpeg.width) == decoded_CHW.shape[1:]


def test_a_rotated_jpeg_is_turned_upright(jpeg_folder: Path) -> None:
    path = jpeg_folder / "train" / "wren" / "rotated.jpg"
    upright_HWC = np.asarray(image_folders.open_image(path))
    assert upright_HWC.shape == (80, 60, 3)
    opened_CHW = image_decoding.open_image(path)
    assert np.abs(opened_CHW.permute(1, 2, 0).numpy() - upright_HWC.astype(int)).max() <= 2


def test_invalid_exif_fields_do_not_hide_the_orientation(tmp_path: Path) -> None:
    # Two entries: a width that is text, and an orientation.
    width = struct.pack("<HHI4s", ExifTags.Base.ImageWidth, 2, 4, b"far")
    orientation = struct.pack("<HHIHH", ExifTags.Base.Orientation, 3, 1, 6, 0)
    entries = struct.pack("<2sHIH", b"II", 42, 8, 2) + width + orientation + bytes(4)
    path = tmp_path / "image.jpg"
    make_image(0).save(path, exif=b"Exif\0\0" + entries)
    assert image_folders.open_image(path).size == (60, 80)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = tmp_path / "image.png"
    make_image(0).save(path, exif=exif)
    with Image.open(path) as file:
        expected = np.asarray(ImageOps.exif_transpose(file))
    assert np.array_equal(np.asarray(image_folders.open_image(path)), expected)


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bit_images_are_scaled_to_8_bits(tmp_path: Path, suffix: str) -> None:
    numbers_HW = (np.arange(16).reshape(4, 4) * 4_096).astype(np.uint16)
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(numbers_HW).save(path)
    expected_HW = (numbers_HW >> 8).astype(int)
    resident_HWC = np.asarray(image_folders.open_image(path)).astype(int)
    streamed_HWC = image_decoding.open_image(path).permute(1, 2, 0).numpy().astype(int)
    for image_HWC in (resident_HWC, streamed_HWC):
        assert np.abs(image_HWC - expected_HW[:, :, None]).max() <= 1


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_images_without_a_defined_range_are_rejected_by_name(tmp_path: Path, dtype: type) -> None:
    path = tmp_path / "depth.tiff"
    Image.fromarray(np.ones((4, 4), dtype=dtype)).save(path)
    for open_image in (image_folders.open_image, image_decoding.open_image):
        with pytest.raises(DatasetUnusable, match=r"depth\.tiff has 32-bit numbers"):
            open_image(path)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB"])
def test_both_decoders_agree_on_every_8_bit_mode(tmp_path: Path, mode: str) -> None:
    for suffix in ("png", "tiff", "jpg", "bmp", "webp", "ppm"):
        path = tmp_path / f"image.{suffix}"
        options: dict[str, Any] = {"quality": 100} if suffix == "jpg" else {}
        try:
            make_image(3).convert(mode).save(path, **options)
        except (OSError, ValueError):
            continue  # the format has no such mode
        resident_HWC = np.asarray(image_folders.open_image(path)).astype(int)
        streamed_HWC = image_decoding.open_image(path).permute(1, 2, 0).numpy().astype(int)
        assert np.abs(resident_HWC - streamed_HWC).max() <= 2, suffix


@pytest.mark.parametrize("rejected", ["batches", "all"])
def test_files_that_the_device_rejects_are_decoded_on_the_cpu(
    jpeg_folder: Path, monkeypatch: pytest.MonkeyPatch, rejected: str
) -> None:
    def reject(files: list[Tensor], **options: Any) -> Any:
        if rejected == "all" or len(files) > 1:
            raise RuntimeError("nvjpeg: not supported")
        return decode_jpeg(files, **options)

    expected = load_batches(jpeg_folder, decodes_on_device=False)
    monkeypatch.setattr(image_decoding, "decode_jpeg", reject)
    assert max_difference(load_batches(jpeg_folder, decodes_on_device=True), expected) == 0
    assert image_decoding.supports_jpeg_decoding(CPU) is (rejected != "all")


def test_running_out_of_device_memory_is_raised(
    jpeg_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(*_files: Any, **_options: Any) -> Any:
        raise torch.OutOfMemoryError("the device is full")

    monkeypatch.setattr(image_decoding, "decode_jpeg", fill)
    with pytest.raises(torch.OutOfMemoryError):
        load_batches(jpeg_folder, decodes_on_device=True)


def test_a_truncated_jpeg_is_named(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in CLASSES:
            (tmp_path / "set" / split / name).mkdir(parents=True)
            for number in range(3):
                save(make_image(number), tmp_path / "set" / split / name / str(number), "color")
    load_batches(tmp_path / "set", decodes_on_device=True)  # measures the normalization
    truncated = tmp_path / "set" / "train" / "wren" / "1.jpg"
    content = truncated.read_bytes()
    truncated.write_bytes(content[: len(content) // 2])
    with pytest.raises(DatasetUnusable, match=r"wren/1\.jpg"):
        load_batches(tmp_path / "set", decodes_on_device=True)


def test_batches_can_be_loaded_from_any_position(jpeg_folder: Path) -> None:
    source = StreamingSource(
        jpeg_folder, recipe(), seed=0, device=CPU, num_processes=0, decodes_on_device=True
    )
    first, _ = source.load_batch(0, 4)
    again, _ = source.load_batch(0, 4)
    assert first is again
    far, _ = source.load_batch(400, 404)
    near, _ = source.load_batch(0, 4)
    assert torch.equal(near, first)
    assert not torch.equal(far, first)


@pytest.mark.gpu
def test_a_gpu_decodes_close_to_the_cpu(jpeg_folder: Path, gpu: torch.device) -> None:
    expected = load_batches(jpeg_folder, decodes_on_device=False)
    found = load_batches(jpeg_folder, decodes_on_device=True, device=gpu)
    assert max_difference(found, expected) < 16 / 255


@pytest.mark.gpu
def test_a_network_trains_on_images_decoded_by_the_gpu(
    jpeg_folder: Path, tmp_path: Path, gpu: torch.device
) -> None:
    spec = parse_job_spec(
        {
            "depth": 18,
            "shortcut": "B",
            "dataset": f"folder:{jpeg_folder.name}",
            "recipe": {
                "name": "paper-imagenet",
                "iterations": 8,
                "batch_size": 4,
                "micro_batch_size": 2,
                "evaluate_every": 4,
                "checkpoint_every": 4,
                "exports": [],
            },
        }
    )
    context = DeviceContext(0, 1, gpu, threads=1)
    _, observer = run(spec, tmp_path, context=context, data_dir=jpeg_folder.parent)
    assert observer.environments[0].numerics["images"] == "files, decoded by the device"
    assert cuda_graphs.GRAPH_REPLAYED_MESSAGE in observer.lines
