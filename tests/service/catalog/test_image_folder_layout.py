"""Which folders are image folders, which files are images, and what is refused by name."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from service.catalog import image_folder_layout
from service.catalog.image_folder_layout import ImageFolder, LayoutError

CLASSES = ("robin", "wren")


def make(root: Path, files: Iterable[str]) -> Path:
    """Empty files; a name that ends in a slash is a folder."""
    for name in files:
        path = root / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.touch()
    return root


def images(*splits: str, count: int = 2) -> list[str]:
    return [
        f"{split}{name}/{number}.jpg"
        for split in splits
        for name in CLASSES
        for number in range(count)
    ]


def read(root: Path, files: Iterable[str]) -> ImageFolder:
    assert image_folder_layout.is_image_folder(make(root, files))
    return image_folder_layout.read_image_folder(root)


@pytest.mark.parametrize("name", ["test", "val", "valid", "validation", "Validation"])
def test_a_test_folder_has_one_of_four_names(name: str, tmp_path: Path) -> None:
    found = read(tmp_path, images("train/", f"{name}/"))
    assert found.classes == list(CLASSES)
    assert [(file.path.relative_to(tmp_path).as_posix(), file.label) for file in found.test] == [
        (f"{name}/robin/0.jpg", 0),
        (f"{name}/robin/1.jpg", 0),
        (f"{name}/wren/0.jpg", 1),
        (f"{name}/wren/1.jpg", 1),
    ]
    assert len(found.train) == 4


@pytest.mark.parametrize("split", ["train/", "", "birds/", "birds/train/"])
def test_without_a_test_folder_every_fifth_image_of_a_class_is_held_out(
    split: str, tmp_path: Path
) -> None:
    found = read(tmp_path, images(split, count=10))
    assert [(file.path.name, file.label) for file in found.test] == [
        (f"{number}.jpg", label) for label in (0, 1) for number in (4, 9)
    ]
    assert len(found.train) == 16
    assert image_folder_layout.list_class_names(tmp_path) == list(CLASSES)


def test_the_images_of_a_second_test_folder_are_counted_as_skipped(tmp_path: Path) -> None:
    found = read(tmp_path, images("train/", "valid/", "test/"))
    assert {file.path.parts[-3] for file in found.test} == {"test"}
    assert found.skipped == {"images of valid/": 4}


def test_leavings_are_skipped_and_counted(tmp_path: Path) -> None:
    leavings = [
        "README.md",
        "train/LICENSE",
        "train/robin/labels.csv",
        "train/robin/Thumbs.db",
        "test/desktop.ini",
        "train/@eaDir/x.jpg",
        "__MACOSX/train/robin/._0.jpg",
        "train/.ipynb_checkpoints/0-checkpoint.jpg",
        "train/wren/._0.jpg",
        ".DS_Store",
        "annotations/robin.txt",
    ]
    found = read(tmp_path, images("train/", "test/") + leavings)
    assert found.classes == list(CLASSES)
    assert (len(found.train), len(found.test)) == (4, 4)
    assert found.skipped == {"documents": 3, "system files": 4, "hidden files": 3}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            images("train/", "val/", "valid/"),
            "it has val/, valid/; one of them must be named test/",
        ),
        (images("train/", "Train/"), "are the same split"),
        (images("val/"), "it has val/, but no train/"),
        (["train/robin/0.jpg"], "'train' has 'robin'"),
        ([*images("train/", count=5), "train/owl/"], "class 'train/owl' has no images"),
        ([*images("train/"), "train/0.jpg"], "'train/0.jpg' is not in a class folder"),
        ([*images("", count=5), "0.jpg"], "'0.jpg' is not in a class folder"),
        ([*images("train/"), "train/wren/a/0.jpg"], "'train/wren/a' is a folder inside"),
        ([*images("train/"), "train/wren/0.gif"], "'train/wren/0.gif' is not an image file"),
        ([*images("train/"), "extra/wren/0.jpg"], "'extra' has images, but is none of train/"),
        ([*images("train/"), "test/owl/0.jpg"], "'test/owl' is a class that train/ does not have"),
        ([*images("train/"), "test/"], "test/ has no images"),
        (images("train/", count=4), "a class needs at least 5 images, and none has"),
        ([*images("train/"), "train/wren/\udce9.jpg"], r"'train/wren/\udce9.jpg' is not UTF-8"),
        ([*images("train/"), "train/\udce9/0.jpg"], r"'train/\udce9' is not UTF-8"),
    ],
)
def test_what_is_not_clear_is_refused_by_name(
    files: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(LayoutError) as refused:
        image_folder_layout.read_image_folder(make(tmp_path, files))
    assert message in str(refused.value)
    str(refused.value).encode()


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["train/"], True),
        (["test/"], False),
        (["a/0.jpg", "b/0.jpg"], True),
        (["a/0.jpg", "b/0.csv"], False),
        (["0.jpg"], False),
        (["cifar-10-batches-py/test_batch"], False),
        ([], False),
    ],
)
def test_an_image_folder_has_train_or_class_folders(
    files: list[str], expected: bool, tmp_path: Path
) -> None:
    assert image_folder_layout.is_image_folder(make(tmp_path / "x", files)) is (
        expected and bool(files)
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.jpg", True), ("a.JPEG", True), ("a.jfif", True), ("a.gif", False), ("jpg", False)],
)
def test_a_suffix_makes_an_image(name: str, expected: bool) -> None:
    assert image_folder_layout.is_image_file(Path(name)) is expected
