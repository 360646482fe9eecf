"""The whole service with a database of its own, and somebody who breaks it."""

import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

import resnetd
from deploy.local import LocalService
from tests.support.fake_api import eventually
from tests.support.postgres import PostgresServer, postgres_server
from tests.support.services import IMPATIENT

VICTIMS = ("API", "dispatcher", "training", "raylet", "database")
# A process that trains, the one that forks it, the rank that Ray made, the runner's driver, and
# that of a search.
_TRAINING = (
    "workers.cluster.fork_server",
    "ray::RayTrainWorker",
    "workers runner",
    "workers search",
)
_LONGEST_OUTAGE_SECONDS = 5.0

Say = Callable[[str], None]


class World:
    """Whatever of it ends is started again, as an init system would."""

    def __init__(self, service: LocalService, postgres: PostgresServer, url: str, say: Say) -> None:
        self.service = service
        self.database_url = url
        self._postgres = postgres
        self._say = say
        self._is_postgres_down = False

    def client(self) -> resnetd.Client:
        """One that is as patient as outages are long."""
        return resnetd.Client(
            url=self.service.url, token=self.service.token, retry=resnetd.Retry(attempts=30)
        )

    def strike(self, victim: str, chance: random.Random) -> None:
        """SIGKILL or, by chance, an orderly end; then an outage, then a new start."""
        is_kill = chance.random() < 0.7
        outage_seconds = chance.uniform(0.0, _LONGEST_OUTAGE_SECONDS)
        if victim in {"API", "dispatcher"}:
            self._say(f"{_verb(is_kill)} the {victim}, {outage_seconds:.1f} s away")
            self.service.stop_process(victim.lower(), kill=is_kill)
            _wait(outage_seconds)
        elif victim == "database":
            self._say(f"{_verb(is_kill)} the database, {outage_seconds:.1f} s away")
            self._postgres.kill() if is_kill else self._postgres.stop(mode="fast")
            self._is_postgres_down = True
            _wait(outage_seconds)
        elif victim == "raylet":
            self._kill_one_of(("raylet/raylet",), chance)
        else:
            self._kill_one_of(_TRAINING, chance)
        self.mend()

    def mend(self) -> None:
        """Starts again whatever is not there."""
        if self._is_postgres_down:
            self._postgres.start_after_a_crash()
            self._is_postgres_down = False
        head = self.service.ray
        assert head is not None
        if head.process.poll() is not None:
            self._say("Ray's head has ended; another is started")
            head.start_again()
        for name in ("api", "dispatcher"):
            process = self.service.processes.get(name)
            if process is not None and process.poll() is not None:
                self._say(f"the {name} has ended with {process.returncode}; another is started")
                self.service.stop_process(name)
            if name not in self.service.processes:
                self.service.start_process(name)

    def processes(self, *titles: str) -> list[psutil.Process]:
        """Of the service and its cluster, those whose command line holds one of the titles."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                line = " ".join(process.cmdline())
                if any(title in line for title in titles) and self.is_ours(process):
                    found.append(process)
        return found

    def is_ours(self, process: psutil.Process) -> bool:
        """By what every process of this service has in its environment. psutil.Error."""
        head = self.service.ray
        env = process.environ()
        is_in_cluster = head is not None and env.get("RAY_ADDRESS") == head.address
        return is_in_cluster or env.get("RESNETD_VAR_DIR") == str(self.service.var_path)

    def _kill_one_of(self, titles: tuple[str, ...], chance: random.Random) -> None:
        found = self.processes(*titles)
        if not found:
            self._say(f"nobody to kill: {' '.join(titles)}")
            return
        victim = chance.choice(found)
        with suppress(psutil.NoSuchProcess):
            self._say(f"kill {victim.pid}: {' '.join(victim.cmdline())[:80]}")
            victim.kill()


@contextmanager
def world(path: Path, say: Say) -> Iterator[World]:
    """Three workers fit. PostgreSQL writes to its disk before it confirms."""
    with postgres_server(is_durable=True) as postgres:
        url = postgres.new_database()
        settings = IMPATIENT | {
            "RESNETD_DATABASE_URL": url,
            "RESNETD_HEARTBEAT_TIMEOUT_SECONDS": "20",
            "RESNETD_START_TIMEOUT_SECONDS": "90",
            "RESNETD_TERMINATION_GRACE_SECONDS": "10",
        }
        with LocalService(
            path / "var", num_cpus=3, settings=settings, logs_path=path / "logs"
        ) as service:
            made = World(service, postgres, url, say)
            yield made
            head = service.ray
        left = [process for process in psutil.process_iter() if _holds(process, made, head)]
        assert left == [], f"processes outlive the service: {left}"


def _holds(process: psutil.Process, made: World, head: object) -> bool:
    assert head is not None
    with suppress(psutil.Error):
        is_gone = process.status() == psutil.STATUS_ZOMBIE
        env = process.environ()
        return not is_gone and (
            env.get("RESNETD_VAR_DIR") == str(made.service.var_path)
            or env.get("RAY_ADDRESS") == getattr(head, "address", None)
        )
    return False


def _verb(is_kill: bool) -> str:
    return f"kill ({signal.SIGKILL.name})" if is_kill else "restart"


def _wait(seconds: float) -> None:
    """An outage's length is what is tested."""
    deadline = time.monotonic() + seconds
    eventually(lambda: time.monotonic() >= deadline)
