"""The wheel of the client, as `make wheel` builds it."""

from email import message_from_bytes
from pathlib import Path
from zipfile import ZipFile

import pytest
from hatchling.builders.wheel import WheelBuilder

from tools.check_prose import REPOSITORY

MAX_BYTES = 200_000
# Each dependency is installed by every user.
REQUIRED = {
    "cryptography",
    "httpx[socks]",
    "httpx-sse",
    "msgspec",
    "pyyaml",
    "rfc8785",
    "rich",
    "tenacity",
    "typer",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    builder = WheelBuilder(str(REPOSITORY / "client"))
    folder = tmp_path_factory.mktemp("wheel")
    (built,) = builder.build(directory=str(folder), versions=["standard"])
    return Path(built)


def test_the_wheel_has_the_package_and_nothing_else(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    package = REPOSITORY / "client" / "resnetd"
    ours = {
        str(path.relative_to(package.parent))
        for path in package.rglob("*")
        if path.suffix in {".py", ".pyi", ".json", ".typed"}
    }
    assert names == ours
    assert {"resnetd/py.typed", "resnetd/spec_help.json"} <= names


def test_the_wheel_is_small(wheel: Path) -> None:
    assert wheel.stat().st_size < MAX_BYTES


def test_the_wheel_needs_few_packages_and_none_that_computes(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        (path,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        requirements = message_from_bytes(archive.read(path)).get_all("Requires-Dist", [])
    needed = {found.partition(">")[0] for found in requirements if "extra ==" not in found}
    assert needed == REQUIRED
    assert not any("torch" in found for found in requirements)
