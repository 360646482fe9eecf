"""The systemd units of `deploy/systemd`, as tests start their commands."""

import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template

UNITS_PATH = Path(__file__).parents[2] / "deploy" / "systemd"
# Where the how-to installs the package.
INSTALLED_PATH = "/opt/resnetd/bin"


@dataclass(frozen=True)
class Unit:
    """`settings`: of all sections; a setting may occur several times."""

    settings: Mapping[str, list[str]]

    @property
    def environment(self) -> dict[str, str]:
        """Without its EnvironmentFile."""
        return dict(line.split("=", 1) for line in self.settings["Environment"])

    def make_command(self, env: Mapping[str, str]) -> list[str]:
        """Its command with the programs of this environment. KeyError for a missing variable."""
        (line,) = self.settings["ExecStart"]
        line = line.replace(INSTALLED_PATH, str(Path(sys.executable).parent))
        return shlex.split(Template(line).substitute(env))


def read_unit(name: str) -> Unit:
    settings: dict[str, list[str]] = {}
    for line in (UNITS_PATH / f"{name}.service").read_text().splitlines():
        if line and not line.startswith(("#", "[")):
            key, value = line.split("=", 1)
            settings.setdefault(key, []).append(value)
    return Unit(settings)
