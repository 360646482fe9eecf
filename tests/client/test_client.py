"""Requests of the client to the real API, and its errors."""

import pytest

import resnetd
from service.states import Reason
from tests.client import faults
from tests.client.conftest import QUICK
from tests.client.faults import body_of
from tests.client.service import SPEC, Service


def test_three_fields_are_enough_to_submit(client: resnetd.Client) -> None:
    job = client.submit(depth=20, shortcut="A", dataset="digits")
    assert job.state is resnetd.JobState.QUEUED
    assert job.network == "resnet-20-A"
    assert client.jobs.get(job.id).spec == job.spec


def test_fields_override_a_spec(service: Service, client: resnetd.Client) -> None:
    client.submit(SPEC, depth=56)
    (request,) = service.transport.find("POST", "/v1/jobs")
    assert body_of(request) == SPEC | {"depth": 56}


def test_the_same_key_returns_the_first_job(client: resnetd.Client) -> None:
    first = client.submit(SPEC, idempotency_key="nightly")
    assert client.submit(SPEC, idempotency_key="nightly").id == first.id
    assert client.submit(SPEC).id != first.id
    with pytest.raises(resnetd.IdempotencyMismatch):
        client.submit(SPEC, depth=56, idempotency_key="nightly")


def test_an_idempotency_key_must_be_printable_ascii(client: resnetd.Client) -> None:
    with pytest.raises(ValueError, match="printable ASCII"):
        client.submit(SPEC, idempotency_key="a\nb")


def test_an_invalid_spec_has_an_error_for_each_field(client: resnetd.Client) -> None:
    with pytest.raises(resnetd.InvalidInput) as caught:
        client.submit(depth=33, shortcut="A", dataset="digits", recipe={"batch_size": 0})
    fields = {str(field_error).partition(":")[0] for field_error in caught.value.errors}
    assert fields == {"depth", "recipe.batch_size"}
    assert (caught.value.status, caught.value.code) == (422, "invalid-input")
    assert caught.value.request_id is not None


def test_a_job_that_is_larger_than_the_cluster_cannot_fit(client: resnetd.Client) -> None:
    with pytest.raises(resnetd.CannotFit):
        client.submit(SPEC, resources={"num_workers": 16, "cpus_per_worker": 16})


def test_a_refused_token_is_never_shown(service: Service) -> None:
    with resnetd.Client(service.url, "an-unknown-token") as client:
        with pytest.raises(resnetd.Unauthorized) as caught:
            client.cluster()
        assert repr(client) == f"Client('{service.url}')"
    assert "an-unknown-token" not in f"{caught.value} {caught.value.__notes__}"


def test_an_error_without_a_token_says_how_to_set_it(service: Service) -> None:
    with resnetd.Client(service.url) as client, pytest.raises(resnetd.Unauthorized) as caught:
        client.cluster()
    assert "RESNETD_TOKEN" in caught.value.__notes__[0]


