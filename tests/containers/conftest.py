"""The deployment of the tests, or the reason why there is none."""

import json
from collections.abc import Iterator

import pytest

from tests.containers.deployment import PORT, REPORT, Deployment, running_deployment
from tests.containers.engine import ADDRESS, OWN_ADDRESS, find_obstacle, running_engine
from tests.containers.receiver import Receiver, receiving
from tests.support.collector import Collector, collecting


@pytest.fixture(scope="session")
def receiver() -> Iterator[Receiver]:
    """On this machine, outside of the containers."""
    obstacle = find_obstacle()
    if obstacle is not None:
        pytest.skip(obstacle)
    with receiving() as running:
        yield running


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    with collecting("0.0.0.0") as running:
        yield running


@pytest.fixture(scope="session")
def deployment(receiver: Receiver, collector: Collector) -> Iterator[Deployment]:
    del receiver
    settings = {
        "API_BIND": ADDRESS,
        "API_PORT": str(PORT),
        "CPU_WORKERS": "2",
        "RESNETD_WEBHOOK_NETWORKS": json.dumps([f"{OWN_ADDRESS}/32"]),
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{OWN_ADDRESS}:{collector.port}",
    }
    with running_engine() as engine, running_deployment(engine, settings) as running:
        yield running


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if REPORT:
        terminalreporter.section("containers")
        for line in REPORT:
            terminalreporter.write_line(line)
