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
from tests.workers.training.support import run
from workers.training import cuda_graphs
from workers.training.data import image_decoding, image_folders
from workers.training.data.image_loader import StreamingSource
from workers.training.device_context import DeviceContext
from workers.training.errors import DatasetUnusable

CPU = torch.device("cpu")
CLASSES = ("robin", "wren")
# One of each way that a file can take, in each class.
KINDS = ("colour", "grey", "four-colours", "turned", "png")


def picture(number: int) -> Image.Image:
    rough = np.random.RandomState(number).randint(0, 256, (6, 8, 3)).astype(np.uint8)
    return Image.fromarray(rough).resize((80, 60), Image.Resampling.BICUBIC)


def save(image: Image.Image, path: Path, kind: str) -> None:
    options: dict[str, Any] = {}
    if kind == "colour":
        # Decoders differ in how they make halved colours whole again.
        options["subsampling"] = 0
    if kind == "turned":
        options["exif"] = Image.Exif()
        options["exif"][ExifTags.Base.Orientation] = 6
    modes = {"grey": "L", "four-colours": "CMYK"}
    image.convert(modes.get(kind, "RGB")).save(
        path.with_suffix(".png" if kind == "png" else ".jpg"), **options
    )


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "photographs"
    for split in ("train", "test"):
        for name in CLASSES:
            (folder / split / name).mkdir(parents=True)
            for number, kind in enumerate(KINDS):
                save(picture(number), folder / split / name / kind, kind)
    return folder


def recipe() -> Recipe:
    fields = {"name": "paper-imagenet", "batch_size": 4, "micro_batch_size": None}
    return recipes.build_recipe(fields, family=Family.IMAGENET, depth=18)


def batches(
    folder: Path, *, is_decoded_there: bool, processes: int = 0, device: torch.device = CPU
) -> list[tuple[Tensor, Tensor]]:
    source = StreamingSource(
        folder,
        recipe(),
        seed=0,
        device=device,
        processes=processes,
        is_decoded_there=is_decoded_there,
    )
    return [source.batch(4 * number, 4 * number + 4) for number in range(6)]


def farthest(some: list[tuple[Tensor, Tensor]], others: list[tuple[Tensor, Tensor]]) -> float:
    assert all(
        torch.equal(one.cpu(), other.cpu())
        for (_, one), (_, other) in zip(some, others, strict=True)
    )
    return max(
        float((one.cpu() - other.cpu()).abs().max())
        for (one, _), (other, _) in zip(some, others, strict=True)
    )


@pytest.mark.parametrize("processes", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_what_the_device_decodes_is_what_the_processes_would_have(
    photographs: Path, processes: int
) -> None:
    wanted = batches(photographs, is_decoded_there=False)
    found = batches(photographs, is_decoded_there=True, processes=processes)
    assert farthest(found, wanted) == 0


def test_only_plain_jpegs_are_left_to_the_device(photographs: Path) -> None:
    folder = photographs / "train" / "wren"
    for path in folder.iterdir():
        jpeg = image_decoding.read_jpeg(path)
        assert (jpeg is not None) is (path.stem in {"colour", "grey"}), path
        if jpeg is not None:
            decoded_CHW = image_decoding.open_image(path)
            assert (jpeg.height, jpeg.width) == decoded_CHW.shape[1:]


def test_a_picture_that_lies_on_its_side_is_stood_up(photographs: Path) -> None:
    path = photographs / "train" / "wren" / "turned.jpg"
    upright_HWC = np.asarray(image_folders.open_image(path))
    assert upright_HWC.shape == (80, 60, 3)
    opened_CHW = image_decoding.open_image(path)
    assert np.abs(opened_CHW.permute(1, 2, 0).numpy() - upright_HWC.astype(int)).max() <= 2


def test_what_a_camera_notes_wrongly_keeps_nobody_from_standing_it_up(tmp_path: Path) -> None:
    # Two notes: a width that is a word, and an orientation.
    width = struct.pack("<HHI4s", ExifTags.Base.ImageWidth, 2, 4, b"far")
    orientation = struct.pack("<HHIHH", ExifTags.Base.Orientation, 3, 1, 6, 0)
    notes = struct.pack("<2sHIH", b"II", 42, 8, 2) + width + orientation + bytes(4)
    path = tmp_path / "noted.jpg"
    picture(0).save(path, exif=b"Exif\0\0" + notes)
    assert image_folders.open_image(path).size == (60, 80)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_each_way_to_hold_a_camera_is_known(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = tmp_path / "held.png"
    picture(0).save(path, exif=exif)
    with Image.open(path) as file:
        wanted = np.asarray(ImageOps.exif_transpose(file))
    assert np.array_equal(np.asarray(image_folders.open_image(path)), wanted)


@pytest.mark.parametrize("refused", ["batches", "all"])
def test_what_the_device_refuses_is_decoded_without_it(
    photographs: Path, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    def refuse(files: list[Tensor], **options: Any) -> Any:
        if refused == "all" or len(files) > 1:
            raise RuntimeError("nvjpeg: not supported")
        return decode_jpeg(files, **options)

    wanted = batches(photographs, is_decoded_there=False)
    monkeypatch.setattr(image_decoding, "decode_jpeg", refuse)
    assert farthest(batches(photographs, is_decoded_there=True), wanted) == 0
    assert image_decoding.supports_jpeg_decoding(CPU) is (refused != "all")


def test_a_device_without_memory_is_not_worked_around(
    photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(*_files: Any, **_options: Any) -> Any:
        raise torch.OutOfMemoryError("the device is full")

    monkeypatch.setattr(image_decoding, "decode_jpeg", fill)
    with pytest.raises(torch.OutOfMemoryError):
        batches(photographs, is_decoded_there=True)


def test_a_broken_photograph_is_named(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in CLASSES:
            (tmp_path / "set" / split / name).mkdir(parents=True)
            for number in range(3):
                save(picture(number), tmp_path / "set" / split / name / str(number), "colour")
    batches(tmp_path / "set", is_decoded_there=True)  # measures the mean
    broken = tmp_path / "set" / "train" / "wren" / "1.jpg"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetUnusable, match=r"wren/1\.jpg"):
        batches(tmp_path / "set", is_decoded_there=True)


def test_batches_are_decoded_from_any_place_on(photographs: Path) -> None:
    source = StreamingSource(
        photographs, recipe(), seed=0, device=CPU, processes=0, is_decoded_there=True
    )
    first, _ = source.batch(0, 4)
    again, _ = source.batch(0, 4)
    assert first is again
    far, _ = source.batch(400, 404)
    near, _ = source.batch(0, 4)
    assert torch.equal(near, first)
    assert not torch.equal(far, first)


@pytest.mark.gpu
def test_a_gpu_decodes_nearly_the_same(photographs: Path, gpu: torch.device) -> None:
    wanted = batches(photographs, is_decoded_there=False)
    found = batches(photographs, is_decoded_there=True, device=gpu)
    assert farthest(found, wanted) < 16 / 255


@pytest.mark.gpu
def test_a_network_is_trained_on_what_a_gpu_decodes(
    photographs: Path, tmp_path: Path, gpu: torch.device
) -> None:
    spec = parse_job_spec(
        {
            "depth": 18,
            "shortcut": "B",
            "dataset": f"folder:{photographs.name}",
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
    place = DeviceContext(0, 1, gpu, threads=1)
    _, recorder = run(spec, tmp_path, place=place, data_path=photographs.parent)
    assert recorder.told[0].numerics["images"] == "files, decoded by the device"
    assert cuda_graphs.GRAPH_REPLAYED_MESSAGE in recorder.lines
