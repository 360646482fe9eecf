"""Each question of the client, and what it does when the answer does not come."""

import time

import pytest

import resnetd
from tests.client.conftest import QUICK
from tests.client.fake_service import TOKEN, FakeService


def test_three_fields_are_enough_to_submit(service: FakeService, client: resnetd.Client) -> None:
    job = client.submit(depth=20, shortcut="A", dataset="digits")
    assert job.state is resnetd.JobState.QUEUED
    assert job.spec == {"depth": 20, "shortcut": "A", "dataset": "digits"}
    assert list(service.jobs) == [job.id]


def test_fields_override_a_spec(service: FakeService, client: resnetd.Client) -> None:
    spec = {"depth": 20, "shortcut": "A", "dataset": "digits"}
    client.submit(spec, depth=56)
    (request,) = service.asked("POST", "/v1/jobs")
    assert request.body == {"depth": 56, "shortcut": "A", "dataset": "digits"}


def test_a_submission_whose_answer_is_lost_makes_one_job(
    service: FakeService, client: resnetd.Client
) -> None:
    service.break_next_answers(2)
    job = client.submit(depth=20, shortcut="A", dataset="digits")
    posts = service.asked("POST", "/v1/jobs")
    assert len(posts) == 3
    assert len({post.headers["idempotency-key"] for post in posts}) == 1
    assert list(service.jobs) == [job.id]


def test_two_submissions_make_two_jobs(client: resnetd.Client) -> None:
    spec = {"depth": 20, "shortcut": "A", "dataset": "digits"}
    assert client.submit(spec).id != client.submit(spec).id


def test_the_same_key_answers_the_first_job(client: resnetd.Client) -> None:
    spec = {"depth": 20, "shortcut": "A", "dataset": "digits"}
    first = client.submit(spec, idempotency_key="nightly")
    assert client.submit(spec, idempotency_key="nightly").id == first.id


def test_a_wrong_depth_is_told_where_and_what_would_be_right(client: resnetd.Client) -> None:
    with pytest.raises(resnetd.InvalidInput) as caught:
        client.submit(depth=33, shortcut="A", dataset="digits")
    first, second = caught.value.errors
    assert str(first).startswith("depth: must be 6n+2 for a cifar network")
    assert str(second) == "recipe.batch_size: is too small"
    assert (caught.value.status, caught.value.code) == (422, "invalid-input")
    assert caught.value.request_id == "r-1"


def test_an_unavailable_service_is_asked_again(
    service: FakeService, client: resnetd.Client
) -> None:
    job_id = service.add_job()
    service.be_unavailable(2)
    assert client.job(job_id).id == job_id


def test_a_service_that_stays_unavailable_is_said_to_be(
    service: FakeService, client: resnetd.Client
) -> None:
    service.be_unavailable(QUICK.attempts)
    with pytest.raises(resnetd.Unavailable, match="the database is away"):
        client.job("0f3k000000000001")
    assert len(service.requests) == QUICK.attempts


def test_nothing_but_failures_that_pass_is_asked_again(
    service: FakeService, client: resnetd.Client
) -> None:
    with pytest.raises(resnetd.NotFound):
        client.job("0f3k000000000001")
    assert len(service.requests) == 1


def test_a_service_that_is_not_there_cannot_be_connected_to(
    service: FakeService, client: resnetd.Client
) -> None:
    service.stop()
    with pytest.raises(resnetd.CannotConnect, match=service.url):
        client.job("0f3k000000000001")


def test_health_is_asked_once_and_at_once(service: FakeService, client: resnetd.Client) -> None:
    client.health()
    service.be_unavailable(1)
    with pytest.raises(resnetd.Unavailable):
        client.health()


def test_a_wrong_token_is_refused_and_never_shown(service: FakeService) -> None:
    secret = "not-the-right-one"
    with resnetd.Client(service.url, secret) as client:
        with pytest.raises(resnetd.Unauthorized) as caught:
            client.job("0f3k000000000001")
        assert secret not in repr(client)
    assert secret not in f"{caught.value} {caught.value.__notes__}"


def test_without_a_token_the_refusal_says_how_to_give_one(service: FakeService) -> None:
    with resnetd.Client(service.url) as client, pytest.raises(resnetd.Unauthorized) as caught:
        client.job("0f3k000000000001")
    assert "RESNETD_TOKEN" in caught.value.__notes__[0]


