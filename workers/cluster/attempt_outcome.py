"""How an attempt can end, for those who must know it without torch."""

from enum import StrEnum

from service.states import Reason


class AttemptOutcome(StrEnum):
    FINISHED = "finished"
    FENCED = "fenced"  # the API has refused the attempt: nobody is to be told anything
    UNDELIVERED = "undelivered"


class AttemptFailed(Exception):
    """Why a rank could not go on. It travels from the rank's process to the runner's."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(reason, message)
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        return f"[{self.reason}] {self.message}"
