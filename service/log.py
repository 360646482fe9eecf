"""Structured logs of the server processes: events with fields, as text or JSON lines."""

import logging
import sys
from contextlib import AbstractContextManager

import structlog

# In each line of this process, from all its threads.
_process_ids: dict[str, str] = {}
# At INFO httpx has a line for each request; uvicorn says when it starts and stops.
LIBRARY_LEVELS = {"httpx": logging.WARNING, "uvicorn.error": logging.INFO}


def configure(log_format: str = "console", **ids: str) -> None:
    """Log to standard error from INFO up, in the format `console` or `json`.

    So do libraries, which use Python's own logging. `ids`: of what this process works on; each line
    has them. A traceback has no local variables: they include the tokens of callers.
    """
    _process_ids.clear()
    _process_ids.update(ids)
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    )
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        _add_process_ids,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.ExceptionRenderer(
            structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        )
        if log_format == "json"
        else structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[*processors, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        # A line is one write: those of libraries come from another lock.
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )
    _route_libraries(processors, renderer)


def ids_of_attempt(attempt_id: str) -> dict[str, str]:
    """The fields by which lines about an attempt are found."""
    return {"job_id": attempt_id.rpartition("-a")[0], "attempt_id": attempt_id}


def about_attempt(attempt_id: str) -> AbstractContextManager[None]:
    """Lines of this thread within the context have the ids of the attempt."""
    return structlog.contextvars.bound_contextvars(**ids_of_attempt(attempt_id))


def _add_process_ids(
    _logger: structlog.typing.WrappedLogger, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    return {**event, **_process_ids}


def _route_libraries(
    processors: list[structlog.typing.Processor], renderer: structlog.typing.Processor
) -> None:
    """Gives lines of Python's own logging, from WARNING up, the same fields and format."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *processors],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    for name, level in LIBRARY_LEVELS.items():
        logging.getLogger(name).setLevel(level)
