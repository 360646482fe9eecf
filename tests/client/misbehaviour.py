"""What the fake service can be told to do to its next requests, one each."""

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.client.fake_service import Handler

WEIGHTS = bytes(range(256)) * 1024


def answer_unavailable(handler: "Handler") -> None:
    handler.refuse(503, "database-unavailable", "the database is away")


def carry_out_and_break(handler: "Handler") -> None:
    whole = handler.wfile
    handler.wfile = _Nowhere()  # type: ignore[assignment]
    handler.answer()
    handler.wfile = whole
    handler._break()


class _Nowhere:
    def write(self, content: bytes) -> int:
        return len(content)

    def flush(self) -> None:
        pass


def break_weights_in_the_middle(handler: "Handler") -> None:
    handler.send_response(200)
    handler.send_header("ETag", f'"{hashlib.sha256(WEIGHTS).hexdigest()}"')
    handler.send_header("Content-Length", str(len(WEIGHTS)))
    handler.end_headers()
    handler.wfile.write(WEIGHTS[:1000])
    handler._break()
