"""`AsyncClient`: the methods of `Client` in an event loop, over the real API."""

import inspect
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import anyio
import anyio.lowlevel
import httpx
import pytest

import resnetd
from resnetd.bridge import LEFT_OUT
from service.states import Reason
from tests.client.conftest import QUICK
from tests.client.service import Service, Training
from tests.support.api import TOKEN
from tools import async_stub


class Transport(httpx.AsyncBaseTransport):
    """Counts open responses; the first requests fail to connect."""

    def __init__(self) -> None:
        self.open = 0
        self.failures = 0
        self.requests: list[httpx.Request] = []
        self.changed = anyio.Event()
        self._http = httpx.AsyncHTTPTransport(verify=False)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if self.failures > 0:
            self.failures -= 1
            raise httpx.ConnectError("connection refused", request=request)
        response = await self._http.handle_async_request(request)
        assert isinstance(response.stream, httpx.AsyncByteStream)
        self.open += 1
        response.stream = _Counted(response.stream, self)
        self.changed.set()
        return response

    async def wait_until_open(self, number: int) -> None:
        with anyio.fail_after(10):
            while self.open != number:
                self.changed = anyio.Event()
                await self.changed.wait()

    async def aclose(self) -> None:
        await self._http.aclose()


class _Counted(httpx.AsyncByteStream):
    def __init__(self, stream: httpx.AsyncByteStream, transport: Transport) -> None:
        self._stream = stream
        self._transport = transport

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()
        self._transport.open -= 1
        self._transport.changed.set()


Experiment = Callable[[resnetd.AsyncClient, Transport], Awaitable[None]]
Drive = Callable[[Experiment], None]


@pytest.fixture
def drive(service: Service) -> Drive:
    async def run(experiment: Experiment) -> None:
        transport = Transport()
        async with resnetd.AsyncClient(
            service.url, TOKEN, retry=QUICK, transport=transport
        ) as client:
            await experiment(client, transport)
        assert transport.open == 0

    return lambda experiment: anyio.run(run, experiment)


def _finish(training: Training) -> None:
    training.progress(20, test_error=2.5)
    training.save(20, test_error=2.5)
    training.finish()


def test_a_job_is_submitted_followed_and_downloaded(service: Service, drive: Drive) -> None:
    async def experiment(client: resnetd.AsyncClient, transport: Transport) -> None:
        job: resnetd.Job = await client.submit(depth=8, shortcut="A", dataset="digits")
        assert [found.id async for found in client.jobs.list(state="queued")] == [job.id]
        kinds: list[resnetd.EventKind] = []
        async for event in client.jobs.watch(job.id):
            if not kinds:
                await anyio.to_thread.run_sync(lambda: _finish(service.run_next()))
            kinds.append(event.kind)
            assert transport.open == 1
        assert kinds[0] == "submitted"
        assert kinds[-1] == "state"
        ended = await client.jobs.wait(job.id)
        assert ended.result is not None
        assert ended.result.test_error == 2.5
        metrics = await client.jobs.metrics(job.id)
        assert metrics["test/error"].values == (2.5,)
        path: Path = await client.jobs.download(job.id, path="weights.safetensors")
        assert path.name == "weights.safetensors"
        assert (await client.whoami()).user == "admin"

    drive(experiment)


def test_errors_are_those_of_the_client(drive: Drive, service: Service) -> None:
    async def experiment(client: resnetd.AsyncClient, transport: Transport) -> None:
        del transport
        with pytest.raises(resnetd.NotFound):
            await client.jobs.get("0zzz")
        with pytest.raises(resnetd.EmptyId):
            client.jobs.events("")
        with pytest.raises(resnetd.NotFinished):
            await client.jobs.wait(service.submit(), timeout_seconds=0)
        with pytest.raises(resnetd.JobFailed):
            await client.jobs.wait(service.end(Reason.DIVERGED))

    drive(experiment)


