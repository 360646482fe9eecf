"""The process that serves the API."""

import asyncio
import socket

import pytest

from api.__main__ import listen
from service.errors import Unavailable


def test_a_response_does_not_wait_for_the_acknowledgement_of_its_headers() -> None:
    """Else each response on a kept-alive connection takes 40 ms."""

    async def has_no_delay(listener: socket.socket) -> int:
        accepted: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            found = writer.get_extra_info("socket")
            accepted.set_result(found.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()
            await writer.wait_closed()

        async with await asyncio.start_server(accept, sock=listener):
            _, writer = await asyncio.open_connection(*listener.getsockname()[:2])
            has_no_delay_set = await accepted
            writer.close()
            await writer.wait_closed()
            return has_no_delay_set

    with listen("127.0.0.1", 0) as listener:
        assert asyncio.run(has_no_delay(listener))


def test_a_port_in_use_is_named() -> None:
    with listen("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(Unavailable, match=f"cannot listen on 127.0.0.1:{port}"):
            listen("127.0.0.1", port)
