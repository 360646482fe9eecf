import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from service.states import StopReason
from tests.workers.training.support import digests
from workers.training import checkpoint
from workers.training.__main__ import main
from workers.training.console import Console

SHORT = ["--depth", "8", "--dataset", "digits", "--iterations", "12"]


def test_a_training_ends_with_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SHORT, "--work-path", str(tmp_path)]) == 0
    heads, cells = capsys.readouterr().out.splitlines()[-2:]
    assert heads.split("  ")[0] == "network"
    assert cells.split()[:3] == ["resnet-8-A", "digits", "12"]


def test_the_newest_checkpoint_is_kept_and_gone_on_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SHORT, "--work-path", str(tmp_path)]) == 0
    assert [entry.name for entry in tmp_path.iterdir()] == ["00000012"]
    capsys.readouterr()
    assert main([*SHORT, "--work-path", str(tmp_path)]) == 0
    assert "goes on from iteration 12" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--depth", "33"], "depth: no cifar network has 33 layers"),
        (["--depth", "20", "--dataset", "mnist"], "dataset: no data set 'mnist'"),
        (["--depth", "20", "--processes", "3"], "resources: a global batch of 128 cannot be"),
        (["--depth", "20", "--iterations", "0"], "recipe/iterations: "),
        (["--depth", "20", "--dataset", "cifar10"], "resnetd-worker fetch cifar10"),
    ],
)
def test_bad_input_is_told_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str
) -> None:
    assert main([*words, "--data-path", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert sentence in captured.err
    assert len(captured.err.splitlines()) == 1


def test_a_checkpoint_of_another_run_is_told_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SHORT, "--work-path", str(tmp_path)]) == 0
    assert main([*SHORT, "--work-path", str(tmp_path), "--seed", "1"]) == 1
    assert "was left by another training" in capsys.readouterr().err


def test_an_interrupt_asks_to_stop_and_a_second_one_insists() -> None:
    console = Console()
    before = signal.signal(signal.SIGINT, console.interrupt)
    try:
        signal.raise_signal(signal.SIGINT)
        stop: StopReason | None = console.stop
        assert stop is StopReason.CANCEL
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_an_interrupted_training_goes_on_where_it_was(tmp_path: Path, processes: int) -> None:
    words = ["--depth", "8", "--iterations", "3000", "--processes", str(processes)]
    command = [sys.executable, "-m", "workers.training", *words, "--work-path", str(tmp_path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        next(line for line in process.stdout if "test error" in line)
        os.killpg(process.pid, signal.SIGINT)
        rest = process.stdout.read()
    assert process.returncode == 130
    stopped_at = int(next(line for line in rest.splitlines() if "stops at" in line).split()[-1])
    assert 0 < stopped_at < 3000
    assert [int(entry.name) for entry in tmp_path.iterdir()] == [stopped_at]


def newest_sha256(folder: Path) -> dict[str, str]:
    files = checkpoint.newest(folder)
    assert files is not None
    return digests(files)


@pytest.mark.slow
def test_a_killed_training_ends_with_the_weights_of_the_uninterrupted_one(tmp_path: Path) -> None:
    words = ["--depth", "8", "--iterations", "450"]
    command = [sys.executable, "-m", "workers.training", *words, "--work-path"]
    with subprocess.Popen(
        [*command, str(tmp_path / "killed")], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        # Between its checkpoint at 200 and its end: the line tells of a later evaluation.
        next(line for line in process.stdout if line.split()[:1] == ["300"])
        process.kill()
    assert [entry.name for entry in (tmp_path / "killed").glob("0*")] == ["00000200"]
    for folder in ("killed", "whole"):
        subprocess.run([*command, str(tmp_path / folder)], check=True, capture_output=True)
    assert newest_sha256(tmp_path / "killed") == newest_sha256(tmp_path / "whole")
