"""Errors that the service raises on purpose, each with a stable code.

ResnetdError
├── Refused                     the request cannot be carried out as it is
│   ├── InvalidInput                the input is wrong; `field_errors` says where
│   │   ├── CannotFit                   the job needs more than the cluster has in total
│   │   └── UrlNotAllowed               a webhook's address is not public and not allowed
│   ├── NotFound                    no such job, attempt, checkpoint or dataset
│   ├── Unauthorized                the token is missing or unknown
│   ├── Forbidden                   the token does not permit this request
│   └── Conflict                    the request is valid, but not in the current state
│       ├── IllegalTransition           the state of the job or search does not allow it
│       ├── QuotaExceeded               a person or tag has as many jobs as its quota allows
│       ├── IdempotencyMismatch         the key was used with a different body
│       ├── StaleAttempt                the attempt has ended or was superseded
│       └── SequenceGap                 a report arrived before its predecessor
├── CorruptArtifact             the bytes do not match their checksum
├── DispatcherAlreadyRunning    SQLite allows one dispatcher at a time
├── LeaseLost                   another dispatcher now holds the attempt's lease
└── Unavailable                 a dependency does not respond; try again later
    ├── DatabaseUnavailable
    ├── ClusterUnavailable
    └── ApiUnavailable
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar


class ResnetdError(Exception):
    """Base of all errors raised on purpose."""

    code: ClassVar[str] = "internal"


class Refused(ResnetdError):
    """The request cannot be carried out as it is."""


class InputLocation(StrEnum):
    """The part of a request that a field is in."""

    BODY = "body"
    QUERY = "query"
    HEADER = "header"
    PATH = "path"
    COOKIE = "cookie"


@dataclass(frozen=True)
class FieldError:
    """What is wrong with one field; `pointer` is a JSON pointer (RFC 6901) into its location."""

    pointer: str
    message: str
    location: InputLocation = InputLocation.BODY


class InvalidInput(Refused):
    code = "invalid-input"

    def __init__(self, message: str, *, field_errors: tuple[FieldError, ...] = ()) -> None:
        super().__init__(message)
        self.field_errors = field_errors


def invalid_parameter(
    pointer: str, message: str, *, location: InputLocation = InputLocation.QUERY
) -> InvalidInput:
    """Of a request, one parameter of which is wrong."""
    field_error = FieldError(pointer=pointer, message=message, location=location)
    return InvalidInput("the request is not valid", field_errors=(field_error,))


class CannotFit(InvalidInput):
    code = "cannot-fit"


class UrlNotAllowed(InvalidInput):
    code = "url-not-allowed"


class NotFound(Refused):
    code = "not-found"


class Unauthorized(Refused):
    code = "unauthorized"


class Forbidden(Refused):
    code = "forbidden"


class Conflict(Refused):
    code = "conflict"


class IllegalTransition(Conflict):
    code = "illegal-transition"


class QuotaExceeded(Conflict):
    code = "quota-exceeded"


class IdempotencyMismatch(Conflict):
    code = "idempotency-mismatch"


class StaleAttempt(Conflict):
    code = "stale-attempt"


class SequenceGap(Conflict):
    code = "sequence-gap"


class CorruptArtifact(ResnetdError):
    code = "corrupt-artifact"


class DispatcherAlreadyRunning(ResnetdError):
    code = "dispatcher-already-running"


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


class ErrorCollector:
    """Collects what several independent checks refuse, so that one response names all of it."""

    def __init__(self) -> None:
        self._found: list[InvalidInput] = []

    @contextmanager
    def collect(self) -> Iterator[None]:
        try:
            yield
        except InvalidInput as error:
            self._found.append(error)

    def raise_collected(self) -> None:
        """InvalidInput with all field errors, or its subclass where there is only one error."""
        if not self._found:
            return
        if len(self._found) == 1:
            raise self._found[0]
        field_errors = tuple(field for error in self._found for field in error.field_errors)
        message = "; ".join(dict.fromkeys(map(str, self._found)))
        raise InvalidInput(message, field_errors=field_errors)


def _list_subclasses(error: type[ResnetdError]) -> list[type[ResnetdError]]:
    return [error, *(sub for child in error.__subclasses__() for sub in _list_subclasses(child))]


BY_CODE = {error.code: error for error in _list_subclasses(ResnetdError) if "code" in vars(error)}
