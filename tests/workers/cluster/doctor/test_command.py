"""`resnetd-server doctor`, as an operator runs it."""

from pathlib import Path

import pytest

import service.__main__
from deploy.ray_head import RayHead
from service.storage import schema
from service.storage.database import Database
from tests.support.cluster import HealthEndpoint
from workers.cluster.doctor.node_checks import Check


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, api_health: HealthEndpoint) -> None:
    """A migrated database, a dataset, and an API that is up."""
    monkeypatch.setenv("RESNETD_VAR_DIR", str(tmp_path / "var"))
    monkeypatch.setenv("RESNETD_API_URL", api_health.url)
    (tmp_path / "var" / "data" / "colours").mkdir(parents=True)
    database = Database(f"sqlite:///{tmp_path}/var/resnetd.db")
    schema.upgrade(database)
    database.close()


def test_the_machine_of_the_service_is_checked_without_ray(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert service.__main__.main(["doctor"]) == 0
    assert capsys.readouterr().out == "all checks passed\n"

    monkeypatch.setenv("RESNETD_DATA_DIR", "/missing")
    assert service.__main__.main(["doctor"]) == 1
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("this machine: data: RESNETD_DATA_DIR, /missing, does not exist")
    assert last == "1 check failed"


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "api"])
def test_a_cluster_that_does_not_respond_is_an_error_in_a_sentence(
    url: str,
    monkeypatch: pytest.MonkeyPatch,
    api_health: HealthEndpoint,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RESNETD_RAY_URL", api_health.url if url == "api" else url)
    assert service.__main__.main(["doctor", "--cluster"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("resnetd-server: ")
    assert "Ray" in line


@pytest.mark.ray
def test_each_node_of_the_cluster_is_checked_in_a_task(
    head: RayHead,
    monkeypatch: pytest.MonkeyPatch,
    api_health: HealthEndpoint,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RESNETD_RAY_URL", head.url)
    monkeypatch.setenv("RESNETD_RAY_TOKEN", head.token)
    api_health.is_up = False

    assert service.__main__.main(["doctor", "--cluster"]) == 1

    titles, row, _, *sentences = capsys.readouterr().out.splitlines()
    assert titles.split() == ["node", *Check]
    address = head.address.rpartition(":")[0]
    assert row.split() == [address, *["ok"] * 8, "FAILED"]
    here, there, last = sentences
    assert here.startswith("this machine: api: no response of the API at")
    assert there.startswith(f"{address}: api: no response of the API at {api_health.url}: status")
    assert last == "2 checks failed"
