"""The procrastinate peer of bench-control: runs in its own virtual environment, prints JSON.

As in resnetd, a job is a committed row, and NOTIFY wakes a worker. It has no HTTP, validation,
resources or leases.
"""

import asyncio
import json
import sys
import time

import procrastinate

JOBS = 500
IDLE_JOBS = 100

start_times: dict[int, float] = {}


async def main(url: str) -> None:
    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=url))

    @app.task(name="record_start")  # type: ignore[untyped-decorator] # installed elsewhere
    async def record_start(number: int) -> None:
        start_times[number] = time.monotonic()

    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        enqueued = []
        for number in range(JOBS):
            started = time.monotonic()
            await record_start.defer_async(number=number)
            enqueued.append(time.monotonic() - started)
        started = time.monotonic()
        await app.run_worker_async(wait=False, concurrency=1, install_signal_handlers=False)
        rate = JOBS / (time.monotonic() - started)
        worker = asyncio.create_task(
            app.run_worker_async(concurrency=1, install_signal_handlers=False)
        )
        latency = []
        # The first is not measured: the worker may not listen yet.
        for number in range(JOBS, JOBS + IDLE_JOBS + 1):
            started = time.monotonic()
            await record_start.defer_async(number=number)
            while number not in start_times:  # noqa: ASYNC110 - the task runs in this loop
                await asyncio.sleep(0.0005)
            latency.append(start_times[number] - started)
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)
    print(json.dumps({"enqueued": enqueued, "per_second": rate, "latency": latency[1:]}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
