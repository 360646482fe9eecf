"""Files of secrets that a server process creates at its first start."""

import os
import tempfile
from contextlib import suppress
from pathlib import Path


def create_once(path: Path, content: str) -> None:
    """The file appears with its content, and only once where several processes create it.

    Only its owner can read it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}-") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(file.name, path)
