"""Processes that predict: limits of memory and time, and when they end."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import psutil
import pytest

from api import predictor
from api.predictor import Predictor
from service.errors import InvalidInput, Unavailable
from service.jobs.checkpoints import CheckpointFile
from service.storage.artifacts import ArtifactStore
from tests.support.onnx_networks import make_color_network, make_picture

REDDISH = make_picture(200, 100, 0)
# What Python, onnxruntime and a small network take is a third of it.
MEMORY_BYTES = 2**28


class Networks:
    """Artifacts with networks, and predictors over them that are closed after each use."""

    def __init__(self, path: Path) -> None:
        self.artifacts = ArtifactStore(path.as_uri())
        # The API that other tests share keeps its own warm.
        self._others = list_processes()

    async def store(self, key: str, content: bytes) -> CheckpointFile:
        async def stream() -> AsyncIterator[bytes]:
            yield content

        sha256 = hashlib.sha256(content).hexdigest()
        stored = await self.artifacts.write(key, stream(), sha256=sha256, max_bytes=2**20)
        return CheckpointFile(key, stored.sha256, stored.size_bytes)

    def count_processes(self) -> int:
        return len(list_processes() - self._others)

    def run(self, use: Callable[[Predictor], Coroutine[Any, Any, None]], **options: Any) -> None:
        async def run() -> None:
            found = Predictor(self.artifacts, memory_bytes=MEMORY_BYTES, **options)
            await use(found)
            await found.close()
            assert self.count_processes() == 0

        asyncio.run(run())


@pytest.fixture
def networks(tmp_path: Path) -> Networks:
    return Networks(tmp_path)


def list_processes() -> set[int]:
    """The ids of all processes that predict for this one."""
    found = set()
    for process in psutil.Process().children():
        try:
            if predictor._MODULE in process.cmdline():
                found.add(process.pid)
        except psutil.Error:  # it has just ended
            continue
    return found


def test_what_needs_more_memory_than_the_limit_fails_and_the_next_is_predicted(
    networks: Networks,
) -> None:
    async def use(predictor: Predictor) -> None:
        network = await networks.store("colors", make_color_network())
        large = make_picture(200, 100, 0, size=(5000, 4000), format="BMP")
        with pytest.raises(Unavailable, match=r"more than 268,435,456 bytes of memory"):
            await predictor.predict(network, large)
        found = await predictor.predict(network, REDDISH)
        assert [row["class_name"] for row in found] == ["red", "green", "blue"]

    networks.run(use)


def test_a_process_that_hangs_is_stopped_at_the_deadline(
    networks: Networks, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def use(predictor: Predictor) -> None:
        network = await networks.store("colors", make_color_network())
        await predictor.predict(network, REDDISH)
        (process,) = predictor._warm.values()
        psutil.Process(process._process.pid).suspend()
        monkeypatch.setattr(predictor, "_deadline_seconds", 0.05)
        with pytest.raises(Unavailable, match=r"longer than 0.05 s and was stopped"):
            await predictor.predict(network, REDDISH)
        assert networks.count_processes() == 0
        monkeypatch.setattr(predictor, "_deadline_seconds", 20.0)
        assert await predictor.predict(network, REDDISH)

    networks.run(use)


def test_a_process_stays_for_the_next_image_and_ends_when_idle(networks: Networks) -> None:
    async def use(predictor: Predictor) -> None:
        network = await networks.store("colors", make_color_network())
        await predictor.predict(network, REDDISH)
        (first,) = predictor._warm.values()
        with pytest.raises(InvalidInput):
            await predictor.predict(network, b"no image")
        assert list(predictor._warm.values()) == [first]
        predictor._idle_seconds = 0.0
        await predictor.predict(network, REDDISH)
        assert first.expiry is not None
        await first.expiry
        assert predictor._warm == {}
        assert networks.count_processes() == 0

    networks.run(use)


def test_a_process_that_died_while_idle_is_replaced(networks: Networks) -> None:
    async def use(predictor: Predictor) -> None:
        network = await networks.store("colors", make_color_network())
        await predictor.predict(network, REDDISH)
        (first,) = predictor._warm.values()
        first._process.kill()
        await first._process.wait()
        assert await predictor.predict(network, REDDISH)

    networks.run(use)


def test_the_network_that_was_used_longest_ago_makes_room(
    networks: Networks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictor, "MAX_PROCESSES", 1)

    async def use(predictor: Predictor) -> None:
        for key in ("a", "b"):
            network = await networks.store(key, make_color_network())
            await predictor.predict(network, REDDISH)
        assert list(predictor._warm) == ["b"]
        assert networks.count_processes() == 1

    networks.run(use)


def test_more_predictions_than_may_wait_are_refused(
    networks: Networks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictor, "MAX_WAITING", 1)

    async def use(predictor: Predictor) -> None:
        network = await networks.store("colors", make_color_network())
        asked = [predictor.predict(network, REDDISH) for _ in range(3)]
        first, second, third = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(first, list)
        assert second == first
        assert isinstance(third, Unavailable)

    networks.run(use)


def test_a_process_gets_no_secrets(networks: Networks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESNETD_DATABASE_URL", "postgresql://resnetd:secret@db/resnetd")

    async def use(predictor: Predictor) -> None:
        network = await networks.store("colors", make_color_network())
        await predictor.predict(network, REDDISH)
        (process,) = predictor._warm.values()
        environment = psutil.Process(process._process.pid).environ()
        assert not any(name.startswith("RESNETD_") for name in environment)

    networks.run(use)
