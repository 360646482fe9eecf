"""What requests leave for a thread to write, so that they do not wait for it."""

import threading
from abc import ABC, abstractmethod

from service.supervision import start_supervised


class BackgroundWriter(ABC):
    """A thread that calls `write` when there is something new."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._has_new = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = start_supervised(self._step, name=self._name, stopping=self._stopping)

    def close(self) -> None:
        """What has not been written is lost."""
        self._stopping.set()
        self._has_new.set()
        if self._thread is not None:
            self._thread.join()

    @abstractmethod
    def write(self) -> None:
        """Writes what is new; nothing may be."""

    def _step(self) -> None:
        self._has_new.wait()
        self._has_new.clear()
        self.write()