def test_many_watches_share_one_thread_and_other_tasks_go_on(
    service: Service, drive: Drive
) -> None:
    async def experiment(client: resnetd.AsyncClient, transport: Transport) -> None:
        training = service.run()
        watching = 30
        ended: list[int] = []

        async def watch() -> None:
            ended.extend(
                [
                    threading.get_ident()
                    async for event in client.jobs.watch(training.job_id)
                    if event.is_final
                ]
            )

        async with anyio.create_task_group() as group:
            for _ in range(watching):
                group.start_soon(watch)
            await transport.wait_until_open(watching)
            _finish(training)
        assert ended == [threading.get_ident()] * watching

    drive(experiment)


def test_pauses_between_repetitions_are_awaited(service: Service, drive: Drive) -> None:
    async def experiment(client: resnetd.AsyncClient, transport: Transport) -> None:
        job_id = service.submit()
        transport.failures = 2
        assert (await client.jobs.get(job_id)).id == job_id
        assert len(transport.requests) == 3
        transport.failures = QUICK.attempts
        with pytest.raises(resnetd.CannotConnect):
            await client.jobs.get(job_id)

    drive(experiment)


def test_a_cancelled_task_ends_its_pause_and_its_stream(service: Service, drive: Drive) -> None:
    async def experiment(client: resnetd.AsyncClient, transport: Transport) -> None:
        job_id = service.submit()

        async def watch() -> None:
            async for _ in client.jobs.watch(job_id):
                pass

        async def wait() -> None:
            await client.jobs.wait(job_id, poll_seconds=3600)

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            group.start_soon(watch)
            await transport.wait_until_open(1)
            with anyio.fail_after(10):
                while not any(request.url.path.endswith(job_id) for request in transport.requests):
                    await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
        assert transport.open == 0

    drive(experiment)


def test_a_loop_that_is_left_closes_its_stream(service: Service, drive: Drive) -> None:
    async def experiment(client: resnetd.AsyncClient, transport: Transport) -> None:
        async for event in client.jobs.watch(service.submit()):
            assert event.number == 1
            assert transport.open == 1
            break
        await transport.wait_until_open(0)

    drive(experiment)


def test_a_closed_client_makes_no_request(service: Service) -> None:
    async def experiment() -> None:
        client = resnetd.AsyncClient(service.url, TOKEN)
        await client.close()
        with pytest.raises(RuntimeError, match="closed"):
            await client.cluster()

    anyio.run(experiment)


def test_a_record_shows_itself_outside_of_the_loop_without_a_request(
    service: Service, drive: Drive
) -> None:
    jobs: list[resnetd.Job] = []

    async def experiment(client: resnetd.AsyncClient, transport: Transport) -> None:
        del transport
        jobs.append(await client.jobs.get(service.end(Reason.COMPLETED)))
        assert "resnet-8-A" in jobs[0]._repr_html_()

    drive(experiment)
    assert "resnet-8-A" in jobs[0]._repr_html_()


def test_every_method_of_the_client_is_there_but_following_on_a_screen(service: Service) -> None:
    with resnetd.Client(service.url, TOKEN) as client:
        theirs = resnetd.AsyncClient(service.url, TOKEN)
        compared = {"": (client, theirs)} | {
            name: (resource, getattr(theirs, name))
            for name, resource in vars(client).items()
            if hasattr(resource, "PATH")
        }
        assert len(compared) > 10
        for ours, mirrored in compared.values():
            names = {
                name
                for name, _ in inspect.getmembers(ours, inspect.ismethod)
                if not name.startswith("_")
            }
            assert {name for name in names if not hasattr(mirrored, name)} <= LEFT_OUT
    assert not hasattr(theirs.jobs, "follow")


def test_the_types_are_current() -> None:
    assert async_stub.STUB.read_text() == async_stub.make_stub(), "run `make docs`"


def test_without_the_extra_it_says_how_to_install_it(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resnetd.async_client.find_spec", lambda _: None)
    with pytest.raises(ImportError, match=r"pip install 'resnetd\[async\]'"):
        resnetd.AsyncClient(service.url)
