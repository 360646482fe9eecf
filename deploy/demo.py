"""`make demo`: trains a plain and a residual network of the same depth through the service."""

import argparse
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlencode

from rich.console import Console
from rich.table import Table

import resnetd
from deploy.local import LocalService, StartError, interrupt
from resnetd.cli.watch import screen_for, watch

DEPTH = 44
NETWORKS = {f"plain-{DEPTH}": "none", f"resnet-{DEPTH}-A": "A"}
# Long enough for 44 layers to show the effect of the shortcuts.
RECIPE = "quick"
NUM_WORKERS = 2

BUILD_PATH = Path("build/demo")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument(
        "--open",
        action="store_true",
        help="run the service with its dashboard until Ctrl-C (make demo OPEN=1)",
    )
    stays_open: bool = parser.parse_args(arguments).open
    console = Console(highlight=False)
    signal.signal(signal.SIGTERM, interrupt)
    started = time.monotonic()
    # Of the last demo. The files of `make up` are in var/.
    shutil.rmtree(BUILD_PATH, ignore_errors=True)
    service = LocalService(
        BUILD_PATH / "var",
        logs_path=BUILD_PATH / "logs",
        settings={"RESNETD_WARM_RUNNER_WORKERS": str(NUM_WORKERS)},
    )
    _print(console, "Starting Ray, the API and the dispatcher on this machine ...")
    try:
        with service, resnetd.Client(url=service.url, token=service.token) as client:
            seconds = time.monotonic() - started
            _print(console, f"The service runs at {service.url} ({seconds:.0f} s)")
            jobs = _train(client, console, service)
            if jobs is None:
                return 1
            console.print(_table(jobs))
            for job in jobs:
                path = client.jobs.download(job.id, path=BUILD_PATH / f"{job.name}.safetensors")
                _print(console, f"Weights of {job.name}: {path}")
            if stays_open and not _stay_open(console, service, jobs):
                return 1
    except KeyboardInterrupt:
        _print(console, "Interrupted. All processes have been stopped.")
        return 130
    except (StartError, resnetd.ResnetdError) as error:
        _print(console, f"demo: {error}", style="red")
        _print(console, f"The logs are in {BUILD_PATH / 'logs'}")
        return 1
    seconds = time.monotonic() - started
    _print(console, f"Stopped after {seconds:.0f} s. To start your own service: make up")
    return 0


def _train(
    client: resnetd.Client, console: Console, service: LocalService
) -> list[resnetd.Job] | None:
    """Both jobs once they have succeeded. None when one has not, after printing the reason."""
    jobs = [
        client.submit(
            depth=DEPTH,
            shortcut=shortcut,
            dataset="digits",
            name=name,
            recipe=RECIPE,
            resources={"num_workers": NUM_WORKERS},
        )
        for name, shortcut in NETWORKS.items()
    ]
    _print(console, f"Submitted two jobs, each for {NUM_WORKERS} DDP workers.")
    _print(console, "Dataset: digits, 1,797 images of 8x8 pixels.")
    _print_addresses(console, service, jobs)
    jobs = watch(client.jobs, jobs, screen_for(console))
    for job in jobs:
        if job.state is not resnetd.JobState.SUCCEEDED:
            _print(console, f"{job.name}: {job.state} ({job.reason}) {job.message}")
            return None
    return jobs


def _stay_open(console: Console, service: LocalService, jobs: Sequence[resnetd.Job]) -> bool:
    """Returns at Ctrl-C; False once a process has exited by itself."""
    _print_addresses(console, service, jobs)
    _print(console, "Press Ctrl-C to stop.")
    try:
        exited = service.wait_for_exit()
    except KeyboardInterrupt:
        return True
    _print(console, f"demo: {exited} exited unexpectedly", style="red")
    return False


def _print_addresses(console: Console, service: LocalService, jobs: Sequence[resnetd.Job]) -> None:
    query = urlencode([("job", job.id) for job in jobs])
    _print(console, f"Curves of both in a browser: {service.url}/compare?{query}")
    _print(console, f"Sign in with the token in {service.token_path}")


def _table(jobs: list[resnetd.Job]) -> Table:
    table = Table("network", title="Errors in percent; seconds of training without the start")
    for column in ("parameters", "train error", "test error", "seconds"):
        table.add_column(column, justify="right")
    for job in jobs:
        assert job.result is not None
        table.add_row(
            job.name,
            f"{job.parameters:,}",
            f"{job.result.train_error:.2f}",
            f"{job.result.test_error:.2f}",
            f"{job.result.training_seconds:.0f}",
        )
    return table


def _print(console: Console, text: str, *, style: str | None = None) -> None:
    """Without line breaks of our own: a path is copied from the terminal or a pipe."""
    console.print(text, markup=False, soft_wrap=True, style=style)


if __name__ == "__main__":
    sys.exit(main())
