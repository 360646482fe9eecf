"""The process launcher: a process for each attempt, and the consequences of a death."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client
from pathlib import Path

import psutil
import pytest

from service.ids import new_id
from service.states import Reason
from tests.support.fake_api import FakeApi, Fault, digits_config, eventually, fake_api, settings_of
from workers.cluster import process_launcher
from workers.cluster.attempt_outcome import AttemptFailed
from workers.cluster.process_launcher import ProcessLauncher, RankPlacement, RankProcess

ALONE = RankPlacement(rank=0, local_rank=0, world_size=1, device="cpu", host="127.0.0.1")
KEY = "secret"


@contextmanager
def started_launcher(delivery_seconds: float = 20.0) -> Iterator[str]:
    """The id of the launcher's runner."""
    runner_id = new_id(datetime.now(UTC))
    with ProcessLauncher(runner_id, key=KEY, delivery_seconds=delivery_seconds):
        yield runner_id


@pytest.fixture(scope="module")
def runner_id() -> Iterator[str]:
    with started_launcher() as running:
        yield running


def begin(runner_id: str, api: FakeApi, path: Path) -> RankProcess:
    process = RankProcess(runner_id, ALONE, key=KEY)
    process.join_group(process.rendezvous())
    process.begin_training(settings_of(api, path), api.current_config())
    return process


def pids_of(api: FakeApi) -> list[int]:
    return [report.environment.pids[0] for report in api.reports if report.environment]


def test_every_attempt_has_its_own_process(runner_id: str, tmp_path: Path) -> None:
    with fake_api(digits_config()) as api:
        for number in (1, 2):
            with begin(runner_id, api, tmp_path) as process:
                process.wait_until_trained()
            eventually(partial(lambda wanted: len(api.finishes) == wanted, number))
        first, second = pids_of(api)
        assert first != second
        assert [finish.reason for finish in api.finishes] == [Reason.COMPLETED] * 2


def test_an_attempt_computes_with_as_many_threads_as_it_has_cpus(
    runner_id: str, tmp_path: Path
) -> None:
    config = digits_config(iterations=1_000_000).model_copy(update={"cpus_per_worker": 2})
    with fake_api(config) as api, begin(runner_id, api, tmp_path):
        # A thread pool that was lost in the fork would hang in the first convolution.
        eventually(lambda: api.points)


@pytest.mark.parametrize(
    ("oom_kills", "reason", "message"),
    [
        (0, Reason.WORKER_DIED, "rank 0 was killed by SIGKILL"),
        (1, Reason.OUT_OF_MEMORY, "rank 0 was killed by the kernel because memory was used up"),
    ],
)
def test_the_death_of_an_attempts_process_is_reported_with_its_cause(
    runner_id: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    oom_kills: int,
    reason: Reason,
    message: str,
) -> None:
    count = [4]
    monkeypatch.setattr(process_launcher, "read_oom_kills", lambda: count[0])
    with fake_api(digits_config(iterations=1_000_000)) as api:
        with (
            pytest.raises(AttemptFailed, match=message) as caught,
            begin(runner_id, api, tmp_path) as process,
        ):
            eventually(lambda: pids_of(api))
            count[0] += oom_kills
            os.kill(pids_of(api)[0], signal.SIGKILL)
            process.wait_until_trained()
        assert caught.value.reason is reason