def test_jobs_are_read_from_all_pages_on_demand(
    service: Service, client: resnetd.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resnetd.resources.PAGE_SIZE", 2)
    ids = [service.submit() for _ in range(5)][::-1]
    assert [job.id for job in client.jobs.list()] == ids
    service.transport.requests.clear()
    assert [job.id for job in client.jobs.list(limit=3)] == ids[:3]
    assert len(service.transport.requests) == 2


def test_jobs_are_filtered(service: Service, client: resnetd.Client) -> None:
    job_id = service.submit(tags=["nightly", "a"], name="mine", depth=14)
    service.submit(tags=["nightly"])
    service.end(Reason.DIVERGED, tags=["nightly", "a"], priority=100)
    found = client.jobs.list(
        state=["queued", "running"], tag=["a", "nightly"], dataset="digits", name="min"
    )
    assert [job.id for job in found] == [job_id]


def test_jobs_are_listed_by_the_prefix_of_their_id(
    service: Service, client: resnetd.Client
) -> None:
    ids = [service.submit_later(days) for days in (1, 400, 800)]
    assert client.jobs.find(ids[1][:4]).id == ids[1]
    with pytest.raises(resnetd.NotFound):
        client.jobs.find("0zzz")
    second_id = service.submit()
    with pytest.raises(resnetd.AmbiguousId, match="several jobs") as caught:
        client.jobs.find(ids[2][:4])
    assert [job.id for job in caught.value.candidates] == [second_id, ids[2]]


def test_an_id_stays_one_segment_of_the_path(service: Service, client: resnetd.Client) -> None:
    with pytest.raises(resnetd.NotFound):
        client.jobs.cancel("x/../../datasets?a#b")
    (request,) = service.transport.requests
    assert request.url.raw_path == b"/v1/jobs/x%2F..%2F..%2Fdatasets%3Fa%23b/cancel"


def test_progress_and_metrics_are_read(service: Service, client: resnetd.Client) -> None:
    training = service.run()
    assert client.jobs.get(training.job_id).progress is None
    training.progress(5, test_error=50.0, train_loss=None)
    training.progress(10, test_error=12.0)
    progress = client.jobs.get(training.job_id).progress
    assert progress is not None
    assert (progress.iteration, progress.iterations, progress.percent) == (10, 20, 50.0)
    assert progress.metrics == {"test/error": 12.0, "train/loss": None}
    series = client.jobs.metrics(training.job_id, series=["test/error", "train/loss"])
    assert (series["test/error"].iterations, series["test/error"].values) == ((5, 10), (50, 12))
    assert series["train/loss"].values == (None,)


def test_events_and_logs_are_read_from_all_pages(service: Service, client: resnetd.Client) -> None:
    training = service.run()
    training.log("first", "second", "third")
    service.transport.lasting_fault = faults.add_query(limit="2")
    numbers = [event.number for event in client.jobs.events(training.job_id)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) > 2
    rest = client.jobs.events(training.job_id, after=2)
    assert [event.number for event in rest] == numbers[2:]
    lines = list(client.jobs.logs(training.job_id))
    assert [line.message for line in lines] == ["first", "second", "third"]


def test_an_ended_job_cannot_be_cancelled(service: Service, client: resnetd.Client) -> None:
    job_id = service.submit()
    assert client.jobs.cancel(job_id).state is resnetd.JobState.CANCELLED
    with pytest.raises(resnetd.Conflict):
        client.jobs.cancel(service.end(Reason.COMPLETED))


@pytest.mark.parametrize(
    ("reason", "error"),
    [
        (Reason.DIVERGED, resnetd.JobFailed),
        (Reason.TIME_LIMIT, resnetd.JobTimedOut),
        (Reason.CANCELLED, resnetd.JobCancelled),
    ],
)
def test_waiting_for_a_job_that_does_not_succeed_raises(
    service: Service, client: resnetd.Client, reason: Reason, error: type[resnetd.JobNotSucceeded]
) -> None:
    job_id = service.end(reason)
    with pytest.raises(error, match=reason) as caught:
        client.jobs.wait(job_id)
    assert type(caught.value) is error
    assert client.jobs.wait(job_id, check=False) == caught.value.job


def test_waiting_ends_when_the_service_holds_the_job(
    service: Service, client: resnetd.Client
) -> None:
    job_id = service.hold()
    with pytest.raises(resnetd.JobHeld, match=r"is held by the service \(worker-died: 3 attempts"):
        client.jobs.wait(job_id)
    assert client.jobs.wait(job_id, check=False).is_held_by_service


def test_waiting_for_a_job_that_a_user_holds_continues(
    service: Service, client: resnetd.Client
) -> None:
    job_id = service.submit(hold=True)
    with pytest.raises(resnetd.NotFinished):
        client.jobs.wait(job_id, timeout_seconds=0.02)


def test_waiting_outlasts_an_outage(service: Service, client: resnetd.Client) -> None:
    job_id = service.end(Reason.COMPLETED)
    service.inject(*[faults.unavailable()] * (5 * QUICK.attempts))
    assert client.jobs.wait(job_id, poll_seconds=0.001).result is not None
    assert service.transport.faults == []


def test_waiting_ends_at_its_timeout(service: Service, client: resnetd.Client) -> None:
    job_id = service.submit()
    with pytest.raises(resnetd.NotFinished, match=r"still queued after 0\.02 s") as caught:
        client.jobs.wait(job_id, timeout_seconds=0.02)
    assert caught.value.latest.id == job_id


def test_a_timeout_ends_also_a_wait_during_an_outage(
    service: Service, client: resnetd.Client
) -> None:
    service.transport.lasting_fault = faults.refuse_connection
    with pytest.raises(resnetd.CannotConnect):
        client.jobs.wait("0f3k000000000001", timeout_seconds=0.02)


@pytest.mark.parametrize("status", [200, 404])
def test_a_page_of_another_server_is_not_a_response(
    service: Service, client: resnetd.Client, status: int
) -> None:
    service.inject(faults.respond(status, b"<html>", Content_Type="text/html"))
    with pytest.raises(resnetd.UnexpectedResponse, match="is it the URL of a resnetd service"):
        client.cluster()


def test_a_response_that_lacks_a_field_names_it(service: Service, client: resnetd.Client) -> None:
    job_id = service.submit()
    service.inject(faults.change_json(lambda job: job.pop("state")))
    with pytest.raises(resnetd.UnexpectedResponse, match=r"not a valid Job: .* `state`"):
        client.jobs.get(job_id)
    service.inject(faults.change_json(lambda page: page.pop("jobs")))
    with pytest.raises(resnetd.UnexpectedResponse, match="a list 'jobs' is missing"):
        list(client.jobs.list())


def test_a_redirect_is_not_followed_with_the_token(
    service: Service, client: resnetd.Client
) -> None:
    service.inject(faults.respond(302, b"{}", Location="http://127.0.0.1:1/elsewhere"))
    with pytest.raises(resnetd.ApiError):
        client.cluster()
