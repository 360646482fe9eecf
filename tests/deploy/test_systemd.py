"""The units of deploy/systemd: systemd accepts them, and they restart without a limit."""

import getpass
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ray.scripts import scripts

from tests.support.systemd import INSTALLED_PATH, UNITS_PATH, read_unit

UNITS = sorted(path.stem for path in UNITS_PATH.glob("*.service"))
# What /etc/resnetd/env sets for them.
ENV = {"ADDRESS": "10.0.0.2", "RAY_ADDRESS": "10.0.0.1:6379"}


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_restarts_after_each_exit_with_growing_delays(name: str) -> None:
    settings = read_unit(name).settings
    assert settings["Restart"] == ["always"]
    assert settings["StartLimitIntervalSec"] == ["0"], "systemd does not give up"
    assert float(*settings["RestartSec"]) < float(*settings["RestartMaxDelaySec"])
    # The default kills all that the command started: what is left would hold ports and GPUs.
    assert "KillMode" not in settings


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_runs_an_installed_program_without_privileges(name: str) -> None:
    unit = read_unit(name)
    program, *arguments = unit.make_command(ENV)
    assert Path(program).is_file()
    assert unit.settings["User"] == ["resnetd"]
    if program.endswith("/ray"):
        # Raises UsageError for an option that Ray does not have.
        scripts.start.make_context("start", arguments[1:])
        assert unit.environment["RAY_AUTH_MODE"] == "token"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_finds_no_mistake_in_the_units(tmp_path: Path) -> None:
    for name in UNITS:
        text = (UNITS_PATH / f"{name}.service").read_text()
        # Both exist on this machine.
        text = text.replace(INSTALLED_PATH, str(Path(sys.executable).parent))
        text = text.replace("User=resnetd", f"User={getpass.getuser()}")
        (tmp_path / f"{name}.service").write_text(text)
    verified = subprocess.run(
        ["systemd-analyze", "verify", *map(str, sorted(tmp_path.glob("*.service")))],
        capture_output=True,
        text=True,
        check=False,
    )
    # New in systemd 254, and ignored by older ones.
    known = ("'RestartSteps'", "'RestartMaxDelaySec'")
    found = [
        line
        for line in verified.stderr.splitlines()
        if str(tmp_path) in line and not any(key in line for key in known)
    ]
    assert found == []
