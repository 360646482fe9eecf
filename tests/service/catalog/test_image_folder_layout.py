"""Which folders are image folders, and which files images."""

from pathlib import Path

import pytest

from service.catalog import image_folder_layout


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (["train", "test"], True),
        (["train", "val"], True),
        (["train"], False),
        (["test"], False),
        ([], False),
    ],
)
def test_an_image_folder_has_train_and_test_or_val(
    folders: list[str], expected: bool, tmp_path: Path
) -> None:
    for name in folders:
        (tmp_path / name).mkdir()
    assert image_folder_layout.is_image_folder(tmp_path) is expected


def test_test_precedes_val(tmp_path: Path) -> None:
    for name in ("val", "test"):
        (tmp_path / name).mkdir()
    assert image_folder_layout.find_test_folder(tmp_path) == tmp_path / "test"


def test_classes_are_the_sorted_folders(tmp_path: Path) -> None:
    for name in ("wren", "robin"):
        (tmp_path / name).mkdir()
    (tmp_path / "notes.txt").touch()
    assert image_folder_layout.list_classes(tmp_path) == ["robin", "wren"]


@pytest.mark.parametrize(
    ("name", "expected"), [("a.jpg", True), ("a.JPEG", True), ("a.gif", False), ("jpg", False)]
)
def test_a_suffix_makes_an_image(name: str, expected: bool) -> None:
    assert image_folder_layout.is_image_file(Path(name)) is expected
