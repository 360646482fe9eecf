"""Shares: the client and the command."""

import resnetd
from tests.client.conftest import Command
from tests.client.service import Service


def test_a_link_is_created_listed_and_revoked(
    command: Command, client: resnetd.Client, service: Service
) -> None:
    job_id = service.submit()
    assert command("share", "create", job_id, "--days", "2") == 0
    url, _, secret = command.out.strip().partition("#")
    assert url == f"{service.url}/shared"
    (share,) = client.shares.list()
    assert share.jobs == (job_id,)
    # The client of the test has another transport than those that commands open.
    with resnetd.Client(service.url, secret) as reader:
        assert reader.jobs.get(job_id).id == job_id
    assert command("share", "list") == 0
    assert command.out.splitlines()[1].startswith(share.id)
    assert command("share", "revoke", share.id) == 0
    assert client.shares.list() == ()
