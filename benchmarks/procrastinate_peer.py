"""procrastinate on the same PostgreSQL; runs in a virtual environment of its own, prints JSON.

What it shares with ours: a job is a committed row, a worker is woken by NOTIFY and takes it. What
it leaves out: HTTP, validation, resources, leases.
"""

import asyncio
import json
import sys
import time

import procrastinate

JOBS = 500
IDLE_JOBS = 100

started: dict[int, float] = {}


async def main(url: str) -> None:
    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=url))

    @app.task(name="note")  # type: ignore[untyped-decorator] # another environment's
    async def note(number: int) -> None:
        started[number] = time.monotonic()

    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        enqueued = []
        for number in range(JOBS):
            began = time.monotonic()
            await note.defer_async(number=number)
            enqueued.append(time.monotonic() - began)
        began = time.monotonic()
        await app.run_worker_async(wait=False, concurrency=1, install_signal_handlers=False)
        rate = JOBS / (time.monotonic() - began)
        worker = asyncio.create_task(
            app.run_worker_async(concurrency=1, install_signal_handlers=False)
        )
        latency = []
        # The first tells that the worker listens.
        for number in range(JOBS, JOBS + IDLE_JOBS + 1):
            began = time.monotonic()
            await note.defer_async(number=number)
            while number not in started:  # noqa: ASYNC110 - the task runs in this loop
                await asyncio.sleep(0.0005)
            latency.append(started[number] - began)
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)
    print(json.dumps({"enqueued": enqueued, "per_second": rate, "latency": latency[1:]}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
