"""Writes pieces of an image to its file: whole chunks past the page cache where the file system can, the rest as usual.

A tape is written once and long, and seldom read soon. In the page cache it would push out what users read, and would
cost a page that has to be found, filled and written again for each 4 KiB. Neither way makes anything durable: only the
fsync of a flush does. Knows nothing of records.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

ALIGNMENT_BYTES = 4096
"""Offset, length and address of what goes past the page cache are multiples of it."""

IOV_MAX = 512


class ImageWriter:
    """Writes to the image that is open as `descriptor`, which stays its owner's."""

    def __init__(self, descriptor: int, path: Path) -> None:
        self._descriptor = descriptor
        self._direct = _open_direct(path)

    def write(self, pieces: Sequence[memoryview], offset: int) -> None:
        """Write the pieces one behind the other from `offset` on. Raises OSError."""
        usual: list[memoryview] = []
        behind = offset
        for piece in pieces:
            if self._may_go_direct(piece, behind):
                _write_vector(self._descriptor, usual, offset)
                usual = [] if self._write_direct(piece, behind) else [piece]
                offset = behind + len(piece) - sum(map(len, usual))
            else:
                usual.append(piece)
            behind += len(piece)
        _write_vector(self._descriptor, usual, offset)

    def close(self) -> None:
        if self._direct is not None:
            os.close(self._direct)
            self._direct = None

    def _may_go_direct(self, piece: memoryview, offset: int) -> bool:
        return self._direct is not None and len(piece) > 0 and not (offset | len(piece)) % ALIGNMENT_BYTES

    def _write_direct(self, piece: memoryview, offset: int) -> bool:
        """Whether it is written; if not, this file system takes nothing in this way, and is not asked again."""
        assert self._direct is not None
        try:
            written = os.pwrite(self._direct, piece, offset)
        except OSError as exc:
            if exc.errno != errno.EINVAL:
                raise
            self.close()
            return False
        # Less than asked for: the disk is full, or nearly. The usual way says which.
        _write_vector(self._descriptor, [piece[written:]], offset + written)
        return True


def _open_direct(path: Path) -> int | None:
    try:
        return os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
    except OSError as exc:
        if exc.errno != errno.EINVAL:
            raise
        return None


def _write_vector(descriptor: int, pieces: Sequence[memoryview], offset: int) -> None:
    left = [piece for piece in pieces if len(piece)]
    while left:
        written = os.pwritev(descriptor, left[:IOV_MAX], offset)
        offset += written
        while left and written >= len(left[0]):
            written -= len(left[0])
            del left[0]
        if left:
            left[0] = left[0][written:]
