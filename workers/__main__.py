"""`resnetd-worker`: run the dispatcher, a runner or a search's driver; fetch data; evaluate."""

import argparse
import json
import signal
import sys
import threading
from dataclasses import asdict
from pathlib import Path

from service import log, settings
from service.catalog import datasets as catalog_datasets
from service.catalog.datasets import DatasetOrigin
from service.errors import ResnetdError, Unavailable

_RAY_JOBS = frozenset({"runner", "search", "check-nodes", "request-nodes"})


def main(arguments: list[str] | None = None) -> int:
    options = make_parser().parse_args(arguments)
    try:
        if options.command == "dispatcher":
            return _run_dispatcher()
        if options.command in _RAY_JOBS:
            return _run_ray_job(options.command)
        if options.command == "evaluate":
            return _evaluate(options.card, options.weights, options.data_dir)
        return _fetch(
            options.dataset, {} if options.data_dir is None else {"data_dir": options.data_dir}
        )
    except ResnetdError as error:
        print(f"resnetd-worker: {error}", file=sys.stderr)
        return 1


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="resnetd-worker", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("dispatcher", help="start queued jobs on the cluster until interrupted")
    commands.add_parser("runner", help="run attempts of jobs (started by the dispatcher)")
    commands.add_parser("search", help="drive a search (started by the dispatcher)")
    commands.add_parser(
        "check-nodes", help="collect facts of all nodes (started by `resnetd-server doctor`)"
    )
    commands.add_parser(
        "request-nodes", help="request nodes from Ray's autoscaler (started by the dispatcher)"
    )
    fetch = commands.add_parser("fetch", help="download a dataset to where attempts read it")
    downloads = [
        dataset.name
        for dataset in catalog_datasets.DATASETS.values()
        if dataset.origin is DatasetOrigin.DOWNLOAD
    ]
    fetch.add_argument("dataset", choices=sorted(downloads))
    fetch.add_argument("--data-dir", help="default: the setting RESNETD_DATA_DIR")
    evaluate = commands.add_parser(
        "evaluate", help="evaluate the weights of a result card again (used by `resnetd verify`)"
    )
    evaluate.add_argument("card", type=Path, help="a result card")
    evaluate.add_argument("weights", type=Path, help="its weights, as safetensors")
    evaluate.add_argument("--data-dir", help="default: the setting RESNETD_DATA_DIR")
    return parser


def _run_ray_job(command: str) -> int:
    """Imports what the command needs: the dispatcher needs neither Ray nor torch."""
    if command == "runner":
        from workers.cluster import runner_main  # noqa: PLC0415

        return runner_main.main()
    if command == "search":
        from workers.cluster import search_driver  # noqa: PLC0415

        return search_driver.main()
    if command == "request-nodes":
        from workers.cluster import node_request  # noqa: PLC0415

        return node_request.main()
    from workers.cluster.doctor import node_driver  # noqa: PLC0415

    return node_driver.main()


def _run_dispatcher() -> int:
    # Imported here: a runner's process starts faster without them.
    from service.storage import schema  # noqa: PLC0415
    from service.storage.clock import DatabaseClock  # noqa: PLC0415
    from service.storage.database import Database  # noqa: PLC0415
    from service.supervision import start_supervised  # noqa: PLC0415
    from workers.cluster.ray_jobs import RayJobClient  # noqa: PLC0415
    from workers.dispatcher.alert_checker import AlertChecker  # noqa: PLC0415
    from workers.dispatcher.delivery_sender import DeliverySender  # noqa: PLC0415
    from workers.dispatcher.dispatcher import Dispatcher  # noqa: PLC0415
    from workers.dispatcher.mailer import Mailer  # noqa: PLC0415
    from workers.dispatcher.mlflow_mirror import MlflowMirror  # noqa: PLC0415

    configured = settings.load()
    log.configure(configured.log_format)
    database = Database(configured.database_url.get_secret_value())
    schema.require_compatible(database)
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    with database.lock_dispatcher(), RayJobClient.of(configured) as cluster:
        now = DatabaseClock(database)
        clock = start_supervised(lambda: now.follow(stopping), name="clock", stopping=stopping)
        sender = DeliverySender(
            database,
            allowed=configured.webhook_networks,
            mailer=Mailer.of(configured),
            public_url=configured.public_url,
            now=now,
        )
        sending = threading.Thread(target=sender.run, args=(stopping,), name="deliveries")
        sending.start()
        checking = AlertChecker(database, data_dir=configured.data_dir, now=now).start(stopping)
        mirror = MlflowMirror.of(configured, database, now=now)
        if mirror is not None:
            mirror.start(stopping)
        try:
            Dispatcher(configured, database, cluster, now=now).run(stopping)
        finally:
            stopping.set()
            sending.join()
            checking.join()
            if mirror is not None:
                mirror.close()
            clock.join()
    database.close()
    return 0


def _fetch(name: str, overrides: dict[str, str]) -> int:
    data_dir = settings.load(**overrides).data_dir
    # Imported here: torch, as above.
    from workers.training.data import datasets as data_datasets  # noqa: PLC0415

    try:
        data_datasets.fetch_dataset(name, data_dir, on_progress=print)
    except (OSError, RuntimeError) as error:
        raise Unavailable(f"cannot download {name} to {data_dir / name}: {error}") from error
    return 0


def _evaluate(card: Path, weights: Path, data_dir: str | None) -> int:
    """Prints an Evaluation as JSON."""
    overrides = {} if data_dir is None else {"data_dir": data_dir}
    # Imported here: torch, as above.
    from workers.training import verification  # noqa: PLC0415

    try:
        found = verification.evaluate_card(card, weights, settings.load(**overrides).data_dir)
    except OSError as error:
        raise Unavailable(f"{error.filename}: {error.strerror}") from error
    print(json.dumps(asdict(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
