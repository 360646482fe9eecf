"""The fork server: a process for each attempt, and what becomes of it when one dies."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from service.states import Reason
from tests.support.fake_api import TOKEN, FakeApi, Fault, digits_brief, eventually, fake_api
from workers.cluster.attempt import AttemptFailed, AttemptSettings
from workers.cluster.fork_server import Fork, ForkServer, Seat

ALONE = Seat(rank=0, local_rank=0, world_size=1, device="cpu", host="127.0.0.1")


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with ForkServer(20.0) as running:
        yield running


def _settings(api: FakeApi, path: Path) -> AttemptSettings:
    return AttemptSettings(
        api_url=api.url,
        attempt_id=api.attempt.attempt_id,
        token=TOKEN,
        data_path=path / "data",
        work_path=path / "work",
    )


def _begin(server: ForkServer, api: FakeApi, path: Path) -> Fork:
    fork = server.fork(ALONE)
    fork.meet(fork.meeting_place())
    fork.begin(_settings(api, path), api.get_brief())
    return fork


def _pids(api: FakeApi) -> list[int]:
    return [report.facts.pids[0] for report in api.reports if report.facts]


def test_every_attempt_has_a_process_of_its_own(server: ForkServer, tmp_path: Path) -> None:
    with fake_api(digits_brief()) as api:
        for number in (1, 2):
            _begin(server, api, tmp_path).wait()
            eventually(partial(lambda wanted: len(api.finishes) == wanted, number))
        first, second = _pids(api)
        assert first != second
        assert [finish.reason for finish in api.finishes] == [Reason.COMPLETED] * 2


def test_an_attempt_computes_with_as_many_threads_as_it_has_cpus(
    server: ForkServer, tmp_path: Path
) -> None:
    brief = digits_brief(iterations=1_000_000).model_copy(update={"cpus_per_worker": 2})
    with fake_api(brief) as api:
        fork = _begin(server, api, tmp_path)
        eventually(lambda: api.points)
        # A pool that was lost in the fork would have hung in the first convolution.
        psutil.Process(_pids(api)[0]).kill()
        with pytest.raises(AttemptFailed):
            fork.wait()


def test_the_death_of_an_attempts_process_is_told_with_its_signal(
    server: ForkServer, tmp_path: Path
) -> None:
    brief = digits_brief(iterations=1_000_000)
    with fake_api(brief) as api:
        fork = _begin(server, api, tmp_path)
        eventually(lambda: _pids(api))
        os.kill(_pids(api)[0], signal.SIGKILL)
        with pytest.raises(AttemptFailed, match="rank 0 was killed by SIGKILL") as caught:
            fork.wait()
        assert caught.value.reason is Reason.WORKER_DIED


def test_an_attempt_that_fails_says_why(server: ForkServer, tmp_path: Path) -> None:
    brief = digits_brief()
    missing = brief.spec.model_copy(update={"dataset": "cifar10"})
    with fake_api(brief.model_copy(update={"spec": missing})) as api:
        with pytest.raises(AttemptFailed, match="resnetd-worker fetch cifar10") as caught:
            _begin(server, api, tmp_path).wait()
        assert caught.value.reason is Reason.DATASET_MISSING
        assert server.hear() == {"over": 1}


def test_nothing_outlives_the_process_that_started_the_server(tmp_path: Path) -> None:
    script = (
        "from tests.workers.cluster.test_fork_server import *\n"
        "from tests.workers.cluster.test_fork_server import _begin\n"
        "brief = digits_brief(iterations=1_000_000)\n"
        "with fake_api(brief) as api:\n"
        "    server = ForkServer(20.0)\n"
        f"    _begin(server, api, Path({str(tmp_path)!r}))\n"
        "    eventually(lambda: api.points)\n"
        "    print(server._process.pid, api.reports[0].facts.pids[0], flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, check=False
    )
    assert ended.returncode == -signal.SIGKILL
    pids = [int(word) for word in ended.stdout.split()]
    assert len(pids) == 2
    eventually(lambda: not any(psutil.pid_exists(pid) for pid in pids))


def test_the_next_attempt_does_not_wait_for_what_the_last_one_delivers(tmp_path: Path) -> None:
    brief = digits_brief()
    with fake_api(brief) as slow, fake_api(brief) as quick, ForkServer(60.0) as server:
        fork = server.fork(ALONE)
        fork.meet(fork.meeting_place())
        slow.break_down(Fault.HANGING)
        fork.begin(_settings(slow, tmp_path / "slow"), brief)
        fork.wait()
        _begin(server, quick, tmp_path / "quick").wait()
        eventually(lambda: quick.finishes)
        assert slow.finishes == []
        slow.recover()
    assert [finish.reason for finish in slow.finishes] == [Reason.COMPLETED], "closing waits for it"
