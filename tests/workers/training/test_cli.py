import multiprocessing
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from service.states import StopReason
from tests.workers.training.support import RecordingObserver, digests, run, small_spec
from workers.training import checkpoint
from workers.training.__main__ import main
from workers.training.cli import EXIT_INTERRUPTED, CliObserver
from workers.training.observers import StepTime

SHORT = ["--depth", "8", "--dataset", "digits", "--iterations", "12"]


def test_a_run_ends_with_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SHORT, "--work-dir", str(tmp_path)]) == 0
    header, cells = capsys.readouterr().out.splitlines()[-2:]
    assert header.split("  ")[0] == "network"
    assert cells.split()[:3] == ["resnet-8-A", "digits", "12"]


def test_only_the_newest_checkpoint_is_kept_and_resumed_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SHORT, "--work-dir", str(tmp_path)]) == 0
    assert [entry.name for entry in tmp_path.iterdir()] == ["00000012"]
    capsys.readouterr()
    assert main([*SHORT, "--work-dir", str(tmp_path)]) == 0
    assert "resuming from iteration 12" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--depth", "33"], "depth: must be 6n+2 for a cifar network"),
        (["--depth", "20", "--dataset", "mnist"], "dataset: must be one of cifar10"),
        (
            ["--depth", "20", "--processes", "3"],
            "recipe: batch_size must be a multiple of resources.num_workers (3), received 128",
        ),
        (["--depth", "20", "--iterations", "0"], "recipe/iterations: "),
        (["--depth", "20", "--dataset", "cifar10"], "resnetd-worker fetch cifar10"),
    ],
)
def test_invalid_arguments_give_one_line_on_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main([*arguments, "--data-dir", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1


def test_a_checkpoint_of_another_run_is_not_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SHORT, "--work-dir", str(tmp_path)]) == 0
    assert main([*SHORT, "--work-dir", str(tmp_path), "--seed", "1"]) == 1
    assert "belongs to another run" in capsys.readouterr().err


def test_the_first_interrupt_requests_a_stop_and_the_second_ends_the_process() -> None:
    observer = CliObserver()
    before = signal.signal(signal.SIGINT, observer.handle_interrupt)
    try:
        signal.raise_signal(signal.SIGINT)
        requested: StopReason | None = observer.stop_requested
        assert requested is StopReason.CANCEL
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_interrupted_run_leaves_a_checkpoint_and_exits_with_130(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_metrics = CliObserver.on_metrics

    def interrupt(self: CliObserver, step: StepTime, values: Mapping[str, float]) -> None:
        on_metrics(self, step, values)
        if step.iteration == 5:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(CliObserver, "on_metrics", interrupt)
    arguments = ["--depth", "8", "--iterations", "3000", "--work-dir", str(tmp_path)]
    assert main(arguments) == EXIT_INTERRUPTED
    assert [entry.name for entry in tmp_path.iterdir()] == ["00000005"]


@pytest.mark.slow
def test_interrupted_processes_stop_after_the_same_iteration(tmp_path: Path) -> None:
    arguments = ["--depth", "8", "--iterations", "3000", "--processes", "2"]
    command = [sys.executable, "-m", "workers.training", *arguments, "--work-dir", str(tmp_path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        next(line for line in process.stdout if "test error" in line)
        os.killpg(process.pid, signal.SIGINT)
        table = process.stdout.read().splitlines()[-1]
    assert process.returncode == EXIT_INTERRUPTED
    _, _, iterations = re.split(r"\s{2,}", table)[:3]
    assert 0 < int(iterations) < 3000
    assert [int(entry.name) for entry in tmp_path.iterdir()] == [int(iterations)]


def run_until_killed(iteration: int, work_dir: Path) -> None:
    """Dies between two steps without a signal handler, as in a power cut."""

    class KillingObserver(RecordingObserver):
        @property
        def stop_requested(self) -> StopReason | None:
            if self.steps_started == iteration:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().stop_requested

    run(small_spec(), work_dir, observer=KillingObserver())


@pytest.mark.slow
def test_a_killed_and_resumed_run_ends_with_the_weights_of_the_uninterrupted_one(
    tmp_path: Path,
) -> None:
    process = multiprocessing.get_context("spawn").Process(
        target=run_until_killed, args=(10, tmp_path / "killed")
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert [entry.name for entry in (tmp_path / "killed").iterdir()] == ["00000006"]
    newest = checkpoint.find_newest(tmp_path / "killed")
    _, resumed = run(small_spec(), tmp_path / "resumed", resume=newest)
    _, uninterrupted = run(small_spec(), tmp_path / "uninterrupted")
    assert digests(resumed.files[12]) == digests(uninterrupted.files[12])
