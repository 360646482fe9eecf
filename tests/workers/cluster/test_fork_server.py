"""The fork server: a process for each attempt, and what becomes of it when one dies."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import psutil
import pytest

from service.ids import new_id
from service.states import Reason
from tests.support.fake_api import FakeApi, Fault, digits_brief, eventually, fake_api, settings_of
from workers.cluster.attempt_outcome import AttemptFailed
from workers.cluster.fork_client import (
    ForkedProcess,
    ForkServerClient,
    RankAssignment,
    run_fork_server,
)

ALONE = RankAssignment(rank=0, local_rank=0, world_size=1, device="cpu", host="127.0.0.1")


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServerClient]:
    with own_server(20.0) as running:
        yield running


def own_server(delivery_seconds: float) -> ForkServerClient:
    return ForkServerClient(
        new_id(datetime.now(UTC)), is_first=True, delivery_seconds=delivery_seconds
    )


def _begin(server: ForkServerClient, api: FakeApi, path: Path) -> ForkedProcess:
    fork = server.fork(ALONE)
    fork.meet(fork.meeting_place())
    fork.begin(settings_of(api, path), api.get_brief())
    return fork


def _pids(api: FakeApi) -> list[int]:
    return [report.environment.pids[0] for report in api.reports if report.environment]


def test_every_attempt_has_a_process_of_its_own(server: ForkServerClient, tmp_path: Path) -> None:
    with fake_api(digits_brief()) as api:
        for number in (1, 2):
            with _begin(server, api, tmp_path) as fork:
                fork.wait()
            eventually(partial(lambda wanted: len(api.finishes) == wanted, number))
        first, second = _pids(api)
        assert first != second
        assert [finish.reason for finish in api.finishes] == [Reason.COMPLETED] * 2


def test_an_attempt_computes_with_as_many_threads_as_it_has_cpus(
    server: ForkServerClient, tmp_path: Path
) -> None:
    brief = digits_brief(iterations=1_000_000).model_copy(update={"cpus_per_worker": 2})
    with fake_api(brief) as api, _begin(server, api, tmp_path):
        # A pool that was lost in the fork would have hung in the first convolution.
        eventually(lambda: api.points)


def test_the_death_of_an_attempts_process_is_told_with_its_signal(
    server: ForkServerClient, tmp_path: Path
) -> None:
    brief = digits_brief(iterations=1_000_000)
    with fake_api(brief) as api:
        with (
            pytest.raises(AttemptFailed, match="rank 0 was killed by SIGKILL") as caught,
            _begin(server, api, tmp_path) as fork,
        ):
            eventually(lambda: _pids(api))
            os.kill(_pids(api)[0], signal.SIGKILL)
            fork.wait()
        assert caught.value.reason is Reason.WORKER_DIED


def test_an_attempt_that_fails_says_why(server: ForkServerClient, tmp_path: Path) -> None:
    brief = digits_brief()
    missing = brief.spec.model_copy(update={"dataset": "cifar10"})
    with fake_api(brief.model_copy(update={"spec": missing})) as api:
        with (
            pytest.raises(AttemptFailed, match="resnetd-worker fetch cifar10") as caught,
            _begin(server, api, tmp_path) as fork,
        ):
            fork.wait()
        assert caught.value.reason is Reason.DATASET_MISSING


def test_nothing_outlives_the_process_that_started_the_server(tmp_path: Path) -> None:
    runner_id = new_id(datetime.now(UTC))
    script = (
        "from tests.workers.cluster.test_fork_server import *\n"
        "from tests.workers.cluster.test_fork_server import _begin\n"
        "brief = digits_brief(iterations=1_000_000)\n"
        "with fake_api(brief) as api:\n"
        f"    server = ForkServerClient({runner_id!r}, is_first=True, delivery_seconds=20.0)\n"
        f"    fork = _begin(server, api, Path({str(tmp_path)!r}))\n"
        "    eventually(lambda: api.points)\n"
        "    [forks] = psutil.Process().children()\n"
        "    print(forks.pid, api.reports[0].environment.pids[0], flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, check=False
    )
    assert ended.returncode == -signal.SIGKILL
    pids = [int(word) for word in ended.stdout.split()]
    assert len(pids) == 2
    eventually(lambda: not any(psutil.pid_exists(pid) for pid in pids))
    assert not list(Path(tempfile.gettempdir()).glob(f"*{runner_id}*"))


def test_the_next_attempt_does_not_wait_for_what_the_last_one_delivers(tmp_path: Path) -> None:
    brief = digits_brief()
    with fake_api(brief) as slow, fake_api(brief) as quick, own_server(60.0) as server:
        with server.fork(ALONE) as fork:
            fork.meet(fork.meeting_place())
            slow.break_down(Fault.HANGING)
            fork.begin(settings_of(slow, tmp_path / "slow"), brief)
            fork.wait()
        with _begin(server, quick, tmp_path / "quick") as fork:
            fork.wait()
        eventually(lambda: quick.finishes)
        assert slow.finishes == []
        slow.recover()
    assert [finish.reason for finish in slow.finishes] == [Reason.COMPLETED], "closing waits for it"


def test_the_ranks_of_a_node_share_the_server_that_its_runner_has_started(tmp_path: Path) -> None:
    runner_id = new_id(datetime.now(UTC))
    brief = digits_brief(num_workers=2)
    seats = [replace(ALONE, rank=rank, local_rank=rank, world_size=2) for rank in (0, 1)]
    with fake_api(brief) as api, run_fork_server(runner_id), ExitStack() as opened:
        children = len(psutil.Process().children())
        forks = []
        for seat in seats:
            server = ForkServerClient(
                runner_id, is_first=seat.local_rank == 0, delivery_seconds=20.0
            )
            opened.enter_context(server)
            forks.append(opened.enter_context(server.fork(seat)))
        place = forks[0].meeting_place()
        forks[1].meeting_place()
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda fork: fork.meet(place), forks))
        for fork in forks:
            fork.begin(settings_of(api, tmp_path), brief)
        for fork in forks:
            fork.wait()
        eventually(lambda: api.finishes)
        assert len(psutil.Process().children()) == children


def test_the_process_of_a_rank_that_is_gone_is_killed(
    server: ForkServerClient, tmp_path: Path
) -> None:
    with fake_api(digits_brief(iterations=1_000_000)) as api:
        with _begin(server, api, tmp_path):
            eventually(lambda: api.points)
        eventually(lambda: not psutil.pid_exists(_pids(api)[0]))
