"""Everything that the service refuses or cannot do, each with a code that stays stable.

ResnetdError
├── Refused                 the request cannot be carried out as it is
│   ├── InvalidInput            what was written is wrong; `faults` says where
│   │   └── CannotFit               the whole cluster is too small for it
│   ├── NotFound                no such job, attempt, checkpoint, dataset
│   ├── Unauthorized            no token, or one that nobody knows
│   ├── Forbidden               a token that does not open this door
│   └── Conflict                right in itself, wrong at this moment
│       ├── IllegalMove             the job's state does not allow it
│       ├── IdempotencyMismatch     the key was used for another body
│       ├── StaleAttempt            the attempt is not the job's current one any more
│       └── SequenceGap             a report arrived before its predecessor
├── AddressRefused          a webhook's name leads into a network that may not be called
├── CorruptArtifact         bytes differ from their checksum
├── DispatcherIsRunning     SQLite takes one at a time
├── LeaseLost               another dispatcher holds the attempt now
└── Unavailable             try again later
    ├── DatabaseUnavailable
    ├── ClusterUnavailable
    └── ApiUnavailable
"""

from dataclasses import dataclass
from typing import ClassVar


class ResnetdError(Exception):
    """Base of all errors raised on purpose."""

    code: ClassVar[str] = "internal"


class Refused(ResnetdError):
    """The request cannot be carried out as it is."""


@dataclass(frozen=True)
class FieldError:
    """One wrong place in what somebody wrote; `pointer` is a JSON pointer (RFC 6901)."""

    pointer: str
    message: str


class InvalidInput(Refused):
    code = "invalid-input"

    def __init__(self, message: str, *, faults: tuple[FieldError, ...] = ()) -> None:
        super().__init__(message)
        self.faults = faults


class CannotFit(InvalidInput):
    code = "cannot-fit"


class NotFound(Refused):
    code = "not-found"


class Unauthorized(Refused):
    code = "unauthorized"


class Forbidden(Refused):
    code = "forbidden"


class Conflict(Refused):
    code = "conflict"


class IllegalTransition(Conflict):
    code = "illegal-move"


class IdempotencyMismatch(Conflict):
    code = "idempotency-mismatch"


class StaleAttempt(Conflict):
    code = "stale-attempt"


class SequenceGap(Conflict):
    code = "sequence-gap"


class CorruptArtifact(ResnetdError):
    code = "corrupt-artifact"


class UrlNotAllowed(ResnetdError):
    code = "address-refused"


class DispatcherAlreadyRunning(ResnetdError):
    code = "dispatcher-is-running"


class LeaseLost(ResnetdError):
    code = "lease-lost"


class Unavailable(ResnetdError):
    code = "unavailable"


class DatabaseUnavailable(Unavailable):
    code = "database-unavailable"


class ClusterUnavailable(Unavailable):
    code = "cluster-unavailable"


class ApiUnavailable(Unavailable):
    code = "api-unavailable"
