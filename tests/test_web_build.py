"""The build of the dashboard: which Node.js it takes, and what it says where there is none."""

import shutil
import subprocess
import sys

import pytest

from tools import web


@pytest.fixture
def _no_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr("sysconfig.get_path", lambda _: "/nowhere")
    monkeypatch.setattr(web, "_NODE_PACKAGE", "./nothing-here")


@pytest.mark.usefixtures("_no_node")
@pytest.mark.parametrize(("command", "status"), [("build", 0), ("check", 1)])
def test_without_node_a_build_says_so_and_a_check_fails(
    command: str, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["web", command])
    assert web.main() == status
    assert "The service runs without its dashboard." in capsys.readouterr().err


def test_a_node_that_is_too_old_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    for printed, is_taken in (("v18.20.4", False), ("v20.19.0", True), ("v24.1.0", True)):
        answer = subprocess.CompletedProcess((), returncode=1, stdout=printed)
        monkeypatch.setattr(subprocess, "run", lambda *_, answer=answer, **__: answer)
        monkeypatch.setattr("sysconfig.get_path", lambda _: "/nowhere")
        if is_taken:
            web.Npm.find()
            continue
        with pytest.raises(web.NodeUnavailable):
            web.Npm.find()
