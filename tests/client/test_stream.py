"""Following a job over connections that break."""

import threading
from collections.abc import Iterator

import pytest

import resnetd
from tests.client.conftest import QUICK
from tests.client.fake_service import TOKEN, FakeService


def test_a_followed_job_tells_each_event_once_and_ends_with_the_final_one(
    service: FakeService, client: resnetd.Client
) -> None:
    job_id = service.add_job()
    service.move(job_id, "starting")
    service.move(job_id, "running")
    service.move(job_id, "succeeded", "completed")
    told = list(client.follow(job_id))
    assert [event.number for event in told] == [1, 2, 3, 4]
    assert told[-1].makes_final


def test_events_arrive_while_the_job_runs(service: FakeService, client: resnetd.Client) -> None:
    job_id = service.add_job()
    stream = client.follow(job_id)
    assert next(stream).kind == resnetd.EventKind.SUBMITTED
    service.progress(job_id, 120)
    told = next(stream)
    assert told.kind == resnetd.EventKind.PROGRESS
    assert told.number is None
    assert told.data["iteration"] == 120
    service.move(job_id, "cancelled", "cancelled")
    assert [event.number for event in stream] == [2]


def test_a_stream_that_breaks_in_the_middle_of_an_event_goes_on_without_loss_or_doubling(
    service: FakeService, client: resnetd.Client
) -> None:
    job_id = service.add_job()
    for _ in range(3):
        service.move(job_id, "starting")
        service.move(job_id, "queued", "worker-died")
    service.move(job_id, "succeeded", "completed")
    service.breaks_streams_after = [0, 1, 2]
    assert [event.number for event in client.follow(job_id)] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_stream_survives_a_restart_of_the_service(
    service: FakeService, client: resnetd.Client
) -> None:
    job_id = service.add_job()
    stream = client.follow(job_id)
    assert next(stream).number == 1
    service.move(job_id, "starting")
    assert next(stream).number == 2
    service.stop()
    service.move(job_id, "running")  # a training process goes on while the API is away
    service.start()
    assert next(stream).number == 3
    service.move(job_id, "succeeded", "completed")
    assert [event.number for event in stream] == [4]
    reopened = [one for one in service.requests if "event-stream" in one.headers["accept"]]
    assert reopened[-1].headers["last-event-id"] in {"2", "3"}


def test_a_stream_waits_for_a_service_that_is_away_longer_than_a_call_would(
    service: FakeService, client: resnetd.Client
) -> None:
    job_id = service.add_job()
    service.breaks_streams_after = [1]
    stream = client.follow(job_id)
    assert next(stream).number == 1
    service.be_unavailable(10 * QUICK.attempts)
    service.move(job_id, "succeeded", "completed")
    assert [event.number for event in stream] == [2]
    assert service.misbehaviour == []


def test_a_service_that_tells_an_event_again_is_heard_once(
    service: FakeService, client: resnetd.Client
) -> None:
    job_id = service.add_job()
    service.forgets_last_event_id = True
    service.breaks_streams_after = [1]
    stream = client.follow(job_id)
    assert next(stream).number == 1
    service.move(job_id, "starting")
    assert next(stream).number == 2
    service.move(job_id, "cancelled", "cancelled")
    assert [event.number for event in stream] == [3]


def test_a_stream_gives_up_when_nothing_is_heard_for_its_patience(service: FakeService) -> None:
    impatient = resnetd.Retry(attempts=1, first_delay_seconds=0.001, patience_seconds=0.0)
    job_id = service.add_job()
    with resnetd.Client(service.url, TOKEN, retry=impatient) as client:
        stream = client.follow(job_id)
        assert next(stream).number == 1
        service.stop()
        with pytest.raises(resnetd.CannotConnect, match=service.url):
            next(stream)


def test_where_no_stream_passes_the_events_are_read_plainly(
    service: FakeService, client: resnetd.Client
) -> None:
    service.has_streams = False
    job_id = service.add_job()
    stream = client.follow(job_id)
    assert next(stream).number == 1
    service.move(job_id, "failed", "diverged")
    assert [event.number for event in stream] == [2]


def test_a_job_that_is_final_already_has_nothing_more_to_tell(
    service: FakeService, client: resnetd.Client
) -> None:
    job_id = service.add_job()
    service.move(job_id, "succeeded", "completed")
    assert list(client.follow(job_id, after=2)) == []


def test_a_final_state_that_only_a_newer_service_knows_ends_the_stream(
    service: FakeService, client: resnetd.Client
) -> None:
    service.has_streams = False
    job_id = service.add_job()
    service.move(job_id, "archived", finished_at="2026-11-21T12:10:00Z")
    told = list(client.follow(job_id))
    assert told[-1].data["to"] == "archived"
    assert not told[-1].makes_final


def test_following_an_unknown_job_is_refused(client: resnetd.Client) -> None:
    with pytest.raises(resnetd.NotFound):
        next(client.follow("0f3k000000000009"))


def test_followed_logs_end_with_the_job_and_lose_no_last_line(
    service: FakeService, client: resnetd.Client
) -> None:
    job_id = service.add_job()
    service.log(job_id, "first")
    service.page_size = 1
    lines = client.follow_logs(job_id, poll_seconds=0.001)
    assert next(lines).message == "first"
    service.break_next_answers(7)
    service.log(job_id, "second")
    service.log(job_id, "last")
    service.move(job_id, "succeeded", "completed")
    assert [line.message for line in lines] == ["second", "last"]


def test_several_threads_follow_over_one_client(
    service: FakeService, client: resnetd.Client
) -> None:
    ids = [service.add_job(f"0f3k00000000000{number}") for number in range(4)]
    told: dict[str, list[int | None]] = {}

    def listen(job_id: str) -> None:
        told[job_id] = [event.number for event in client.follow(job_id)]

    threads = [threading.Thread(target=listen, args=(job_id,)) for job_id in ids]
    for thread in threads:
        thread.start()
    for job_id in ids:
        service.move(job_id, "succeeded", "completed")
    for thread in threads:
        thread.join()
    assert told == {job_id: [1, 2] for job_id in ids}


def test_a_stream_that_is_left_is_closed(service: FakeService, client: resnetd.Client) -> None:
    stream: Iterator[resnetd.Event] = client.follow(service.add_job())
    next(stream)
    del stream
    assert client.job("0f3k000000000001").state == resnetd.JobState.QUEUED
