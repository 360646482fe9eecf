"""Completion of `resnetd` in shells, as typer offers it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.client.conftest import Command

BASH = """
complete() { :; }
eval "$SCRIPT"
COMP_WORDS=(resnetd study li)
COMP_CWORD=2
_resnetd_completion "$RESNETD"
printf '%s,' "${COMPREPLY[@]}"
"""
SCRIPT = "_RESNETD_COMPLETE"


def _variables(shell: str, line: str) -> dict[str, str]:
    """What the script of the shell sets for a line whose last word is to be completed."""
    if shell == "bash":
        return {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    return {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("resnetd whoa", "whoami"),
        ("resnetd study wa", "watch"),
        ("resnetd whoami --outp", "--output"),
        ("resnetd whoami --output j", "json"),
        ("resnetd --version whoa", "whoami"),
    ],
)
def test_a_line_is_completed(
    shell: str, line: str, completed: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SCRIPT, f"complete_{shell}")
    for name, value in _variables(shell, line).items():
        monkeypatch.setenv(name, value)
    assert command() == 0
    assert completed in command.out
    assert "resnetd" not in command.out
    assert command.err == ""


def test_bash_completes_with_the_printed_script(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SCRIPT, "source_bash")
    assert command() == 0
    monkeypatch.delenv(SCRIPT)
    environment = os.environ | {
        "SCRIPT": command.out,
        "RESNETD": str(Path(sys.executable).with_name("resnetd")),
    }
    completed = subprocess.run(
        ["bash", "--norc", "-c", BASH],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert completed.stdout == "list,", completed.stderr
