"""The service with its own PostgreSQL and Ray, and the faults that are injected into them."""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

import resnetd
from deploy.local import LocalService
from tests.support.postgres import PostgresServer, postgres_server
from tests.support.services import FAST_RECOVERY

FAULT_TARGETS = ("api", "dispatcher", "training", "raylet", "database")
# Command lines of a job's or search's processes: a process that trains or forks such ones, the
# rank that Ray starts, the runner's driver, a search's driver.
_TRAINING = (
    "multiprocessing.forkserver",
    "ray::RayTrainWorker",
    "workers runner",
    "workers search",
)
# Of the remaining faults, stops in order.
_SIGKILL_SHARE = 0.7
_MAX_OUTAGE_SECONDS = 5.0

Log = Callable[[str], None]


class Environment:
    """Injects faults, and restarts what has stopped, as an init system would."""

    def __init__(
        self, service: LocalService, postgres: PostgresServer, database_url: str, log: Log
    ) -> None:
        self.service = service
        self.database_url = database_url
        self._postgres = postgres
        self._log = log
        self._is_postgres_down = False

    def client(self) -> resnetd.Client:
        """Retries for longer than any outage lasts."""
        return resnetd.Client(
            url=self.service.url, token=self.service.token, retry=resnetd.Retry(attempts=30)
        )

    def inject_fault(self, target: str, random_numbers: random.Random) -> None:
        """Stops one of FAULT_TARGETS, waits for some seconds, and restarts it.

        The API, the dispatcher and the database get SIGKILL or are stopped in order.
        """
        if target == "raylet":
            self._kill_one_of(("raylet/raylet",), random_numbers)
        elif target == "training":
            self._kill_one_of(_TRAINING, random_numbers)
        else:
            is_killed = random_numbers.random() < _SIGKILL_SHARE
            seconds = random_numbers.uniform(0.0, _MAX_OUTAGE_SECONDS)
            action = "kill" if is_killed else "stop"
            self._log(f"{action} the {target}, restart it after {seconds:.1f} s")
            if target == "database":
                self._postgres.kill() if is_killed else self._postgres.stop(mode="fast")
                self._is_postgres_down = True
            else:
                self.service.stop_process(target, kill=is_killed)
            time.sleep(seconds)
        self.restart_stopped()

    def restart_stopped(self) -> None:
        """Restarts each process of the service that does not run, and Ray's head."""
        if self._is_postgres_down:
            self._postgres.start_after_crash()
            self._is_postgres_down = False
        head = self.service.ray
        assert head is not None
        if head.process.poll() is not None:
            self._log("the Ray head has ended; restart it")
            head.restart()
        for name in ("api", "dispatcher"):
            process = self.service.processes.get(name)
            if process is not None and process.poll() is not None:
                self._log(f"the {name} has ended with status {process.returncode}; restart it")
                self.service.stop_process(name)
            if name not in self.service.processes:
                self.service.start_process(name)

    def processes(self, *titles: str) -> list[psutil.Process]:
        """Processes of the service and its cluster whose command line contains a title."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                command_line = " ".join(process.cmdline())
                if any(title in command_line for title in titles) and self.owns(process):
                    found.append(process)
        return found

    def owns(self, process: psutil.Process) -> bool:
        """Whether the process belongs to this service, by its environment. psutil.Error."""
        head = self.service.ray
        env = process.environ()
        is_in_cluster = head is not None and env.get("RAY_ADDRESS") == head.address
        return is_in_cluster or env.get("RESNETD_VAR_DIR") == str(self.service.var_path)

    def _kill_one_of(self, titles: tuple[str, ...], random_numbers: random.Random) -> None:
        processes = self.processes(*titles)
        if not processes:
            self._log(f"no process to kill: {', '.join(titles)}")
            return
        process = random_numbers.choice(processes)
        with suppress(psutil.NoSuchProcess):
            self._log(f"kill {process.pid}: {' '.join(process.cmdline())[:80]}")
            process.kill()


@contextmanager
def run_environment(
    path: Path, log: Log, *, num_cpus: int, warm_runner_workers: int
) -> Iterator[Environment]:
    """The service with all its files below `path`; PostgreSQL commits to the disk.

    AssertionError when a process outlives the service.
    """
    with postgres_server(is_durable=True) as postgres:
        database_url = postgres.new_database()
        settings = FAST_RECOVERY | {
            "RESNETD_DATABASE_URL": database_url,
            "RESNETD_WARM_RUNNER_WORKERS": str(warm_runner_workers),
            "RESNETD_HEARTBEAT_TIMEOUT_SECONDS": "20",
            "RESNETD_START_TIMEOUT_SECONDS": "90",
            "RESNETD_TERMINATION_GRACE_SECONDS": "10",
        }
        # As an interrupted fetch leaves it: the API sees the folder, a training finds no images.
        (path / "var" / "data" / "cifar10").mkdir(parents=True)
        with LocalService(
            path / "var", num_cpus=num_cpus, settings=settings, logs_path=path / "logs"
        ) as service:
            environment = Environment(service, postgres, database_url, log)
            yield environment
            head = service.ray
            assert head is not None
        survivors = [
            process
            for process in psutil.process_iter()
            if _is_alive_with(process, "RESNETD_VAR_DIR", str(service.var_path))
            or _is_alive_with(process, "RAY_ADDRESS", head.address)
        ]
        assert survivors == [], f"processes outlive the service: {survivors}"


def _is_alive_with(process: psutil.Process, variable: str, value: str) -> bool:
    with suppress(psutil.Error):
        return process.status() != psutil.STATUS_ZOMBIE and process.environ().get(variable) == value
    return False
