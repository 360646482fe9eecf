"""Which code trains, as a result card says it."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from service.catalog import code_version


@pytest.fixture
def git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs git in the folder of an installation."""
    monkeypatch.setattr(code_version, "_ROOT", tmp_path)
    code_version.find_commit.cache_clear()

    def run(*arguments: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b")
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()

    return run


def test_the_commit_of_a_checkout_is_known_and_changes_to_it_are(
    git: Callable[..., str], tmp_path: Path
) -> None:
    assert code_version.find_commit() is None
    git("init", "--quiet")
    (tmp_path / "file").write_text("a")
    git("add", "file")
    git("commit", "--quiet", "--message", "first")
    code_version.find_commit.cache_clear()
    commit = code_version.find_commit()
    assert commit == git("rev-parse", "HEAD")
    (tmp_path / "file").write_text("b")
    code_version.find_commit.cache_clear()
    assert code_version.find_commit() == f"{commit}-dirty"


def test_a_folder_that_git_cannot_read_has_no_commit(
    git: Callable[..., str], tmp_path: Path
) -> None:
    del git
    (tmp_path / ".git").write_text("gitdir: nowhere")
    assert code_version.find_commit() is None
