"""`make demo`: trains a plain and a residual network of the same depth through the service."""

import shutil
import signal
import sys
import time
from pathlib import Path

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


def main() -> int:
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
    console.print("Starting Ray, the API and the dispatcher on this machine ...")
    try:
        with service, resnetd.Client(url=service.url, token=service.token) as client:
            console.print(f"The service runs at {service.url} ({time.monotonic() - started:.0f} s)")
            jobs = _train(client, console)
            if jobs is None:
                return 1
            console.print(_table(client, jobs))
    except KeyboardInterrupt:
        console.print("Interrupted. All processes have been stopped.")
        return 130
    except (StartError, resnetd.ResnetdError) as error:
        console.print(f"demo: {error}", markup=False, style="red")
        console.print(f"The logs are in {BUILD_PATH / 'logs'}")
        return 1
    seconds = time.monotonic() - started
    console.print(f"Stopped after {seconds:.0f} s. To start your own service: make up")
    return 0


def _train(client: resnetd.Client, console: Console) -> list[resnetd.Job] | None:
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
    console.print(
        f"Submitted two jobs, each for {NUM_WORKERS} DDP workers. "
        "Dataset: digits, 1,797 images of 8x8 pixels."
    )
    jobs = watch(client.jobs, jobs, screen_for(console))
    for job in jobs:
        if job.state is not resnetd.JobState.SUCCEEDED:
            console.print(f"{job.name}: {job.state} ({job.reason}) {job.message}", markup=False)
            return None
    return jobs


def _table(client: resnetd.Client, jobs: list[resnetd.Job]) -> Table:
    table = Table("network", title="Errors in percent; seconds of training without the start")
    for column in ("parameters", "train error", "test error", "seconds"):
        table.add_column(column, justify="right")
    table.add_column("weights", overflow="fold")
    for job in jobs:
        assert job.result is not None
        path = client.jobs.download(job.id, path=BUILD_PATH / f"{job.name}.safetensors")
        table.add_row(
            job.name,
            f"{job.parameters:,}",
            f"{job.result.train_error:.2f}",
            f"{job.result.test_error:.2f}",
            f"{job.result.training_seconds:.0f}",
            str(path),
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
