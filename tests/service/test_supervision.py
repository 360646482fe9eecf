"""Supervised threads continue after any exception."""

import threading

import pytest

from service.errors import DatabaseUnavailable
from service.supervision import start_supervised


@pytest.mark.parametrize("error", [ZeroDivisionError(), DatabaseUnavailable("down")])
def test_an_exception_does_not_end_the_thread(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.supervision._MIN_DELAY_SECONDS", 0.001)
    stopping = threading.Event()
    calls: list[int] = []

    def step() -> None:
        calls.append(len(calls))
        if len(calls) < 4:
            raise error
        stopping.set()

    start_supervised(step, name="test", stopping=stopping).join(timeout=10.0)
    assert calls == [0, 1, 2, 3]


def test_a_thread_that_waits_to_continue_stops_at_once() -> None:
    stopping = threading.Event()

    def step() -> None:
        stopping.set()
        raise ZeroDivisionError

    thread = start_supervised(step, name="test", stopping=stopping)
    thread.join(timeout=10.0)
    assert not thread.is_alive()
