import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from service.specs.protocol import MetricPoint
from service.states import StopReason
from tests.workers.training.support import Recorder, digests, run, small_spec
from workers.training import checkpoint
from workers.training.__main__ import main
from workers.training.cli_observer import Console

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
        (["--depth", "33"], "depth: must be 6n+2 for a cifar network"),
        (["--depth", "20", "--dataset", "mnist"], "dataset: must be one of cifar10"),
        (
            ["--depth", "20", "--processes", "3"],
            "resources: num_workers must divide recipe.batch_size (128)",
        ),
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


def test_an_interrupted_training_leaves_a_checkpoint_and_exits_130(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell = Console.metrics

    def tell_and_interrupt(self: Console, points: list[MetricPoint]) -> None:
        tell(self, points)
        if points[0].iteration == 5:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Console, "metrics", tell_and_interrupt)
    words = ["--depth", "8", "--iterations", "3000"]
    assert main([*words, "--work-path", str(tmp_path)]) == 130
    assert [entry.name for entry in tmp_path.iterdir()] == ["00000005"]


@pytest.mark.slow
def test_interrupted_processes_stop_together(tmp_path: Path) -> None:
    words = ["--depth", "8", "--iterations", "3000", "--processes", "2"]
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


def killed_at(iteration: int, folder: Path) -> None:
    """Trains until it is killed as power cuts kill: between two steps, without a word."""

    class Doomed(Recorder):
        @property
        def stop(self) -> StopReason | None:
            if self.readings == iteration:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().stop

    run(small_spec(), folder, recorder=Doomed())


@pytest.mark.slow
def test_a_killed_training_ends_with_the_weights_of_the_uninterrupted_one(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(
        target=killed_at, args=(10, tmp_path / "killed")
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert [entry.name for entry in (tmp_path / "killed").iterdir()] == ["00000006"]
    left = checkpoint.find_newest(tmp_path / "killed")
    _, resumed = run(small_spec(), tmp_path / "resumed", resume=left)
    _, whole = run(small_spec(), tmp_path / "whole")
    assert digests(resumed.files[12]) == digests(whole.files[12])
