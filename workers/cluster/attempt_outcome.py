"""How an attempt can end. Imports no torch: the runner's first process reads it."""

from enum import StrEnum

from service.states import Reason


class AttemptOutcome(StrEnum):
    FINISHED = "finished"
    FENCED = "fenced"  # the API rejects the attempt and needs no further report
    UNDELIVERED = "undelivered"


class AttemptFailed(Exception):
    """Why a rank failed. It is pickled on its way from the rank's process to the runner's."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(reason, message)
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        return f"[{self.reason}] {self.message}"
