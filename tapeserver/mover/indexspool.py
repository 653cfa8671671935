"""An index on its way to the tape: its pieces, kept in an unnamed temporary file until the last one is there.

Only the bytes; what is written around them on tape is `archive`'s matter.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import IO

from catalog.errors import CapstanError
from tapeserver.frames import IndexPart

INDEX_BYTES_MAX = 4 * 1024**3
"""An index of 30,000,000 files fits; what is longer is refused."""


class IndexRefused(CapstanError):
    """The index cannot be kept until it is written: {why}."""

    code = "index_refused"


class IndexSpool:
    """Filled by one thread, then read by another."""

    def __init__(self) -> None:
        self.name = ""
        self.size = 0
        self.error: IndexRefused | None = None
        self._file: IO[bytes] | None = None

    def add(self, part: IndexPart) -> None:
        """Keep a piece. Raises nothing: what goes wrong is in `error`, and the other pieces are passed over."""
        if self.error is not None:
            return
        if self.size + len(part.data) > INDEX_BYTES_MAX:
            self.error = IndexRefused(why=f"it has more than {INDEX_BYTES_MAX} bytes")
            return
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="capstan-index-")  # noqa: SIM115
            self._file.write(part.data)
        except OSError as exc:
            self.error = IndexRefused(why=str(exc))
        self.name = part.name
        self.size += len(part.data)

    def pieces(self, piece_bytes: int) -> Iterator[bytes]:
        """Its bytes from the beginning, in pieces of this length; the last one is what is left. Raises OSError."""
        if self._file is None:
            return
        self._file.seek(0)
        while piece := self._file.read(piece_bytes):
            yield piece

    def close(self) -> None:
        """Forget it."""
        if self._file is not None:
            self._file.close()
