"""Predictions of exported networks, each by a process with a memory limit that stays warm."""

import asyncio
import json
import os
import sys
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Self

import structlog

from api import prediction_process
from api.prediction_process import LENGTH_BYTES
from service.errors import InvalidInput, Unavailable
from service.jobs.checkpoints import CheckpointFile
from service.storage.artifacts import ArtifactStore
from service.text import count_of

log = structlog.get_logger()

# Clients wait 30 s for a response.
DEADLINE_SECONDS = 20.0
IDLE_SECONDS = 300.0
MAX_PROCESSES = 2
# Further ones are refused: each waits for those before it.
MAX_WAITING = 16
_MODULE = prediction_process.__name__
# Of an answer, which has five classes.
_MAX_ANSWER_BYTES = 2**20
# What an installation may need to find its libraries; other variables may be secret.
_KEPT_VARIABLES = ("LD_LIBRARY_PATH", "PATH")
# The buffers that OpenBLAS allocates for each thread count against the memory limit.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

Prediction = dict[str, Any]
"""`label`, `class_name` and `probability` of a class."""


class Predictor:
    """Predicts one image at a time. A process that fails is stopped; the next image has a new one.

    Args:
        artifacts: has the networks.
        memory_bytes: of each process.
        deadline_seconds: of each prediction, after its wait for those before it.
        idle_seconds: a process that is not used for this time is stopped.
    """

    def __init__(
        self,
        artifacts: ArtifactStore,
        *,
        memory_bytes: int,
        deadline_seconds: float = DEADLINE_SECONDS,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self._artifacts = artifacts
        self._memory_bytes = memory_bytes
        self._deadline_seconds, self._idle_seconds = deadline_seconds, idle_seconds
        self._turn = asyncio.Lock()
        self._num_requests = 0
        # By the key of their network, the least recently used first.
        self._warm: OrderedDict[str, _NetworkProcess] = OrderedDict()

    async def predict(self, network: CheckpointFile, image: bytes) -> list[Prediction]:
        """The likeliest classes, highest first.

        InvalidInput where the bytes are no image that is accepted, Unavailable where the network
        cannot run.
        """
        if self._num_requests > MAX_WAITING:
            raise Unavailable("too many predictions wait already; try again later")
        self._num_requests += 1
        try:
            async with self._turn:
                answer = await self._ask(network, image)
        finally:
            self._num_requests -= 1
        if "refused" in answer:
            raise InvalidInput(answer["refused"])
        predictions: list[Prediction] = answer["predictions"]
        return predictions

    async def close(self) -> None:
        async with self._turn:
            for key in list(self._warm):
                await self._take(key).stop()

    async def _ask(self, network: CheckpointFile, image: bytes) -> dict[str, Any]:
        process = self._take(network.key) if network.key in self._warm else None
        is_done = False
        try:
            async with asyncio.timeout(self._deadline_seconds):
                if process is None or not process.is_running:
                    process = await _NetworkProcess.start(self._memory_bytes)
                    await process.ask(network.size_bytes, self._artifacts.stream(network.key))
                answer = await process.ask(len(image), _stream(image))
            is_done = True
        except TimeoutError as error:
            raise Unavailable(
                f"the prediction took longer than {self._deadline_seconds:g} s and was stopped"
            ) from error
        except (OSError, asyncio.IncompleteReadError) as error:
            log.warning("prediction process ended", network=network.key, error=repr(error))
            raise Unavailable("the process of the prediction ended before it was done") from error
        except _NetworkFailed as error:
            log.warning("prediction failed", network=network.key, error=str(error))
            raise Unavailable(f"the network cannot run here: {error}") from error
        finally:
            if is_done and process is not None:
                await self._keep(network.key, process)
            elif process is not None:
                await process.stop()
        return answer

    def _take(self, key: str) -> "_NetworkProcess":
        process = self._warm.pop(key)
        if process.expiry is not None:
            process.expiry.cancel()
        return process

    async def _keep(self, key: str, process: "_NetworkProcess") -> None:
        self._warm[key] = process
        process.expiry = asyncio.create_task(self._expire(key, process))
        while len(self._warm) > MAX_PROCESSES:
            await self._take(next(iter(self._warm))).stop()

    async def _expire(self, key: str, process: "_NetworkProcess") -> None:
        await asyncio.sleep(self._idle_seconds)
        del self._warm[key]
        await process.stop()


class _NetworkFailed(Exception):
    """The process answers that it cannot run the network; the message says why."""


class _NetworkProcess:
    """`expiry` stops it, unless it is used before."""

    expiry: asyncio.Task[None] | None = None

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._input, self._output = process.stdin, process.stdout

    @classmethod
    async def start(cls, memory_bytes: int) -> Self:
        kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-I", "-m", _MODULE, str(memory_bytes)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=kept | _ONE_THREAD,
        )
        return cls(process)

    @property
    def is_running(self) -> bool:
        return self._process.returncode is None

    async def ask(self, size_bytes: int, chunks: AsyncIterator[bytes]) -> dict[str, Any]:
        """The answer to a message. IncompleteReadError where the process ends without one."""
        # A process that fails need not read all of the message before it answers.
        with suppress(ConnectionError):
            self._input.write(size_bytes.to_bytes(LENGTH_BYTES))
            async for chunk in chunks:
                self._input.write(chunk)
                await self._input.drain()
        length = int.from_bytes(await self._output.readexactly(LENGTH_BYTES))
        if length > _MAX_ANSWER_BYTES:
            raise _NetworkFailed(f"its answer has {count_of(length, 'byte')}")
        answer: dict[str, Any] = json.loads(await self._output.readexactly(length))
        if "failed" in answer:
            raise _NetworkFailed(answer["failed"])
        return answer

    async def stop(self) -> None:
        with suppress(ProcessLookupError):
            self._process.kill()
        # Its transport is closed once both have ended.
        await self._output.read()
        await self._process.wait()


async def _stream(content: bytes) -> AsyncIterator[bytes]:
    yield content
