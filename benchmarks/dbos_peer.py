"""DBOS on the same PostgreSQL; runs in a virtual environment of its own, prints JSON.

What it shares with ours: a job is a committed row, and it is found again after a crash. Its queue
is polled once a second, which is its default.
"""

import json
import sys
import time

from dbos import DBOS

JOBS = 500
IDLE_JOBS = 30

started: dict[int, float] = {}


@DBOS.workflow()  # type: ignore[untyped-decorator] # another environment's
def note(number: int) -> None:
    started[number] = time.monotonic()


def main(url: str) -> None:
    DBOS(config={"name": "peer", "system_database_url": url, "log_level": "ERROR"})
    DBOS.launch()
    queue = DBOS.register_queue("notes")
    enqueued, began = [], time.monotonic()
    for number in range(JOBS):
        at = time.monotonic()
        queue.enqueue(note, number)
        enqueued.append(time.monotonic() - at)
    while len(started) < JOBS:
        time.sleep(0.001)
    rate = JOBS / (time.monotonic() - began)
    latency = []
    for number in range(JOBS, JOBS + IDLE_JOBS):
        at = time.monotonic()
        queue.enqueue(note, number)
        _wait(number)
        latency.append(started[number] - at)
    DBOS.destroy()
    print(json.dumps({"enqueued": enqueued, "per_second": rate, "latency": latency}))


def _wait(number: int) -> None:
    while number not in started:
        time.sleep(0.0005)


if __name__ == "__main__":
    main(sys.argv[1])
