"""`make study STUDY=fig6 SCALE=smoke`: runs a study on this machine and writes its reports.

Jobs and checkpoints stay in build/study/var: a study that was interrupted continues, and a later
one reuses the jobs that it shares.
"""

import argparse
import signal
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import resnetd
from deploy.local import LocalService, StartError, interrupt

BUILD_PATH = Path("build/study")
FORMATS = ("md", "tex", "csv", "svg", "png")
_POLL_SECONDS = 1.0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make study", description=__doc__)
    parser.add_argument("study", help="a study of the service, as fig6")
    parser.add_argument("--scale", default="smoke", help="smoke, short or paper")
    parser.add_argument("--seeds", type=int, help="default: the scale's")
    parser.add_argument("--dataset", help="default: the scale's")
    parser.add_argument("--data", type=Path, help="the folder of downloaded datasets")
    options = parser.parse_args(arguments)
    console = Console(highlight=False)
    signal.signal(signal.SIGTERM, interrupt)
    settings = {"RESNETD_DATA_DIR": str(options.data.absolute())} if options.data else {}
    service = LocalService(BUILD_PATH / "var", logs_path=BUILD_PATH / "logs", settings=settings)
    console.print("Starting Ray, the API and the dispatcher on this machine ...")
    try:
        with service, resnetd.Client(url=service.url, token=service.token) as client:
            study = client.studies.submit(
                options.study, scale=options.scale, seeds=options.seeds, dataset=options.dataset
            )
            console.print(f"Study {study.id}: {study.origin}", soft_wrap=True)
            console.print(f"Dashboard: {service.url}/ (token in {service.token_path})")
            study = _follow(client, study, console)
            folder = BUILD_PATH / f"{options.study}-{options.scale}"
            folder.mkdir(parents=True, exist_ok=True)
            for file_format in FORMATS:
                path = folder / f"report.{file_format}"
                client.studies.report(study.id, format=file_format, path=path)
            text = (folder / "report.md").read_text("utf-8")
            console.print(text, markup=False, soft_wrap=True)
            console.print(f"Reports: {folder}/report.{{{','.join(FORMATS)}}}", soft_wrap=True)
    except KeyboardInterrupt:
        console.print("Interrupted. All processes have been stopped; the next run continues.")
        return 130
    except (StartError, resnetd.ResnetdError) as error:
        console.print(f"study: {error}", style="red", markup=False, soft_wrap=True)
        return 1
    return 1 if study.has_failed else 0


def _follow(client: resnetd.Client, study: resnetd.Study, console: Console) -> resnetd.Study:
    """The study when all its jobs have ended."""
    columns = (TextColumn("jobs"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("jobs", total=study.total)
        while not study.is_final:
            time.sleep(_POLL_SECONDS)
            study = client.studies.get(study.id)
            progress.update(task, completed=study.finished)
    return study


if __name__ == "__main__":
    sys.exit(main())
