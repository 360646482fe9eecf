"""Python with a few of the installed packages and what they need; ours are not among them."""

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement


def run(code: str, *arguments: object, packages: list[str], folder: Path) -> str:
    """What `code` prints; `folder` is a new one for links to the packages."""
    folder.mkdir()
    for distribution in _list_required(packages).values():
        for name in _list_top_level(distribution):
            link = folder / name
            if not link.exists():
                link.symlink_to(str(distribution.locate_file(name)))
    # Isolated, and without the site packages of the environment and its .pth files.
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys\nsys.path.append({str(folder)!r})\n{code}"]
        + [str(argument) for argument in arguments],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout


def _list_required(packages: list[str]) -> dict[str, metadata.Distribution]:
    found: dict[str, metadata.Distribution] = {}
    waiting = list(packages)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        found[name] = metadata.distribution(name)
        requirements = map(Requirement, found[name].requires or ())
        waiting += [
            requirement.name
            for requirement in requirements
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        ]
    return found


def _list_top_level(distribution: metadata.Distribution) -> set[str]:
    """Files and folders in the site packages, not the commands outside of them."""
    return {path.parts[0] for path in distribution.files or ()} - {".."}
