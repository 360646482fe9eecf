"""Clients whose version differs from that of the server."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import resnetd
from api import client_versions
from resnetd.errors import ApiError, NotFound
from tests.client.faults import FaultyTransport, change_json
from tests.support.api import TOKEN, Api, serving_new


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    path: Path = tmp_path_factory.mktemp("api")
    with serving_new(f"sqlite:///{path / 'resnetd.db'}", path) as served:
        yield served


@pytest.fixture
def client(api: Api) -> Iterator[resnetd.Client]:
    with resnetd.Client(url=api.url, token=TOKEN) as opened:
        yield opened


def test_this_client_is_not_too_old(client: resnetd.Client) -> None:
    assert list(client.jobs.list()) == []


def test_a_version_without_an_end_is_no_version(api: Api) -> None:
    headers = {"User-Agent": f"resnetd-client/{'9' * 5000}.1"}
    assert api.get("/v1/health", headers=headers).status_code == 200


def test_a_client_that_is_too_old_is_asked_to_upgrade(
    client: resnetd.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_versions, "OLDEST_CLIENT", (9, 0))
    with pytest.raises(ApiError, match="too old for this server") as caught:
        client.cluster()
    assert (caught.value.status, caught.value.code) == (426, "client-too-old")
    assert "needs 9.0 or newer; run pip install --upgrade resnetd" in str(caught.value)


def test_a_newer_client_notes_the_older_server_in_its_errors(
    client: resnetd.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_versions, "VERSION", "0.0.9")
    with pytest.raises(NotFound) as caught:
        client.jobs.get("0" * 16)
    (note,) = caught.value.__notes__
    assert "the service is resnetd 0.0.9, older than this client" in note


def test_other_clients_are_not_checked(api: Api) -> None:
    answer = api.get("/v1/cluster", headers={"User-Agent": "curl/8.0"})
    assert answer.status_code == 200
    assert answer.headers["X-Resnetd-Version"] == client_versions.VERSION


def test_a_client_ignores_what_only_a_newer_service_sends(api: Api) -> None:
    """It reads responses with a field and a state that it does not know."""
    job_id = api.core.submit()
    transport = FaultyTransport()
    transport.lasting_fault = change_json(
        lambda job: job.update(energy_joules=3.5, state="hibernating")
    )
    with resnetd.Client(url=api.url, token=TOKEN, transport=transport) as client:
        job = client.jobs.get(job_id)
    assert (job.id, str(job.state), job.is_final) == (job_id, "hibernating", False)
    assert job.document["energy_joules"] == 3.5