def test_an_attempt_that_fails_reports_its_reason(runner_id: str, tmp_path: Path) -> None:
    config = digits_config()
    missing = config.spec.model_copy(update={"dataset": "cifar10"})
    with fake_api(config.model_copy(update={"spec": missing})) as api:
        with (
            pytest.raises(AttemptFailed, match="resnetd-worker fetch cifar10") as caught,
            begin(runner_id, api, tmp_path) as process,
        ):
            process.wait_until_trained()
        assert caught.value.reason is Reason.DATASET_MISSING


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """For sockets, whose paths have at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="rt", dir="/tmp") as folder:
        yield Path(folder)


def test_nothing_outlives_the_process_that_started_the_launcher(
    tmp_path: Path, short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(short_folder))
    script = (
        "from tests.workers.cluster.test_process_launcher import *\n"
        "with fake_api(digits_config(iterations=1_000_000)) as api, started_launcher() as runner:\n"
        f"    process = begin(runner, api, Path({str(tmp_path)!r}))\n"
        "    eventually(lambda: api.points)\n"
        "    below = psutil.Process().children(recursive=True)\n"
        "    print(*(child.pid for child in below), flush=True)\n"
        "    assert pids_of(api)[0] in {child.pid for child in below}\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, check=False
    )
    assert ended.returncode == -signal.SIGKILL
    pids = [int(word) for word in ended.stdout.split()]
    assert len(pids) >= 2
    eventually(lambda: not any(psutil.pid_exists(pid) for pid in pids))
    # What the killed process left in the temporary folder, the next runner deletes.
    left = [path.name for path in short_folder.iterdir()]
    assert [name.startswith("resnetd-runner-") for name in left] == [True]
    prepare = "from workers.cluster import socket_folder; socket_folder.prepare()"
    subprocess.run([sys.executable, "-c", prepare], check=True)
    assert list(short_folder.iterdir()) == []


def test_nothing_outlives_the_fork_server(tmp_path: Path) -> None:
    script = (
        "from tests.workers.cluster.test_process_launcher import *\n"
        "with fake_api(digits_config(iterations=1_000_000)) as api, started_launcher() as runner:\n"
        f"    process = begin(runner, api, Path({str(tmp_path)!r}))\n"
        "    eventually(lambda: api.points)\n"
        "    training = psutil.Process(pids_of(api)[0])\n"
        "    os.kill(training.ppid(), signal.SIGKILL)\n"
        "    with pytest.raises(AttemptFailed, match='rank 0'):\n"
        "        process.wait_until_trained()\n"
        "    training.wait(20.0)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_next_attempt_does_not_wait_for_the_delivery_of_the_last(tmp_path: Path) -> None:
    config = digits_config()
    with (
        fake_api(config) as slow,
        fake_api(config) as quick,
        started_launcher(60.0) as runner_id,
    ):
        with RankProcess(runner_id, ALONE, key=KEY) as process:
            process.join_group(process.rendezvous())
            slow.inject_fault(Fault.HANGING)
            process.begin_training(settings_of(slow, tmp_path / "slow"), config)
            process.wait_until_trained()
        with begin(runner_id, quick, tmp_path / "quick") as process:
            process.wait_until_trained()
        eventually(lambda: quick.finishes)
        assert slow.finishes == []
        slow.recover()
    assert [finish.reason for finish in slow.finishes] == [Reason.COMPLETED], "closing waits for it"


def test_the_ranks_of_a_node_share_a_launcher(runner_id: str, tmp_path: Path) -> None:
    config = digits_config(num_workers=2)
    placements = [replace(ALONE, rank=rank, local_rank=rank, world_size=2) for rank in (0, 1)]
    with fake_api(config) as api, ExitStack() as opened:
        processes = [
            opened.enter_context(RankProcess(runner_id, placement, key=KEY))
            for placement in placements
        ]
        rendezvous, _ = [process.rendezvous() for process in processes]
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda process: process.join_group(rendezvous), processes))
        for process in processes:
            process.begin_training(settings_of(api, tmp_path), config)
        for process in processes:
            process.wait_until_trained()
        eventually(lambda: api.finishes)


def test_the_process_of_a_rank_that_is_gone_is_killed(runner_id: str, tmp_path: Path) -> None:
    with fake_api(digits_config(iterations=1_000_000)) as api:
        with begin(runner_id, api, tmp_path):
            eventually(lambda: api.points)
        eventually(lambda: not psutil.pid_exists(pids_of(api)[0]))


def test_only_holders_of_the_key_can_connect(runner_id: str) -> None:
    with pytest.raises(AuthenticationError):
        Client(f"\0resnetd-{runner_id}", family="AF_UNIX", authkey=b"another")
