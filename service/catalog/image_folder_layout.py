"""The layout of an image folder: the one rule for uploads and for folders in the data directory.

train/<class>/*.jpg     training images; the class folders, sorted by name, are labels 0, 1, ...
test/<class>/*.jpg      test images of the same classes; instead of test: val, valid or validation

Without a test folder, or with class folders alone, every fifth image of each class is a test image.
Folders around it that hold nothing else are skipped, and so are files that systems and people leave
beside images (`find_leaving`). Everything else is refused by its name.
"""

import itertools
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path, PurePath

IMAGE_SUFFIXES = frozenset(
    {".bmp", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
TRAIN = "train"
TEST = "test"
# A folder of the first name has the test images, even beside another one of these.
TEST_NAMES = (TEST, "val", "valid", "validation")
MIN_CLASSES = 2
# Without a test folder, every fifth image of each class is a test image.
TEST_EVERY = 5

_SYSTEM_NAMES = frozenset(
    {
        "$recycle.bin",
        "#recycle",
        "@eadir",
        "__macosx",
        "desktop.ini",
        "ehthumbs.db",
        "lost+found",
        "system volume information",
        "thumbs.db",
    }
)
_DOCUMENT_SUFFIXES = frozenset(
    {
        ".csv",
        ".htm",
        ".html",
        ".json",
        ".md",
        ".pdf",
        ".rst",
        ".tsv",
        ".txt",
        ".xml",
        ".yaml",
        ".yml",
    }
)
_DOCUMENT_NAMES = frozenset({"citation", "copying", "licence", "license", "readme"})
# Of these Pillow modes, the number that means white is not defined.
_UNDEFINED_MODES = frozenset({"I", "F"})


class Leaving(StrEnum):
    """Kinds of files that are skipped, as reports of an upload name them."""

    HIDDEN = "hidden files"
    SYSTEM = "system files"
    DOCUMENT = "documents"


class LayoutError(ValueError):
    """A folder is not laid out as this module describes; the message names the entry."""


@dataclass(frozen=True)
class ImageFile:
    path: Path
    label: int


@dataclass(frozen=True)
class ImageFolder:
    """`classes` in the order of their labels; `skipped`: number of files by what they are."""

    classes: list[str]
    train: list[ImageFile]
    test: list[ImageFile]
    skipped: Counter[str] = field(default_factory=Counter)


def is_image_file(path: PurePath) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


def find_leaving(path: PurePath) -> Leaving | None:
    """What kind of leaving the file or folder is; None: it is none."""
    names = [part.lower() for part in path.parts]
    if not names:
        return None
    if any(name in _SYSTEM_NAMES for name in names):
        return Leaving.SYSTEM
    if any(name.startswith(".") for name in names):
        return Leaving.HIDDEN
    is_document = path.suffix.lower() in _DOCUMENT_SUFFIXES or names[-1] in _DOCUMENT_NAMES
    return Leaving.DOCUMENT if is_document else None


def find_mode_problem(mode: str) -> str | None:
    """Why images of this Pillow mode are refused; None: they are not."""
    if mode not in _UNDEFINED_MODES:
        return None
    return (
        f"has 32-bit numbers (mode {mode}), whose range is not defined; "
        "convert it to 8 or 16 bits per channel"
    )


def is_image_folder(folder: Path) -> bool:
    """Whether it has a train folder or class folders; the rest is not checked."""
    if not folder.is_dir():
        return False
    splits = _find_splits(root := find_root(folder))
    if TRAIN in splits:
        return True
    class_folders = (entry for entry in _list_folders(root) if _has_image(entry))
    found = list(itertools.islice(class_folders, MIN_CLASSES))
    return not splits and len(found) == MIN_CLASSES


def find_root(folder: Path) -> Path:
    """The folder below those that hold nothing but one folder, leavings aside."""
    while True:
        entries = [
            entry for entry in folder.iterdir() if find_leaving(PurePath(entry.name)) is None
        ]
        if len(entries) != 1 or not entries[0].is_dir() or not _list_folders(entries[0]):
            return folder
        if _find_splits(folder) and not _find_splits(entries[0]):
            return folder
        folder = entries[0]


def list_class_names(folder: Path) -> list[str]:
    """In the order of their labels; empty if it is not an image folder. Reads no class folder."""
    if not is_image_folder(folder):
        return []
    root = find_root(folder)
    return [entry.name for entry in _list_folders(_find_splits(root).get(TRAIN, root))]


def read_image_folder(folder: Path) -> ImageFolder:
    """All images with their labels, in a fixed order. LayoutError names what is not clear."""
    root = find_root(folder)
    skipped: Counter[str] = Counter()
    splits = _find_splits(root)
    if TRAIN not in splits:
        if splits:
            found = ", ".join(sorted(entry.name for entry in splits.values()))
            raise LayoutError(f"it has {found}/, but no {TRAIN}/")
        classes, files = _read_split(root, root, skipped)
        return _hold_out(classes, files, skipped)
    classes, files = _read_split(splits[TRAIN], root, skipped)
    _check_other_entries(root, set(splits.values()), skipped)
    tests = [name for name in TEST_NAMES if name in splits]
    if not tests:
        return _hold_out(classes, files, skipped)
    test_name, *unused = tests
    if unused and test_name != TEST:
        found = ", ".join(f"{splits[name].name}/" for name in tests)
        raise LayoutError(f"it has {found}; one of them must be named {TEST}/")
    for name in unused:
        skipped[f"images of {splits[name].name}/"] += _count_images(splits[name])
    test = list(_read_test(splits[test_name], classes, root, skipped))
    if not test:
        raise LayoutError(f"{splits[test_name].name}/ has no images")
    return ImageFolder(classes, files, test, skipped)


def _find_splits(root: Path) -> dict[str, Path]:
    """The train and test folders by their lower-case names."""
    splits: dict[str, Path] = {}
    for entry in _list_folders(root):
        name = entry.name.lower()
        if name != TRAIN and name not in TEST_NAMES:
            continue
        if name in splits:
            raise LayoutError(f"{splits[name].name}/ and {entry.name}/ are the same split")
        splits[name] = entry
    return splits


def _list_folders(folder: Path) -> list[Path]:
    """Sorted by name, without leavings."""
    found = [entry for entry in folder.iterdir() if entry.is_dir()]
    return sorted(entry for entry in found if find_leaving(PurePath(entry.name)) is None)


def _has_image(folder: Path) -> bool:
    return any(is_image_file(entry) for entry in folder.iterdir())


def _count_images(folder: Path) -> int:
    return sum(is_image_file(PurePath(name)) for _, _, names in os.walk(folder) for name in names)


def _read_split(
    split: Path, root: Path, skipped: Counter[str]
) -> tuple[list[str], list[ImageFile]]:
    """Class names and images of a folder of class folders, none of them empty."""
    class_folders = list(_list_class_folders(split, root, skipped))
    if len(class_folders) < MIN_CLASSES:
        found = ", ".join(repr(entry.name) for entry in class_folders) or "none"
        raise LayoutError(
            f"at least {MIN_CLASSES} class folders are needed; {_quote(split, root)} has {found}"
        )
    files: list[ImageFile] = []
    for label, class_folder in enumerate(class_folders):
        found_files = [ImageFile(path, label) for path in _list_images(class_folder, root, skipped)]
        if not found_files:
            suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
            raise LayoutError(f"class {_quote(class_folder, root)} has no images ({suffixes})")
        files += found_files
    return [entry.name for entry in class_folders], files


def _read_test(
    split: Path, classes: list[str], root: Path, skipped: Counter[str]
) -> Iterator[ImageFile]:
    """The test set may lack classes, but has none that is not trained."""
    labels = {name: label for label, name in enumerate(classes)}
    for class_folder in _list_class_folders(split, root, skipped):
        if class_folder.name not in labels:
            raise LayoutError(
                f"{_quote(class_folder, root)} is a class that {TRAIN}/ does not have"
            )
        for path in _list_images(class_folder, root, skipped):
            yield ImageFile(path, labels[class_folder.name])


def _list_class_folders(split: Path, root: Path, skipped: Counter[str]) -> Iterator[Path]:
    for entry in sorted(split.iterdir()):
        if _skip_leaving(entry, skipped):
            continue
        if not entry.is_dir():
            raise LayoutError(f"{_quote(entry, root)} is not in a class folder")
        _check_encoding(entry, root)
        yield entry


def _list_images(class_folder: Path, root: Path, skipped: Counter[str]) -> Iterator[Path]:
    for entry in sorted(class_folder.iterdir()):
        if is_image_file(entry) and not entry.name.startswith("."):
            _check_encoding(entry, root)
            yield entry
        elif not _skip_leaving(entry, skipped):
            if entry.is_dir():
                raise LayoutError(f"{_quote(entry, root)} is a folder inside a class folder")
            raise LayoutError(describe_unknown_file(_quote(entry, root)))


def _check_other_entries(root: Path, splits: set[Path], skipped: Counter[str]) -> None:
    """LayoutError where there are images outside train and test."""
    for entry in sorted(root.iterdir()):
        if entry in splits or _skip_leaving(entry, skipped):
            continue
        if not entry.is_dir():
            raise LayoutError(f"{_quote(entry, root)} is not in a class folder")
        if _count_images(entry):
            names = ", ".join(f"{name}/" for name in (TRAIN, *TEST_NAMES))
            raise LayoutError(f"{_quote(entry, root)} has images, but is none of {names}")


def _skip_leaving(entry: Path, skipped: Counter[str]) -> bool:
    leaving = find_leaving(PurePath(entry.name))
    if leaving is not None:
        skipped[leaving] += 1
    return leaving is not None


def describe_unknown_file(quoted: str) -> str:
    return f"{quoted} is not an image file ({', '.join(sorted(IMAGE_SUFFIXES))})"


def _check_encoding(entry: Path, root: Path) -> None:
    try:
        entry.name.encode()
    except UnicodeEncodeError as error:
        raise LayoutError(f"the name of {_quote(entry, root)} is not UTF-8") from error


def _quote(entry: Path, root: Path) -> str:
    """Its path in the folder, with escapes for what cannot be printed."""
    return repr(entry.relative_to(root).as_posix())


def _hold_out(classes: list[str], files: list[ImageFile], skipped: Counter[str]) -> ImageFolder:
    """Moves every fifth image of each class to the test images."""
    train: list[ImageFile] = []
    test: list[ImageFile] = []
    counts: Counter[int] = Counter()
    for file in files:
        counts[file.label] += 1
        (test if counts[file.label] % TEST_EVERY == 0 else train).append(file)
    if not test:
        raise LayoutError(
            f"without a test folder a class needs at least {TEST_EVERY} images, and none has"
        )
    return ImageFolder(classes, train, test, skipped)
