"""`resnetd-api`: serves the API until it receives SIGTERM or SIGINT."""

import ctypes
import gc
import platform
import socket
import sys
from contextlib import closing

import structlog

from api.app import create_app, make_tracer
from api.graceful_server import GracefulServer
from service import log, settings
from service.access import signing_keys, tokens
from service.errors import ResnetdError, Unavailable
from service.settings import Settings
from service.storage import schema
from service.storage.artifacts import ArtifactStore
from service.storage.database import Database

logger = structlog.get_logger()

# glibc keeps what a thread has freed in the arena of that thread. By default there are eight arenas
# for each core, and the threads that serve requests fill all of them.
_M_ARENA_MAX = -8  # of malloc.h
_MAX_ARENAS = 2
# For uploads and downloads, which clients continue elsewhere. Docker kills after ten seconds.
_GRACE_SECONDS = 5


def main() -> int:
    try:
        configured = settings.load()
        log.configure(configured.log_format)
        limit_arenas()
        check_dependencies(configured)
        listener = listen(configured.api_host, configured.api_port)
    except ResnetdError as error:
        print(f"resnetd-api: {error}", file=sys.stderr)
        return 1
    port = listener.getsockname()[1]
    logger.info(
        "API started", host=configured.api_host, port=port, token_file=str(configured.token_file)
    )
    app = create_app(configured)
    # What lives as long as the process is not searched for garbage again and again.
    gc.freeze()
    GracefulServer(app, drain_seconds=configured.drain_seconds, grace_seconds=_GRACE_SECONDS).run(
        sockets=[listener]
    )
    return 0


def limit_arenas() -> None:
    """Lets freed memory be used by all threads. Has an effect on glibc only."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _MAX_ARENAS)


def check_dependencies(configured: Settings) -> None:
    """Before uvicorn starts, which would log an error of the lifespan with a traceback."""
    with closing(Database(configured.database_url.get_secret_value())) as database:
        schema.require_compatible(database)
    tokens.read_or_create(configured.token_file)
    signing_keys.read_or_create(configured.signing_key_file)
    ArtifactStore(configured.artifacts_url).check()
    if (tracer := make_tracer()) is not None:
        tracer.close()


def listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sets TCP_NODELAY only if the protocol is given; without it each response on a
    # kept-alive connection waits 40 ms for the acknowledgement of its headers.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        address = settings.format_address(host, port)
        raise Unavailable(f"cannot listen on {address}: {error.strerror}") from error
    listener.set_inheritable(True)
    return listener


if __name__ == "__main__":
    sys.exit(main())