def test_jobs_are_read_over_all_pages(service: FakeService, client: resnetd.Client) -> None:
    ids = [service.add_job(f"0f3k00000000000{number}") for number in range(5)]
    service.page_size = 2
    assert [job.id for job in client.jobs()] == ids[::-1]


def test_only_the_pages_that_are_needed_are_read(
    service: FakeService, client: resnetd.Client
) -> None:
    for number in range(5):
        service.add_job(f"0f3k00000000000{number}")
    service.page_size = 2
    assert len(list(client.jobs(limit=3))) == 3
    assert len(service.asked("GET", "/v1/jobs")) == 2


def test_jobs_are_asked_for_by_state_and_tag(service: FakeService, client: resnetd.Client) -> None:
    list(client.jobs(state=["queued", "running"], tag="nightly", dataset="digits", name="mine"))
    (request,) = service.asked("GET", "/v1/jobs")
    assert request.query == {
        "state": ["queued", "running"],
        "tag": ["nightly"],
        "dataset": ["digits"],
        "name": ["mine"],
        "limit": ["100"],
    }


def test_a_job_is_found_by_how_its_id_begins(service: FakeService, client: resnetd.Client) -> None:
    for job_id in ("0f3j000000000001", "0f3k000000000001", "0f3m000000000001"):
        service.add_job(job_id)
    assert client.find_job("0f3k").id == "0f3k000000000001"


def test_an_id_that_several_jobs_begin_with_names_them(
    service: FakeService, client: resnetd.Client
) -> None:
    for job_id in ("0f3k000000000001", "0f3k000000000002"):
        service.add_job(job_id)
    with pytest.raises(resnetd.AmbiguousId) as caught:
        client.find_job("0f3k")
    assert [job.id for job in caught.value.candidates] == ["0f3k000000000002", "0f3k000000000001"]


def test_an_id_that_no_job_begins_with_is_not_found(
    service: FakeService, client: resnetd.Client
) -> None:
    service.add_job("0f3k000000000001")
    with pytest.raises(resnetd.NotFound):
        client.find_job("0f3m")


def test_an_id_stays_one_step_of_the_path(service: FakeService, client: resnetd.Client) -> None:
    with pytest.raises(resnetd.NotFound):
        client.cancel("x/../../datasets?a#b")
    assert service.requests[0].path == "/v1/jobs/x%2F..%2F..%2Fdatasets%3Fa%23b/cancel"


def test_progress_is_none_until_training_is_up(
    service: FakeService, client: resnetd.Client
) -> None:
    job_id = service.add_job()
    assert client.progress(job_id) is None
    service.progress(job_id, 120)
    progress = client.progress(job_id)
    assert progress is not None
    assert (progress.iteration, progress.iterations, progress.percent) == (120, 600, 20.0)
    assert progress.metrics["test/error"] == 12.0


def test_metrics_come_as_series(service: FakeService, client: resnetd.Client) -> None:
    series = client.metrics(service.add_job(), series="train/loss", points=50)
    assert series["train/loss"].iterations == (100, 200)
    assert series["train/loss"].values == (0.5, None)
    assert service.requests[-1].query == {"series": ["train/loss"], "points": ["50"]}


def test_metrics_come_as_csv(service: FakeService, client: resnetd.Client) -> None:
    assert client.metrics_csv(service.add_job()).startswith("series,iteration,value\n")


def test_events_and_logs_are_read_over_all_pages(
    service: FakeService, client: resnetd.Client
) -> None:
    job_id = service.add_job()
    service.move(job_id, "starting")
    service.progress(job_id, 1)
    service.move(job_id, "running")
    for message in ("one", "two", "three"):
        service.log(job_id, message)
    service.page_size = 2
    assert [event.number for event in client.events(job_id)] == [1, 2, 3]
    assert [event.number for event in client.events(job_id, after=2)] == [3]
    assert [line.message for line in client.logs(job_id)] == ["one", "two", "three"]


def test_attempts_checkpoints_datasets_recipes_and_cluster_are_read(
    service: FakeService, client: resnetd.Client
) -> None:
    job_id = service.add_job()
    assert [attempt.number for attempt in client.attempts(job_id)] == [1]
    (checkpoint,) = client.checkpoints(job_id)
    assert checkpoint.parts["weights"].size_bytes == 1_100_000
    assert [dataset.name for dataset in client.datasets()] == ["digits"]
    (recipe,) = client.recipes()
    assert recipe.fields["iterations"] == 600
    assert client.cluster().cpus == 8


