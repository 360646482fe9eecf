"""The DBOS peer of bench-control: runs in its own virtual environment, prints JSON.

As in resnetd, a job is a committed row and survives a crash. DBOS polls its queue once a second by
default.
"""

import json
import sys
import time

from dbos import DBOS

JOBS = 500
IDLE_JOBS = 30

start_times: dict[int, float] = {}


@DBOS.workflow()  # type: ignore[untyped-decorator] # installed elsewhere
def record_start(number: int) -> None:
    start_times[number] = time.monotonic()


def main(url: str) -> None:
    DBOS(config={"name": "peer", "system_database_url": url, "log_level": "ERROR"})
    DBOS.launch()
    queue = DBOS.register_queue("notes")
    enqueued, first_started = [], time.monotonic()
    for number in range(JOBS):
        started_at = time.monotonic()
        queue.enqueue(record_start, number)
        enqueued.append(time.monotonic() - started_at)
    while len(start_times) < JOBS:
        time.sleep(0.001)
    rate = JOBS / (time.monotonic() - first_started)
    latency = []
    for number in range(JOBS, JOBS + IDLE_JOBS):
        started_at = time.monotonic()
        queue.enqueue(record_start, number)
        _wait_for_start(number)
        latency.append(start_times[number] - started_at)
    DBOS.destroy()
    print(json.dumps({"enqueued": enqueued, "per_second": rate, "latency": latency}))


def _wait_for_start(number: int) -> None:
    while number not in start_times:
        time.sleep(0.0005)


if __name__ == "__main__":
    main(sys.argv[1])