def test_cancelling_again_after_a_lost_answer_is_told_as_it_is(
    service: FakeService, client: resnetd.Client
) -> None:
    job_id = service.add_job()
    assert client.cancel(job_id).state is resnetd.JobState.CANCELLED
    with pytest.raises(resnetd.Conflict):
        client.cancel(job_id)


def test_waiting_ends_with_the_job(service: FakeService, client: resnetd.Client) -> None:
    job_id = service.add_job()
    result = {"train_error": 0.1, "test_error": 2.2, "training_seconds": 40.1}
    service.move(job_id, "succeeded", "completed", result=result)
    job = client.wait(job_id)
    assert job.result is not None
    assert job.result.test_error == 2.2


@pytest.mark.parametrize(
    ("state", "reason", "error"),
    [
        ("failed", "diverged", resnetd.JobFailed),
        ("failed", "time-limit", resnetd.JobTimedOut),
        ("cancelled", "cancelled", resnetd.JobCancelled),
    ],
)
def test_waiting_for_a_job_that_ends_otherwise_raises(
    service: FakeService,
    client: resnetd.Client,
    state: str,
    reason: str,
    error: type[resnetd.JobNotSucceeded],
) -> None:
    job_id = service.add_job()
    service.move(job_id, state, reason)
    with pytest.raises(error, match=reason) as caught:
        client.wait(job_id)
    assert type(caught.value) is error
    assert client.wait(job_id, is_checked=False) == caught.value.job


def test_waiting_survives_a_service_that_is_away(
    service: FakeService, client: resnetd.Client
) -> None:
    job_id = service.add_job()
    service.move(job_id, "succeeded", "completed")
    service.be_unavailable(5 * QUICK.attempts)
    assert client.wait(job_id, poll_seconds=0.001).is_final


def test_waiting_ends_at_its_timeout(service: FakeService, client: resnetd.Client) -> None:
    job_id = service.add_job()
    began = time.monotonic()
    with pytest.raises(resnetd.NotFinished, match="still queued") as caught:
        client.wait(job_id, timeout_seconds=0.02)
    assert caught.value.job.id == job_id
    assert time.monotonic() - began < 1


def test_a_timeout_while_the_service_is_away_ends_the_waiting(
    service: FakeService, client: resnetd.Client
) -> None:
    service.stop()
    with pytest.raises(resnetd.CannotConnect):
        client.wait("0f3k000000000001", timeout_seconds=0.02, poll_seconds=0.001)


def test_a_page_that_is_not_of_resnetd_is_not_mistaken_for_an_answer(
    service: FakeService, client: resnetd.Client
) -> None:
    service.misbehaviour = [
        lambda handler: handler.send_bytes(b"<html>", "text/html", 200),
        lambda handler: handler.send_bytes(b"<html>", "text/html", 404),
    ]
    for _ in range(2):
        with pytest.raises(resnetd.UnexpectedAnswer, match="is a resnetd service there"):
            client.job("0f3k000000000001")


def test_an_answer_that_lacks_a_field_is_told_by_its_name(
    service: FakeService, client: resnetd.Client
) -> None:
    job_id = service.add_job()
    del service.jobs[job_id]["state"]
    with pytest.raises(resnetd.UnexpectedAnswer, match="no Job: state is missing"):
        client.job(job_id)


def test_a_redirect_is_not_followed_with_the_token(
    service: FakeService, client: resnetd.Client
) -> None:
    service.misbehaviour.append(
        lambda handler: handler.send({}, 302, Location="http://127.0.0.1:1/elsewhere")
    )
    with pytest.raises(resnetd.ApiError):
        client.job("0f3k000000000001")


def test_an_idempotency_key_is_plain_letters(client: resnetd.Client) -> None:
    with pytest.raises(ValueError, match="plain letters"):
        client.submit(depth=20, idempotency_key="a\nb")


def test_a_client_says_where_it_is_connected_to_and_no_more(service: FakeService) -> None:
    with resnetd.Client(service.url, TOKEN) as client:
        assert repr(client) == f"Client('{service.url}')"
